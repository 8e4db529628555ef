"""What slowapi's own middleware, handlers and tests reach for: a blocking strategy and storage over our stores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from limits import RateLimitItem
from limits.strategies import RateLimiter as LimitsStrategy
from limits.util import WindowStats

from smriti_scale.ratelimit.engine import Engine
from smriti_scale.ratelimit.rules import MICROSECONDS, Check, Decision, Strategy, identity_key, make_rule, rule_of_field


class BlockingStorage:
    """`limiter._storage` as slowapi code expects it."""

    def __init__(self, engine: Engine, reset: Callable[[], Any]) -> None:
        self._engine = engine
        self.reset = reset

    def check(self) -> bool:
        """Whether the store answers."""
        redis = self._engine.redis
        return redis is None or bool(self._engine.run_blocking(redis.check))

    def get(self, key: str) -> int:
        """How often a `limits` key was hit, refusals included. Fixed windows in memory only.

        Raises:
            NotImplementedError: counters are in Redis; use `await limiter.peek(identity)`.
        """
        if self._engine.redis is not None:
            raise NotImplementedError("counters are in Redis: use `await limiter.peek(identity)`")
        for identity, field, state in self._engine.memory.counted():
            found = rule_of_field(field)
            if found and found[0].strategy == "fixed-window" and found[0].item.key_for(identity, found[1]) == key:
                return int(state[0] + state[2])
        return 0


class BlockingStrategy(LimitsStrategy):
    """`limiter.limiter`: hit and test from synchronous code, on the same counters."""

    def __init__(self, engine: Engine, storage: BlockingStorage, strategy: Strategy) -> None:
        self.storage = storage  # type: ignore[assignment]  # the part of Storage that slowapi uses
        self._engine = engine
        self._strategy = strategy

    def hit(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        return self._decide(item, identifiers, cost).allowed

    def test(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        return self._decide(item, identifiers, 0).outcomes[0].remaining >= cost

    def get_window_stats(self, item: RateLimitItem, *identifiers: str) -> WindowStats:
        outcome = self._decide(item, identifiers, 0).outcomes[0]
        return WindowStats(outcome.reset_at / MICROSECONDS, outcome.remaining)

    def clear(self, item: RateLimitItem, *identifiers: str) -> None:
        """Forget the caller (the last identifier but one), with all its limits."""
        identity = identity_key(identifiers[-2] if len(identifiers) > 1 else identifiers[0])
        if self._engine.redis is None:
            self._engine.memory.reset(identity)
        else:
            self._engine.run_blocking(self._engine.forget, identity)

    def _decide(self, item: RateLimitItem, identifiers: tuple[str, ...], cost: int) -> Decision:
        *_, identity, scope = ("", *identifiers) if len(identifiers) > 1 else (*identifiers, "")
        rule = make_rule(item, self._strategy)
        check = Check(rule, identity_key(identity), f"{rule.key} {scope}", cost, False, None, identifiers)
        return self._engine.decide_blocking((check,), None)
