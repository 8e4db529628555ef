"""How long results live, and what is served meanwhile."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from smriti_scale.cache import Cache
from smriti_scale.cache.entry import MAX_TTL, Entry, early_by, make_policy, make_record
from smriti_scale.errors import ConfigurationError, DeadlineExceeded
from smriti_scale.events import CacheHit, CacheLoaded, CacheMiss, Event, Events
from smriti_scale.testing.manual_clock import ManualClock
from tests.cache.conftest import MakeCache


class Source:
    """A factory that counts, fails or waits as told."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None

    async def __call__(self) -> int:
        self.calls += 1
        result = self.calls
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return result


def counter(cache: Cache, source: Source, ttl: Any = 10, **options: Any) -> Any:
    @cache.cached(ttl, key="counter", **options)
    async def count() -> int | None:
        return await source()

    return count


async def settle(cache: Cache) -> None:
    """Let background loads of this cache end."""
    while tasks := cache._tiers.flights._tasks:
        await asyncio.wait(list(tasks))
        await asyncio.sleep(0)


async def test_a_result_is_loaded_anew_after_its_ttl(any_cache: Cache, clock: ManualClock) -> None:
    count = counter(any_cache, Source())
    assert await count() == 1
    clock.advance(9.9)
    assert await count() == 1
    clock.advance(0.1)
    assert await count() == 2


async def test_a_stale_result_is_served_at_once_and_renewed_behind(any_cache: Cache, clock: ManualClock) -> None:
    count = counter(any_cache, Source(), stale=5)
    await count()
    clock.advance(12)
    assert await count() == 1
    await settle(any_cache)
    assert await count() == 2
    clock.advance(15)
    assert await count() == 3  # past the stale window nothing old is served
    assert any_cache.stats().stale_served == 1


async def test_a_failed_renewal_is_not_tried_again_at_once(any_cache: Cache, clock: ManualClock) -> None:
    source = Source()
    count = counter(any_cache, source, stale=60, error_throttle=5)
    await count()
    clock.advance(11)
    source.error = ValueError()
    for _ in range(3):
        assert await count() == 1
        await settle(any_cache)
    assert source.calls == 2
    clock.advance(5)
    source.error = None
    assert await count() == 1
    await settle(any_cache)
    assert await count() == 3


async def test_an_old_result_stands_in_for_an_error_throttled(any_cache: Cache, clock: ManualClock) -> None:
    source = Source()
    count = counter(any_cache, source, stale_if_error=60, error_throttle=5)
    await count()
    clock.advance(11)
    source.error = ValueError("the database is away")
    assert [await count(), await count(), await count()] == [1, 1, 1]
    assert source.calls == 2
    clock.advance(6)
    source.error = None
    assert await count() == 3


async def test_without_an_old_result_the_error_is_the_callers(any_cache: Cache, clock: ManualClock) -> None:
    source = Source()
    count = counter(any_cache, source, stale_if_error=60)
    source.error = ValueError("the database is away")
    with pytest.raises(ValueError, match="the database is away"):
        await count()
    source.error = None
    assert await count() == 2  # an error is not cached
    clock.advance(71)
    source.error = ValueError("again")
    with pytest.raises(ValueError, match="again"):
        await count()  # too old to stand in


async def test_a_slow_load_gives_way_to_an_old_result_and_finishes_behind(any_cache: Cache, clock: ManualClock) -> None:
    source = Source()
    count = counter(any_cache, source, stale_if_error=60, soft_timeout=0.01)
    await count()
    clock.advance(11)
    source.gate = asyncio.Event()
    assert await count() == 1
    source.gate.set()
    await settle(any_cache)
    assert await count() == 2
    assert source.calls == 2


async def test_without_an_old_result_a_slow_load_is_waited_for(any_cache: Cache) -> None:
    source = Source()
    source.gate = asyncio.Event()
    count = counter(any_cache, source, soft_timeout=0.01)
    asyncio.get_running_loop().call_later(0.05, source.gate.set)
    assert await count() == 1


async def test_a_load_past_its_deadline_is_cancelled(any_cache: Cache) -> None:
    cancelled = asyncio.Event()

    @any_cache.cached(10, key="hanging", timeout=0.05)
    async def hanging() -> int:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return 1

    with pytest.raises(DeadlineExceeded, match=r"hanging did not finish within 0\.05 s"):
        await hanging()
    await asyncio.wait_for(cancelled.wait(), 5)


async def test_a_timeout_of_the_factorys_own_is_passed_on(any_cache: Cache) -> None:
    @any_cache.cached(10, key="own", timeout=60)
    async def own() -> int:
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="of its own"):
        await own()


async def test_past_the_deadline_an_old_result_stands_in(any_cache: Cache, clock: ManualClock) -> None:
    source = Source()

    async def count() -> int:
        return await source()

    patient = any_cache.cached(10, key="count", stale_if_error=60)(count)
    hurried = any_cache.cached(10, key="count", stale_if_error=60, timeout=0.05)(count)
    assert await patient() == 1
    clock.advance(11)
    source.gate = asyncio.Event()
    assert await hurried() == 1
    assert source.calls == 2


async def test_the_ttl_can_come_from_the_value(any_cache: Cache, clock: ManualClock) -> None:
    lives = {1: 5, 2: timedelta(seconds=20), 3: 0, 4: None, 5: -1, 6: 1}
    source = Source()
    count = counter(any_cache, source, ttl=lambda value: lives[value])
    assert await count() == 1
    clock.advance(5)
    assert await count() == 2
    clock.advance(19)
    assert await count() == 2
    clock.advance(1)
    assert [await count() for _ in range(4)] == [3, 4, 5, 6]  # nothing positive: not stored
    assert await count() == 6


@pytest.mark.parametrize("ttl", [float("inf"), float("nan"), MAX_TTL * 2, "60"])
async def test_an_absurd_ttl_from_the_value_is_an_error(memory_cache: Cache, ttl: Any) -> None:
    count = counter(memory_cache, Source(), ttl=lambda _: ttl)
    with pytest.raises((ConfigurationError, TypeError)):
        await count()


async def test_nothing_found_has_a_ttl_of_its_own(any_cache: Cache, clock: ManualClock) -> None:
    calls = 0

    @any_cache.cached(60, negative_ttl=5)
    async def find() -> int | None:
        nonlocal calls
        calls += 1
        return None if calls == 1 else calls

    assert [await find(), await find()] == [None, None]
    clock.advance(5)
    assert await find() == 2
    clock.advance(59)
    assert await find() == 2


async def test_a_condition_decides_what_is_stored(any_cache: Cache) -> None:
    count = counter(any_cache, Source(), condition=lambda value: value > 2)
    assert [await count() for _ in range(5)] == [1, 2, 3, 3, 3]


async def test_what_is_not_to_be_stored_need_not_be_storable(memory_cache: Cache) -> None:
    @memory_cache.cached(10, condition=lambda value: False)
    async def handle() -> Any:
        return object()

    assert await handle() is not await handle()


async def test_jitter_only_shortens() -> None:
    policy = make_policy(100, jitter=0.2)
    for random, life in ((0.0, 100), (0.5, 90), (0.999, 80.02)):
        record = make_record(b"", policy=policy, lifetime=100, now=0, delta=0, fingerprint="", tags=(), random=random)
        assert record.fresh_until == pytest.approx(life)


@settings(max_examples=40)
@given(st.floats(0, 1, exclude_max=True), st.floats(0, 1e3), st.floats(0, 10))
def test_early_refresh_follows_the_papers_formula(random: float, delta: float, beta: float) -> None:
    ahead = early_by(delta, beta=beta, random=random)
    assert ahead >= 0
    if random == 0 or beta == 0:
        assert ahead == 0


async def test_an_entry_is_renewed_early_once_behind_the_callers_back(memory_cache: Cache, clock: ManualClock) -> None:
    source = Source()
    count = counter(memory_cache, source, ttl=1000)

    async def slow() -> int:
        clock.advance(1)  # the factory takes a second
        return await source()

    @memory_cache.cached(1000, key="slow", early=1e9)
    async def always_early() -> int:
        return await slow()

    assert await always_early() == 1
    assert await always_early() == 1  # served, and renewed behind
    await settle(memory_cache)
    assert await always_early() == 2
    assert await count() == 3 or source.calls > 3


@pytest.mark.parametrize(
    "options",
    [
        {"ttl": 0},
        {"ttl": -1},
        {"ttl": float("inf")},
        {"ttl": float("nan")},
        {"ttl": MAX_TTL * 1.01},
        {"ttl": True},
        {"ttl": "60"},
        {"ttl": None},
        {"ttl": timedelta(days=-1)},
        {"ttl": 1, "stale": -1},
        {"ttl": 1, "stale_if_error": float("inf")},
        {"ttl": 1, "jitter": 1},
        {"ttl": 1, "jitter": -0.1},
        {"ttl": 1, "early": -1},
        {"ttl": 1, "early": float("nan")},
        {"ttl": 1, "timeout": 0},
        {"ttl": 1, "soft_timeout": 2, "timeout": 1},
        {"ttl": 1, "negative_ttl": 0},
    ],
)
def test_times_that_make_no_sense_are_refused_when_decorating(memory_cache: Cache, options: Any) -> None:
    with pytest.raises(ConfigurationError):
        memory_cache.cached(**options)


@settings(max_examples=40)
@given(st.floats(0, 1e6), st.floats(-1e6, 2e6))
def test_a_clock_set_back_never_lengthens_a_life(life: float, jump: float) -> None:
    policy = make_policy(1, stale=5, stale_if_error=7)
    record = make_record(b"", policy=policy, lifetime=life, now=1e9, delta=0, fingerprint="", tags=(), random=0)
    entry = Entry("k", record, now_wall=1e9 + jump, now=0)
    assert entry.fresh_until <= life + 1e-3
    assert record.state(1e9 + jump) in {"fresh", "stale", "fallback", "dead"}


async def test_events_tell_what_happened(redis_cache: MakeCache, clock: ManualClock) -> None:
    seen: list[Event] = []
    writer = redis_cache(clock=clock, events=Events(seen.append))
    await counter(writer, Source(), stale=5)()
    label = "tests.cache.test_freshness.counter.count"
    assert CacheMiss(writer.name, label) in seen
    assert any(isinstance(event, CacheLoaded) and event.function == label and not event.error for event in seen)
    reader = redis_cache(clock=clock, events=Events(seen.append))
    count = counter(reader, Source(), stale=5)
    await count()
    assert CacheHit(reader.name, label, "redis") in seen
    clock.advance(11)
    await count()
    assert CacheHit(reader.name, label, "stale") in seen
    await settle(reader)


async def test_stats_count_each_call_once(any_cache: Cache) -> None:
    count = counter(any_cache, Source())
    for _ in range(5):
        await count()
    stats = any_cache.stats()
    assert (stats.misses, stats.loads, stats.hits, stats.hit_ratio) == (1, 1, 4, 0.8)
