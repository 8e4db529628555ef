"""Making checks and stores for tests."""

from __future__ import annotations

from typing import Any

from smriti_scale.ratelimit.memory_store import MemoryStore
from smriti_scale.ratelimit.redis_store import RedisStore
from smriti_scale.ratelimit.rules import Check, Decision, Strategy, parse_limits
from smriti_scale.redis_link import RedisLink

STRATEGIES: tuple[Strategy, ...] = ("fixed-window", "sliding-window-counter", "moving-window", "gcra")


def check(
    limit: str,
    strategy: Strategy = "fixed-window",
    *,
    who: str = "someone",
    scope: str = "/x",
    cost: int = 1,
    shadow: bool = False,
    burst: int | None = None,
) -> Check:
    (rule,) = parse_limits(limit, strategy, burst)
    return Check(rule, who, f"{rule.key} {scope}", cost, shadow, None, (who, scope))


def redis_store(url: str, prefix: str, **options: Any) -> RedisStore:
    return RedisStore(RedisLink(url), prefix=prefix, timeout=5.0, **options)


class Store:
    """Either store, behind one face."""

    def __init__(self, store: MemoryStore | RedisStore) -> None:
        self.store = store

    async def decide(self, *checks: Check, **options: Any) -> Decision:
        if isinstance(self.store, MemoryStore):
            return self.store.decide(checks, **options)
        return await self.store.decide(checks, **options)

    async def hits(self, one: Check, times: int) -> list[bool]:
        return [(await self.decide(one)).allowed for _ in range(times)]

    async def remaining(self, one: Check) -> int:
        return (await self.decide(one._replace(cost=0))).outcomes[0].remaining
