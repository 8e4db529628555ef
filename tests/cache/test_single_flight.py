"""One factory call for all who wait, none of whom can harm the others."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from smriti_scale.cache import Cache
from smriti_scale.errors import ScaleError
from tests.cache.conftest import MakeCache, until


class Gate:
    """A factory that waits for its test."""

    def __init__(self) -> None:
        self.calls = 0
        self.ended = 0
        self.open = asyncio.Event()
        self.entered = asyncio.Event()
        self.error: BaseException | None = None

    def on(self, cache: Cache, **options: Any) -> Any:
        @cache.cached(60, key="gate:{x}", **options)
        async def through(x: int) -> int:
            self.calls += 1
            self.entered.set()
            try:
                await self.open.wait()
            finally:
                self.ended += 1
            if self.error is not None:
                raise self.error
            return x

        return through


async def test_many_callers_make_one_call(any_cache: Cache) -> None:
    gate = Gate()
    through = gate.on(any_cache)
    callers = [asyncio.create_task(through(1)) for _ in range(100)]
    await gate.entered.wait()
    gate.open.set()
    assert await asyncio.gather(*callers) == [1] * 100
    assert gate.calls == 1


async def test_a_cancelled_caller_harms_nobody(any_cache: Cache) -> None:
    gate = Gate()
    through = gate.on(any_cache)
    callers = [asyncio.create_task(through(1)) for _ in range(10)]
    await gate.entered.wait()
    for caller in callers[:9]:
        caller.cancel()
    await asyncio.sleep(0)
    gate.open.set()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert results[9] == 1
    assert all(isinstance(result, asyncio.CancelledError) for result in results[:9])
    assert gate.calls == 1


async def test_work_stops_when_nobody_waits_any_more(any_cache: Cache) -> None:
    gate = Gate()
    through = gate.on(any_cache)
    callers = [asyncio.create_task(through(1)) for _ in range(3)]
    await gate.entered.wait()
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    await until(lambda: gate.ended)
    gate.open.set()
    assert await through(1) == 1  # at once, although the first load was broken off under a lease
    assert gate.calls == 2


async def test_a_caller_who_comes_as_the_work_is_broken_off_is_served(any_cache: Cache) -> None:
    gate = Gate()
    through = gate.on(any_cache)
    first = asyncio.create_task(through(1))
    await gate.entered.wait()
    first.cancel()
    second = asyncio.create_task(through(1))
    gate.open.set()
    assert await second == 1
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_an_exception_reaches_every_waiter_and_is_not_kept(any_cache: Cache) -> None:
    gate = Gate()
    through = gate.on(any_cache)
    gate.error = ValueError("no")
    callers = [asyncio.create_task(through(1)) for _ in range(10)]
    await gate.entered.wait()
    gate.open.set()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(result) for result in results] == [ValueError] * 10
    assert gate.calls == 1
    gate.error = None
    assert await through(1) == 1


async def test_an_exception_that_nobody_waits_for_is_not_reported_as_lost(any_cache: Cache) -> None:
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    gate = Gate()
    through = gate.on(any_cache)
    gate.error = ValueError("no")
    caller = asyncio.create_task(through(1))
    await gate.entered.wait()
    gate.open.set()
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    await any_cache.aclose()
    gc.collect()
    assert complaints == []


async def test_a_factory_that_cancels_itself_does_not_look_like_the_callers_cancellation(any_cache: Cache) -> None:
    gate = Gate()
    gate.error = asyncio.CancelledError()
    gate.open.set()
    with pytest.raises(ScaleError, match="its factory cancelled itself"):
        await gate.on(any_cache)(1)


async def test_waiters_get_copies_of_their_own(any_cache: Cache) -> None:
    @any_cache.cached(60)
    async def numbers() -> list[int]:
        await asyncio.sleep(0.01)
        return [1]

    results = await asyncio.gather(*(numbers() for _ in range(10)))
    assert len({id(result) for result in results}) == 10


async def test_processes_share_one_call(redis_cache: MakeCache) -> None:
    gate = Gate()
    caches = [gate.on(redis_cache()) for _ in range(4)]
    callers = [asyncio.create_task(through(1)) for through in caches for _ in range(125)]
    await gate.entered.wait()
    await asyncio.sleep(0.05)
    gate.open.set()
    assert await asyncio.gather(*callers) == [1] * 500
    assert gate.calls == 1


async def test_when_the_loading_process_fails_another_one_loads(redis_cache: MakeCache) -> None:
    failing, working = Gate(), Gate()
    working.open.set()
    failing.error = ValueError("no")
    first = asyncio.create_task(failing.on(redis_cache())(1))
    await failing.entered.wait()
    second = asyncio.create_task(working.on(redis_cache())(1))
    await asyncio.sleep(0.02)
    assert working.calls == 0
    failing.open.set()
    with pytest.raises(ValueError, match="no"):
        await first
    assert await second == 1
    assert working.calls == 1


async def test_a_lease_is_renewed_for_as_long_as_the_work_takes(redis_cache: MakeCache) -> None:
    gate = Gate()
    first = asyncio.create_task(gate.on(redis_cache(lease=0.3))(1))
    await gate.entered.wait()
    second = asyncio.create_task(gate.on(redis_cache(lease=0.3))(1))
    await asyncio.sleep(1)
    gate.open.set()
    assert await first == await second == 1
    assert gate.calls == 1


async def test_a_process_that_vanishes_holds_others_up_for_the_lease_only(redis_cache: MakeCache) -> None:
    gate, own = Gate(), Gate()
    vanishing = redis_cache(lease=0.3)
    first = asyncio.create_task(gate.on(vanishing)(1))
    await gate.entered.wait()
    # As if killed: it neither renews its lease nor gives it back.
    tasks = [task for task in asyncio.all_tasks() if "_renew" in repr(task.get_coro())]
    for task in tasks:
        task.cancel()
    assert len(tasks) == 1
    own.open.set()
    assert await asyncio.wait_for(own.on(redis_cache(lease=0.3))(1), 10) == 1
    gate.open.set()
    assert await first == 1


async def test_one_load_inside_another_is_fine(any_cache: Cache) -> None:
    @any_cache.cached(60)
    async def inner(x: int) -> int:
        return x

    @any_cache.cached(60)
    async def outer(x: int) -> int:
        return await inner(x) + await inner(x + 1)

    assert await outer(1) == 3


async def test_closing_ends_loads_with_a_clear_error(any_cache: Cache) -> None:
    gate = Gate()
    caller = asyncio.create_task(gate.on(any_cache)(1))
    await gate.entered.wait()
    await any_cache.aclose()
    with pytest.raises(ScaleError, match="the cache was closed"):
        await caller
    assert gate.ended == 1


def test_a_cache_outlives_the_event_loop_it_was_used_in(redis_url: str, redis_prefix: str) -> None:
    cache = Cache(redis_url, namespace=redis_prefix)
    calls = 0

    @cache.cached(60)
    async def count() -> int:
        nonlocal calls
        calls += 1
        return calls

    async def use() -> int:
        value = await count()
        await cache.aclose()
        return value

    assert [asyncio.run(use()), asyncio.run(use())] == [1, 1]
