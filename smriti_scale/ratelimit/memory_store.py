"""Counters in this process's memory: the same algorithms and answers as in Redis, without a round trip."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from smriti_scale.clock import Clock
from smriti_scale.ratelimit.algorithms import ALGORITHMS, State
from smriti_scale.ratelimit.checked import Checked, Meter
from smriti_scale.ratelimit.rules import (
    MICROSECONDS,
    BanPolicy,
    Check,
    Decision,
    LimitStatus,
    Outcome,
    Source,
    new_tuple,
    rule_of_field,
    status_of,
)


class _Caller:
    """All that is counted for one caller."""

    __slots__ = ("banned_until", "ends", "refused", "states")

    def __init__(self) -> None:
        self.states: dict[str, State] = {}
        self.ends = 0
        self.refused = [0, 0]
        self.banned_until = 0


class MemoryStore:
    """Counts in a dictionary, bounded in size.

    Safe to use from threads: sync routes run in a pool.

    Args:
        max_callers: callers remembered at once. When more arrive, those whose limits are over go first, then the
            longest known.
        clock: the source of time; `time.time`, looked up at each call, unless given.
    """

    def __init__(self, *, max_callers: int = 100_000, clock: Clock | None = None) -> None:
        self._max_callers = max_callers
        self._callers: dict[str, _Caller] = {}
        self._sweep_at = min(max_callers, 1024)
        self._lock = threading.Lock()
        # `time.time` is looked up at each call, so that a test that freezes it freezes limits too.
        self._wall: Callable[[], float] | None = clock.time if clock else None

    def __len__(self) -> int:
        return len(self._callers)

    def now(self) -> int:
        """Microseconds since the epoch."""
        wall = self._wall
        return int((wall() if wall is not None else time.time()) * MICROSECONDS)

    def decide(
        self,
        checks: Sequence[Check],
        *,
        ban: BanPolicy | None = None,
        client: str = "",
        source: Source = "memory",
    ) -> Decision:
        """Charge all checks or none; see `RedisStore.decide`."""
        wall = self._wall
        with self._lock:
            now = int((wall() if wall is not None else time.time()) * MICROSECONDS)
            if ban is None and len(checks) == 1:
                return self._decide_one(checks, now, source)
            if ban is not None and (caller := self._callers.get(client)) is not None and caller.banned_until > now:
                until = min(caller.banned_until, now + int(ban.duration * MICROSECONDS))
                return Decision(False, "banned", checks, (), now, wait=(until - now) / MICROSECONDS)
            states = []
            refused = None
            for index, check in enumerate(checks):
                rule = check.rule
                algorithm = ALGORITHMS[rule.strategy]
                caller = self._callers.get(check.identity)
                known = caller.states.get(check.field) if caller is not None else None
                state = algorithm.roll(known, rule, now)
                granted = algorithm.available(state, rule, now) >= check.cost
                if not granted and known is not None and algorithm.ahead(known, rule, now):
                    self._keep(check, state, algorithm.expires_at(state, rule, now), now)
                states.append((state, granted))
                if not granted and not check.shadow and refused is None:
                    refused = index
            outcomes = []
            for check, (state, granted) in zip(checks, states, strict=True):
                rule = check.rule
                algorithm = ALGORITHMS[rule.strategy]
                if granted and refused is None and check.cost:
                    algorithm.take(state, rule, now, check.cost)
                    self._keep(check, state, algorithm.expires_at(state, rule, now), now)
                elif not granted and rule.strategy == "fixed-window":
                    state[2] += check.cost
                remaining = algorithm.available(state, rule, now)
                waits = not granted or (remaining == 0 and not check.cost)
                outcomes.append(
                    Outcome(
                        -1 if not granted else check.cost if refused is None else 0,
                        remaining,
                        algorithm.reset_at(state, rule, now),
                        algorithm.retry_after(state, rule, now, max(1, check.cost)) if waits else 0,
                        0,
                    )
                )
            if refused is not None and ban is not None:
                self._strike(client, ban, now)
            return Decision(refused is None, source, checks, outcomes, now, refused)

    def meter(self, checks: Sequence[Check]) -> Meter:
        """What charges these checks, again and again: as `decide` does, in fewer steps for a single fixed window."""
        if len(checks) != 1 or checks[0].rule.strategy != "fixed-window" or checks[0].cost < 1:
            return partial(self.decide, checks)
        rule, identity, field, cost, _, _, _ = checks[0]
        amount, window, callers, lock, wall = rule.amount, rule.window, self._callers, self._lock, self._wall

        def charge() -> Checked | Decision:
            with lock:
                now = int((wall() if wall is not None else time.time()) * MICROSECONDS)
                caller = callers.get(identity)
                if (
                    caller is not None
                    and (state := caller.states.get(field)) is not None
                    and now < (ends := state[1]) <= now + window
                    and cost <= (left := amount - state[0])
                ):
                    state[0] += cost
                    return new_tuple(Checked, (checks, left - cost, ends, now, "memory"))
                return self._decide_one(checks, now, "memory")

        return charge

    def _decide_one(self, checks: Sequence[Check], now: int, source: Source) -> Decision:
        """What `decide` does, for a single limit."""
        check = checks[0]
        rule, identity, field, cost, shadow, _, _ = check
        caller = self._callers.get(identity)
        known = caller.states.get(field) if caller is not None else None
        algorithm = ALGORITHMS[rule.strategy]
        state = algorithm.roll(known, rule, now)
        remaining = algorithm.available(state, rule, now)
        wait = 0
        if remaining >= cost:
            granted = cost
            if cost:
                algorithm.take(state, rule, now, cost)
                remaining -= cost
                if state is not known or rule.strategy != "fixed-window":  # else it is kept, and ends when it did
                    self._keep(check, state, algorithm.expires_at(state, rule, now), now)
            elif not remaining:
                wait = algorithm.retry_after(state, rule, now, 1)
        else:
            granted = -1
            if rule.strategy == "fixed-window":
                state[2] += cost
            wait = algorithm.retry_after(state, rule, now, cost)
            if known is not None and algorithm.ahead(known, rule, now):
                self._keep(check, state, algorithm.expires_at(state, rule, now), now)
        outcome = new_tuple(Outcome, (granted, remaining, algorithm.reset_at(state, rule, now), wait, 0))
        refused = 0 if granted < 0 and not shadow else None
        return Decision(refused is None, source, checks, (outcome,), now, refused)

    def peek(self, identity: str) -> tuple[list[LimitStatus], float]:
        """See `RedisStore.peek`."""
        caller = self._callers.get(identity)
        if caller is None:
            return [], 0.0
        known = [(field, *found) for field in sorted(caller.states) if (found := rule_of_field(field))]
        checks = [Check(rule, identity, field, 0, False, None, ()) for field, rule, _ in known]
        decision = self.decide(checks)
        until = caller.banned_until / MICROSECONDS if caller.banned_until > decision.now else 0.0
        return [
            status_of(rule, scope, outcome) for (_, rule, scope), outcome in zip(known, decision.outcomes, strict=True)
        ], until

    def reset(self, identity: str) -> None:
        """Forget a caller."""
        with self._lock:
            self._callers.pop(identity, None)

    def clear(self) -> None:
        """Forget everybody."""
        with self._lock:
            self._callers.clear()

    def counted(self) -> Iterable[tuple[str, str, State]]:
        """Every (caller, field, state)."""
        return [
            (identity, field, state)
            for identity, caller in self._callers.items()
            for field, state in caller.states.items()
        ]

    def _keep(self, check: Check, state: State, ends: int, now: int) -> None:
        caller = self._callers.get(check.identity)
        if caller is None:
            caller = self._admit(check.identity, now)
        states = caller.states
        if check.field not in states and len(states) & 63 == 63:
            self._tidy(caller, now)
        states[check.field] = state
        if ends > caller.ends:
            caller.ends = ends

    def _strike(self, client: str, ban: BanPolicy, now: int) -> None:
        caller = self._callers.get(client) or self._admit(client, now)
        count, ends = caller.refused
        within = int(ban.within * MICROSECONDS)
        if not now < ends <= now + within:
            count, ends = 0, now + within
        count += 1
        if count >= ban.refusals:
            caller.banned_until = ends = now + int(ban.duration * MICROSECONDS)
            caller.refused = [0, 0]
        else:
            caller.refused = [count, ends]
        caller.ends = max(caller.ends, ends)

    def _admit(self, identity: str, now: int) -> _Caller:
        if len(self._callers) >= self._sweep_at:
            self._sweep(now)
        caller = self._callers[identity] = _Caller()
        return caller

    def _sweep(self, now: int) -> None:
        """Drop who is over; when memory is full all the same, the longest known tenth. Doubles the next mark."""
        for identity in [identity for identity, caller in self._callers.items() if caller.ends <= now]:
            del self._callers[identity]
        if len(self._callers) >= self._max_callers:
            for identity in list(self._callers)[: max(1, self._max_callers // 10)]:
                del self._callers[identity]
        self._sweep_at = min(self._max_callers, max(1024, 2 * len(self._callers)))

    @staticmethod
    def _tidy(caller: _Caller, now: int) -> None:
        for field in list(caller.states):
            found = rule_of_field(field)
            if found and ALGORITHMS[found[0].strategy].expires_at(caller.states[field], found[0], now) <= now:
                del caller.states[field]
