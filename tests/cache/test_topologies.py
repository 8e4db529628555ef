"""The cache on Sentinel and on Cluster, and through failovers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from smriti_scale.cache import Cache
from smriti_scale.local import LocalRedis
from smriti_scale.testing.fault_proxy import FaultProxy
from tests.cache.conftest import MakeCache, until
from tests.redis_topologies import servers, start_cluster, start_sentinel

OwnRedis = Callable[..., Awaitable[LocalRedis]]
Proxies = Callable[..., Awaitable[FaultProxy]]


class Process:
    """A process of a service that reads one table."""

    def __init__(self, cache: Cache, table: dict[int, int]) -> None:
        self.cache = cache
        self.loads = 0

        @cache.cached(600, key="row:{n}", tags=["row:{n}", "rows"])
        async def row(n: int) -> int:
            self.loads += 1
            await asyncio.sleep(0.01)
            return table.get(n, 0)

        self.row: Any = row


async def works_as_one(here: Process, there: Process, table: dict[int, int]) -> None:
    """Everything that crosses processes, over keys of many slots."""
    keys = range(40)
    both = [process.row(n) for process in (here, there) for n in keys for _ in range(2)]
    assert await asyncio.gather(*both) == [0] * 160
    assert here.loads + there.loads == 40

    for n in keys:
        table[n] = 1
    await here.cache.invalidate_tags("row:1")
    await there.row.invalidate(2)
    await until(lambda: here.cache.stats().memory_entries == there.cache.stats().memory_entries == 38)
    assert [await process.row(n) for process in (here, there) for n in (0, 1, 2, 3)] == [0, 1, 1, 0] * 2

    await here.cache.invalidate_tags("rows")
    await until(lambda: there.cache.stats().memory_entries == 0)
    assert await there.row(5) == await here.row(5) == 1

    await here.cache.set_many({f"k{n}": n for n in keys}, 60)
    assert await there.cache.get_many([f"k{n}" for n in keys]) == {f"k{n}": n for n in keys}
    await there.cache.clear()
    await until(lambda: here.cache.stats().memory_entries == 0)
    assert await here.cache.get_many([f"k{n}" for n in keys]) == {}
    for process in (here, there):
        assert (process.cache.stats().breaker, process.cache.stats().channel) == ("closed", "live")


async def test_a_single_server_works_as_one(redis_cache: MakeCache) -> None:
    table: dict[int, int] = {}
    await works_as_one(Process(redis_cache(), table), Process(redis_cache(), table), table)


@pytest.mark.long
async def test_a_cluster_works_as_one(redis_cache: MakeCache, tmp_path: Path) -> None:
    async with servers(tmp_path) as made:
        url = await start_cluster(made)
        table: dict[int, int] = {}
        here, there = Process(redis_cache(url), table), Process(redis_cache(url), table)
        await works_as_one(here, there, table)
        await here.cache.aclose()
        await there.cache.aclose()


@pytest.mark.long
async def test_a_cluster_that_loses_a_node_is_no_error(redis_cache: MakeCache, tmp_path: Path) -> None:
    async with servers(tmp_path) as made:
        url = await start_cluster(made)
        table: dict[int, int] = {}
        process = Process(redis_cache(url, timeout=0.3), table)
        await asyncio.gather(*(process.row(n) for n in range(20)))
        made.kill(next(iter(made.running)))
        for n in range(20):
            table[n] = 1
            await process.row.invalidate(n)
            assert await process.row(n) == 1
        await process.cache.aclose()


@pytest.mark.long
async def test_sentinel_works_as_one_and_through_a_failover(redis_cache: MakeCache, tmp_path: Path) -> None:
    async with servers(tmp_path) as made:
        url, primary = await start_sentinel(made)
        table: dict[int, int] = {}
        here, there = Process(redis_cache(url), table), Process(redis_cache(url), table)
        await works_as_one(here, there, table)

        made.kill(primary)
        for n in range(40):
            table[n] = 2
        await here.cache.invalidate_tags("rows")
        assert await here.row(7) == 2  # although there is no primary yet
        for process in (here, there):
            await until(
                lambda stats=process.cache.stats: stats().breaker == "closed" and stats().channel == "live",  # type: ignore[misc]
                seconds=60,
            )
        assert [await process.row(n) for process in (here, there) for n in range(10)] == [2] * 20
        loads = here.loads + there.loads
        assert [await process.row(n) for process in (here, there) for n in range(10)] == [2] * 20
        assert here.loads + there.loads == loads
        await here.cache.aclose()
        await there.cache.aclose()


async def test_a_change_that_redis_forgot_is_told_again_when_the_channel_is_back(
    redis_cache: MakeCache, fault_redis: LocalRedis
) -> None:
    """As after a failover that only the channel noticed."""
    table: dict[int, int] = {}
    process = Process(redis_cache(fault_redis.uri, max_entries=0), table)
    assert await process.row(1) == 0
    async with redis.asyncio.Redis.from_url(fault_redis.uri) as admin:
        names = [name async for name in admin.scan_iter(match=f"{process.cache.name}:*")]
        before = {name: await admin.get(name) for name in names}
        table[1] = 1
        await process.cache.invalidate_tags("row:1")
        for name, value in before.items():
            await admin.set(name, value or b"")
        await admin.client_kill_filter(_type="pubsub")
    deadline = asyncio.get_running_loop().time() + 20
    while await process.row(1) != 1:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)


async def test_an_invalidation_that_a_failover_lost_is_told_to_the_new_primary(
    redis_cache: MakeCache, own_redis: OwnRedis, fault_proxy: Proxies
) -> None:
    """The promoted replica still has what the primary was told to forget; nobody may read it there."""
    primary, promoted = await own_redis(), await own_redis()
    table: dict[int, int] = {}
    for server in (primary, promoted):
        seeding = Process(redis_cache(server.uri), table)
        assert await seeding.row(1) == 0
    proxy = await fault_proxy(primary.uri)
    process = Process(redis_cache(proxy.uri, max_entries=0), table)
    assert (await process.row(1), process.loads) == (0, 0)
    table[1] = 1
    await process.cache.invalidate_tags("row:1")
    proxy._port = promoted.port
    await proxy.cut()
    await proxy.heal()
    for _ in range(20):
        assert await process.row(1) == 1
        await asyncio.sleep(0.02)
    await until(lambda: process.cache.stats().breaker == "closed")
    assert await process.row(1) == 1
    assert await Process(redis_cache(promoted.uri), table).row(1) == 1
