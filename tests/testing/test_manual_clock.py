"""The clock that stands still."""

from __future__ import annotations

import asyncio

import pytest

from smriti_scale.clock import Clock
from smriti_scale.testing import ManualClock


def test_it_stands_still_and_moves_by_what_it_is_told(clock: ManualClock) -> None:
    as_the_library_sees_it: Clock = clock
    wall, monotonic = as_the_library_sees_it.time(), as_the_library_sees_it.monotonic()
    assert (clock.time(), clock.monotonic()) == (wall, monotonic)
    clock.advance(2.5)
    assert (clock.time(), clock.monotonic()) == (wall + 2.5, monotonic + 2.5)


def test_a_jump_moves_wall_time_alone_either_way(clock: ManualClock) -> None:
    wall, monotonic = clock.time(), clock.monotonic()
    clock.jump(-3600)
    assert (clock.time(), clock.monotonic()) == (wall - 3600, monotonic)


def test_time_does_not_go_back(clock: ManualClock) -> None:
    with pytest.raises(ValueError, match=r"back by 1 s; jump\(\)"):
        clock.advance(-1)


async def test_sleepers_wake_in_the_order_of_their_moments(clock: ManualClock) -> None:
    woken: list[tuple[str, float]] = []
    begin = clock.monotonic()

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((name, clock.monotonic() - begin))

    tasks = [
        asyncio.ensure_future(sleeper(name, seconds)) for name, seconds in (("c", 3), ("a", 1), ("b", 2), ("d", 9))
    ]
    await clock.run_for(5)
    assert woken == [("a", 1), ("b", 2), ("c", 3)]
    assert clock.sleepers == 1
    await clock.run_for(4)
    await asyncio.gather(*tasks)
    assert clock.sleepers == 0


async def test_what_falls_asleep_anew_on_the_way_is_woken_too(clock: ManualClock) -> None:
    beats: list[float] = []
    begin = clock.monotonic()

    async def heart() -> None:
        while True:
            await clock.sleep(1)
            beats.append(clock.monotonic() - begin)

    beating = asyncio.ensure_future(heart())
    await clock.run_for(4)
    beating.cancel()
    assert beats == [1, 2, 3, 4]


async def test_advance_wakes_all_who_are_due_at_the_final_moment(clock: ManualClock) -> None:
    sleepers = [asyncio.ensure_future(clock.sleep(seconds)) for seconds in (2, 1)]
    await clock.until_sleepers(2)
    clock.advance(2)
    await asyncio.gather(*sleepers)


async def test_a_cancelled_sleeper_is_forgotten(clock: ManualClock) -> None:
    sleeper = asyncio.ensure_future(clock.sleep(1))
    await clock.until_sleepers(1)
    sleeper.cancel()
    await clock.run_for(2)
    assert sleeper.cancelled()
    assert clock.sleepers == 0


async def test_no_sleep_gives_way_once(clock: ManualClock) -> None:
    ran = asyncio.Event()
    asyncio.get_running_loop().call_soon(ran.set)
    await clock.sleep(0)
    assert ran.is_set()
