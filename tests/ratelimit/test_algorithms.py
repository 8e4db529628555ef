"""Each algorithm against a reference that is too slow and too simple to be wrong, and Lua against Python."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from smriti_scale.ratelimit.memory_store import MemoryStore
from smriti_scale.ratelimit.rules import MICROSECONDS, Rule, parse_limits
from smriti_scale.testing import ManualClock
from tests.ratelimit.checks import STRATEGIES, check, redis_store

Steps = list[tuple[float, int]]
steps = st.lists(
    st.tuples(st.one_of(st.just(0.0), st.floats(0, 3), st.floats(0, 100), st.integers(0, 200)), st.integers(1, 4)),
    max_size=60,
)
limits = st.sampled_from(["1/second", "5/minute", "7/30seconds", "10/minute", "3/hour"])
quick = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


class FixedReference:
    def __init__(self, rule: Rule) -> None:
        self.rule, self.start, self.count = rule, -math.inf, 0

    def hit(self, now: int, cost: int) -> bool:
        if now >= self.start + self.rule.window:
            self.start, self.count = now, 0
            if cost > self.rule.amount:
                self.start = -math.inf  # a refused first request begins no window
        if self.count + cost > self.rule.amount:
            return False
        self.count += cost
        return True


class MovingReference:
    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.taken: list[int] = []

    def hit(self, now: int, cost: int) -> bool:
        live = sum(1 for moment in self.taken if now - moment < self.rule.window)
        if live + cost > self.rule.amount:
            return False
        self.taken += [now] * cost
        return True


class SlidingReference:
    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.windows: dict[int, int] = {}

    def hit(self, now: int, cost: int) -> bool:
        index, into = divmod(now, self.rule.window)
        fading = Fraction(self.windows.get(index - 1, 0) * (self.rule.window - into), self.rule.window)
        if fading + self.windows.get(index, 0) + cost > self.rule.amount:
            return False
        self.windows[index] = self.windows.get(index, 0) + cost
        return True


REFERENCES: dict[str, Callable[[Rule], Any]] = {
    "fixed-window": FixedReference,
    "moving-window": MovingReference,
    "sliding-window-counter": SlidingReference,
}


@pytest.mark.parametrize("strategy", REFERENCES)
@given(limit=limits, steps=steps)
@quick
def test_a_window_strategy_decides_as_its_reference(strategy: Any, limit: str, steps: Steps) -> None:
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    reference = REFERENCES[strategy](parse_limits(limit, strategy)[0])
    for wait, cost in steps:
        clock.advance(wait)
        now = int(clock.time() * MICROSECONDS)
        assert store.decide((check(limit, strategy, cost=cost),)).allowed == reference.hit(now, cost)


@given(limit=limits, burst=st.integers(1, 8) | st.none(), steps=steps)
@quick
def test_gcra_decides_as_a_token_bucket(limit: str, burst: int | None, steps: Steps) -> None:
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    rule = parse_limits(limit, "gcra", burst)[0]
    rate = Fraction(rule.amount, rule.window)
    tokens, before = Fraction(rule.burst), int(clock.time() * MICROSECONDS)
    for wait, cost in steps:
        clock.advance(wait)
        now = int(clock.time() * MICROSECONDS)
        tokens, before = min(Fraction(rule.burst), tokens + (now - before) * rate), now
        allowed = store.decide((check(limit, "gcra", cost=cost, burst=burst),)).allowed
        # Within two microseconds of the exact moment either answer is right.
        if abs(tokens - cost) > 2 * rate:
            assert allowed == (tokens > cost)
        if allowed:
            tokens -= cost


@given(limit=limits, burst=st.integers(1, 8), steps=steps)
@quick
def test_gcra_admits_no_more_than_burst_and_rate_in_any_span(limit: str, burst: int, steps: Steps) -> None:
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    rule = parse_limits(limit, "gcra", burst)[0]
    admitted: list[tuple[int, int]] = []
    for wait, cost in steps:
        clock.advance(wait)
        if store.decide((check(limit, "gcra", cost=cost, burst=burst),)).allowed:
            admitted.append((int(clock.time() * MICROSECONDS), cost))
    for first, (begin, _) in enumerate(admitted):
        total = 0
        for end, cost in admitted[first:]:
            total += cost
            assert total <= burst + (end - begin + 2) * rule.amount / rule.window


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(limit=limits, steps=steps)
@quick
def test_whoever_waits_as_told_is_let_in_and_not_a_moment_sooner(strategy: Any, limit: str, steps: Steps) -> None:
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    amount = parse_limits(limit, strategy)[0].amount
    for wait, cost in steps:
        clock.advance(wait)
        asked = check(limit, strategy, cost=cost)
        refusal = store.decide((asked,))
        if refusal.allowed or cost > amount:
            continue
        told = refusal.outcomes[0].retry_after
        assert told > 0
        if told > 20 and strategy != "sliding-window-counter":
            clock.advance((told - 10) / MICROSECONDS)
            assert not store.decide((asked,)).allowed
            told = 10
        clock.advance((told + 1) / MICROSECONDS)
        assert store.decide((asked,)).allowed


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(limit=limits, steps=steps, jumps=st.lists(st.integers(-10_000, 10_000), max_size=3))
@quick
def test_no_jump_of_the_clock_locks_a_caller_out_for_longer_than_two_windows(
    strategy: Any, limit: str, steps: Steps, jumps: list[int]
) -> None:
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    rule = parse_limits(limit, strategy)[0]
    for wait, cost in steps:
        clock.advance(wait)
        store.decide((check(limit, strategy, cost=cost),))
    for jump in jumps:
        clock.jump(jump)
        outcome = store.decide((check(limit, strategy),)).outcomes[0]
        assert outcome.retry_after <= 2 * rule.window + 2
        assert outcome.reset_at - int(clock.time() * MICROSECONDS) <= 2 * rule.window + 2
    clock.advance(2 * rule.window / MICROSECONDS + 1)
    assert store.decide((check(limit, strategy),)).allowed


moves = st.lists(
    st.tuples(
        st.one_of(st.just(0.0), st.floats(0, 100), st.integers(-200, 200)),
        st.integers(0, 4),
        st.sampled_from(["a", "b"]),
        st.booleans(),
    ),
    max_size=25,
)


@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(quick, max_examples=15)
@given(moves=moves, limit=limits)
async def test_redis_answers_as_memory_does_step_by_step_even_when_the_clock_jumps(
    strategy: Any, moves: list[tuple[float, int, str, bool]], limit: str, redis_url: str, redis_prefix: str
) -> None:
    clock = ManualClock()
    memory = MemoryStore(clock=clock)
    redis = redis_store(redis_url, f"{redis_prefix}limits", clock=clock)
    try:
        await redis.clear()
        for wait, cost, who, second in moves:
            clock.jump(wait)
            asked = [check(limit, strategy, cost=cost, who=who)]
            if second:
                asked.append(check("4/minute", strategy, who="a", scope="shared", shadow=who == "b"))
            ours, theirs = memory.decide(asked), await redis.decide(asked)
            assert (theirs.allowed, theirs.refused) == (ours.allowed, ours.refused)
            assert [outcome[:4] for outcome in theirs.outcomes] == [outcome[:4] for outcome in ours.outcomes]
    finally:
        await redis.link.aclose()
