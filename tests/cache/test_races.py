"""The two races that leave an old value in a cache for good, run many times over with real timing.

1. A load has read the database, a write and its invalidation happen, then the load stores what it read.
2. A process reads the old value from Redis, a write and its invalidation happen and the notice arrives, then the
   process puts what it read into its memory.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from smriti_scale.cache import Cache, CachedFunction
from tests.cache.conftest import MakeCache

Race = Callable[[MakeCache, int], Awaitable[int]]


async def load_against_invalidation(make: MakeCache, trials: int) -> int:
    """Count the trials after which any process answers with less than the last write."""
    database: dict[int, int] = {}

    def decorate(cache: Cache) -> CachedFunction[[int], int]:
        @cache.cached(60, key="row:{n}", tags=["row:{n}"])
        async def row(n: int) -> int:
            await asyncio.sleep(random.random() * 0.002)
            value = database.get(n, 0)
            await asyncio.sleep(random.random() * 0.004)
            return value

        return row

    caches = [make() for _ in range(3)]
    rows = [decorate(cache) for cache in caches]

    async def trial(n: int) -> bool:
        readers = [asyncio.create_task(row(n)) for row in rows]
        await asyncio.sleep(random.random() * 0.006)
        database[n] = 1
        writer = random.choice(caches)
        await (writer.invalidate_tags(f"row:{n}") if n % 2 else writer.invalidate(f"row:<i~{n}>"))
        await asyncio.gather(*readers)
        await asyncio.sleep(0.005)
        return [await row(n) for row in rows] != [1, 1, 1]

    return await count_stale(trial, trials, together=20)


async def read_of_redis_against_notice(make: MakeCache, trials: int) -> int:
    """As above, but the racing reads find the old value in Redis."""
    writer = make()
    readers = [make() for _ in range(3)]

    async def trial(n: int) -> bool:
        key = f"k{n}"
        await writer.set(key, 0, 60)
        reads = [asyncio.create_task(spread(reader, key)) for reader in readers for _ in range(3)]
        await asyncio.sleep(random.random() * 0.003)
        await (writer.invalidate(key) if n % 2 else writer.set(key, 1, 60))
        await asyncio.gather(*reads)
        await asyncio.sleep(0.005)
        expected = None if n % 2 else 1
        return [await reader.get(key) for reader in readers] != [expected] * 3

    async def spread(reader: Cache, key: str) -> None:
        await asyncio.sleep(random.random() * 0.003)
        await reader.get(key)

    return await count_stale(trial, trials, together=20)


async def count_stale(trial: Callable[[int], Awaitable[bool]], trials: int, *, together: int) -> int:
    stale = 0
    for first in range(0, trials, together):
        stale += sum(await asyncio.gather(*(trial(n) for n in range(first, min(first + together, trials)))))
    return stale


@pytest.mark.parametrize("race", [load_against_invalidation, read_of_redis_against_notice])
async def test_no_race_leaves_an_old_value(redis_cache: MakeCache, race: Race) -> None:
    assert await race(redis_cache, 60) == 0


@pytest.mark.long
@pytest.mark.parametrize("race", [load_against_invalidation, read_of_redis_against_notice])
async def test_a_thousand_races_leave_no_old_value(redis_cache: MakeCache, race: Race) -> None:
    assert await race(redis_cache, 1000) == 0


async def test_a_read_between_an_invalidation_here_and_in_redis_is_not_kept(redis_cache: MakeCache) -> None:
    cache = redis_cache()
    await cache.set("k", "old", 60)
    redis = cache._tiers.redis
    assert redis is not None
    invalidate = redis.invalidate

    async def invalidate_late(*args: Any, **options: Any) -> None:
        assert await cache.get("k") == "old"  # Redis has not been told yet
        await invalidate(*args, **options)

    redis.invalidate = invalidate_late  # type: ignore[method-assign]
    await cache.invalidate("k")
    assert await cache.get("k") is None


async def test_a_notice_between_a_read_of_redis_and_its_end_keeps_the_value_out_of_memory(
    redis_cache: MakeCache,
) -> None:
    """The second race by hand: the notice is handled at the worst moment."""
    writer, reader = redis_cache(), redis_cache()
    await reader.start()
    await writer.set("k", "old", 60)
    redis = reader._tiers.redis
    assert redis is not None
    read = redis.read

    async def read_slowly(*args: object) -> object:
        answer = await read(*args)  # type: ignore[arg-type]
        await writer.invalidate("k")
        await asyncio.sleep(0.05)
        return answer

    redis.read = read_slowly  # type: ignore[method-assign, assignment]
    assert await reader.get("k") == "old"  # it was, when it was read
    redis.read = read  # type: ignore[method-assign]
    assert reader.stats().memory_entries == 0
    assert await reader.get("k") is None
