"""Redis refused, black-holed, slow, restarted, refusing writes: slower and briefly stale, never an error."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis.asyncio

from smriti_scale.cache import Cache
from smriti_scale.errors import CircuitOpen
from smriti_scale.events import BreakerChanged, CacheChannelChanged, Event, Events
from smriti_scale.local import LocalRedis
from smriti_scale.testing.fault_proxy import FaultProxy
from tests.cache.conftest import MakeCache, until

Proxies = Callable[..., Awaitable[FaultProxy]]


class Service:
    """A process of a service: a cache, and a function over a value that all of them share."""

    value = 0

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.loads = 0

        @cache.cached(60, key="value:{x}", tags=["all"])
        async def read(x: int) -> int:
            self.loads += 1
            return type(self).value

        self.read = read


def services(*caches: Cache) -> list[Any]:
    kind = type("Shared", (Service,), {"value": 0})
    return [kind(cache) for cache in caches]


async def test_a_redis_that_refuses_is_no_error(redis_cache: MakeCache, fault_proxy: Proxies, redis_url: str) -> None:
    proxy = await fault_proxy(redis_url)
    await proxy.refuse()
    (service,) = services(redis_cache(proxy.uri))
    assert [await service.read(1) for _ in range(3)] == [0, 0, 0]
    await service.cache.set("k", 1, 60)
    await service.cache.get("k")
    await service.read.invalidate(1)
    await service.cache.clear()
    assert service.cache.stats().breaker == "open"
    with pytest.raises(CircuitOpen):
        await service.cache.ping()


async def test_a_redis_that_never_answers_costs_its_deadline_once(
    redis_cache: MakeCache, fault_proxy: Proxies, redis_url: str
) -> None:
    proxy = await fault_proxy(redis_url)
    (service,) = services(redis_cache(proxy.uri, timeout=0.2, max_entries=0))
    await service.read(0)
    await proxy.swallow()
    started = time.monotonic()
    await asyncio.gather(*(service.read(x) for x in range(50)))
    together = time.monotonic() - started
    started = time.monotonic()
    for x in range(200):
        await service.read(x)
    afterwards = time.monotonic() - started
    assert service.loads == 1 + 50 + 200
    # Not a measurement (the benchmark has that): had each call waited for a deadline, this would be 40 s.
    assert together + afterwards < 10
    assert service.cache.stats().breaker != "closed"


async def test_a_redis_that_never_answered_from_the_start_is_no_error(
    redis_cache: MakeCache, fault_proxy: Proxies, redis_url: str
) -> None:
    proxy = await fault_proxy(redis_url)
    await proxy.swallow()
    (service,) = services(redis_cache(proxy.uri, timeout=0.1))
    assert await service.read(1) == 0
    await proxy.heal()
    await until(lambda: service.cache.stats().breaker == "closed" and service.cache.stats().channel == "live")
    assert await service.read(2) == 0


async def test_a_slow_redis_that_keeps_its_deadline_is_used(
    redis_cache: MakeCache, fault_proxy: Proxies, redis_url: str
) -> None:
    proxy = await fault_proxy(redis_url)
    one, other = services(redis_cache(proxy.uri), redis_cache(proxy.uri))
    await one.cache.start()
    await other.cache.start()
    await proxy.delay(0.03)
    assert await one.read(1) == await other.read(1) == 0
    assert (one.loads, other.loads) == (1, 0)
    assert one.cache.stats().breaker == "closed"


async def test_recovery_needs_no_restart_and_no_traffic(
    redis_cache: MakeCache, fault_proxy: Proxies, redis_url: str
) -> None:
    seen: list[Event] = []
    proxy = await fault_proxy(redis_url)
    (service,) = services(redis_cache(proxy.uri, events=Events(seen.append)))
    await service.read(1)
    await proxy.cut()
    await proxy.refuse()
    await service.read(2)
    await until(lambda: service.cache.stats().breaker != "closed" or service.cache.stats().channel == "lost")
    await proxy.heal()
    await until(lambda: service.cache.stats().breaker == "closed" and service.cache.stats().channel == "live")
    assert await service.read(3) == 0
    changes = [event.state for event in seen if isinstance(event, CacheChannelChanged)]
    assert changes[:3] == ["live", "lost", "live"]
    assert any(isinstance(event, BreakerChanged) for event in seen)


async def test_an_invalidation_that_redis_missed_is_made_good_when_it_is_back(
    redis_cache: MakeCache, fault_proxy: Proxies, redis_url: str
) -> None:
    """The writer is cut off; another process, which is not, learns of the write when the writer is back."""
    proxy = await fault_proxy(redis_url)
    writer, reader = services(redis_cache(proxy.uri), redis_cache())
    type(writer).value = 0
    assert await writer.read(1) == await reader.read(1) == 0
    await proxy.cut()
    await proxy.refuse()
    type(writer).value = 1
    await writer.cache.invalidate_tags("all")
    assert await writer.read(1) == 1  # the writer's own process never shows the old value again
    await proxy.heal()
    await until(lambda: writer.cache.stats().breaker == "closed")
    assert await writer.read(1) == 1
    await until(lambda: reader.cache.stats().memory_entries == 0)
    assert await reader.read(1) == 1


async def test_memory_is_believed_for_a_bounded_time_without_the_channel(
    redis_cache: MakeCache, fault_proxy: Proxies, redis_url: str
) -> None:
    proxy = await fault_proxy(redis_url)
    cut_off, writer = services(redis_cache(proxy.uri, max_partition_stale=1.0, timeout=0.1), redis_cache())
    assert await cut_off.read(1) == 0
    await proxy.swallow()
    type(writer).value = 1
    await writer.cache.invalidate_tags("all")
    assert await cut_off.read(1) == 0  # it cannot know yet
    invalidated_at = time.monotonic()
    while await cut_off.read(1) == 0:
        assert time.monotonic() - invalidated_at < 8
        await asyncio.sleep(0.01)
    assert cut_off.loads == 2


async def test_with_no_tolerance_memory_is_bypassed(redis_cache: MakeCache) -> None:
    (service,) = services(redis_cache(max_partition_stale=0))
    for _ in range(3):
        await service.read(1)
    stats = service.cache.stats()
    assert (stats.hits_memory, stats.hits_redis, service.loads) == (0, 2, 1)


async def test_what_was_remembered_before_the_channel_was_lost_is_checked_after(
    redis_cache: MakeCache, fault_proxy: Proxies, redis_url: str
) -> None:
    proxy = await fault_proxy(redis_url)
    cut_off, writer = services(redis_cache(proxy.uri), redis_cache())
    assert await cut_off.read(1) == 0
    await proxy.cut()
    type(writer).value = 1
    await writer.cache.invalidate_tags("all")
    await proxy.heal()
    await until(lambda: cut_off.cache.stats().channel == "live")
    assert await cut_off.read(1) == 1


async def test_factories_are_few_at_a_time_while_redis_is_down(
    redis_cache: MakeCache, fault_proxy: Proxies, redis_url: str
) -> None:
    proxy = await fault_proxy(redis_url)
    await proxy.refuse()
    cache = redis_cache(proxy.uri, max_loads=4)
    running = most = 0

    @cache.cached(60)
    async def inner(x: int) -> int:
        return x

    @cache.cached(60)
    async def load(x: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1
        return await inner(x)  # must not wait for a place while holding one

    assert await asyncio.gather(*(load(x) for x in range(40))) == list(range(40))
    assert most == 4


async def test_a_redis_that_takes_no_writes_does_not_keep_old_values_alive(
    redis_cache: MakeCache, fault_redis: LocalRedis
) -> None:
    one, other = services(redis_cache(fault_redis.uri), redis_cache(fault_redis.uri))
    assert await one.read(1) == await other.read(1) == 0
    async with redis.asyncio.Redis.from_url(fault_redis.uri) as admin:
        await admin.execute_command("ACL", "SETUSER", "default", "-evalsha", "-eval")  # type: ignore[no-untyped-call]
        try:
            type(one).value = 1
            await one.cache.invalidate_tags("all")
            assert await one.read(1) == 1
        finally:
            await admin.execute_command("ACL", "SETUSER", "default", "+@all")  # type: ignore[no-untyped-call]
    await until(lambda: one.cache.stats().breaker == "closed")
    assert await one.read(1) == 1
    await until(lambda: other.cache.stats().memory_entries == 0)
    assert await other.read(1) == 1


async def test_a_redis_without_memory_left_is_no_error(redis_cache: MakeCache, fault_redis: LocalRedis) -> None:
    async with redis.asyncio.Redis.from_url(fault_redis.uri) as admin:
        (service,) = services(redis_cache(fault_redis.uri))
        await service.read(1)
        await admin.config_set("maxmemory", 1)
        try:
            assert await service.read(2) == 0
            await service.cache.invalidate_tags("all")
            assert await service.read(2) == 0
        finally:
            await admin.config_set("maxmemory", 0)
    await until(lambda: service.cache.stats().breaker == "closed")
    assert await service.read(3) == 0


async def test_a_killed_and_restarted_redis_is_taken_up_again(redis_cache: MakeCache, fault_redis: LocalRedis) -> None:
    one, other = services(redis_cache(fault_redis.uri), redis_cache(fault_redis.uri))
    assert await one.read(1) == await other.read(1) == 0
    await fault_redis.kill()
    type(one).value = 1
    await one.cache.invalidate_tags("all")
    assert await one.read(1) == 1
    await fault_redis.restart()
    for service in (one, other):
        await until(lambda s=service: s.cache.stats().channel == "live" and s.cache.stats().breaker == "closed")  # type: ignore[misc]
        assert await service.read(1) == 1


async def test_a_paused_redis_is_a_redis_that_never_answers(redis_cache: MakeCache, fault_redis: LocalRedis) -> None:
    (service,) = services(redis_cache(fault_redis.uri, timeout=0.1))
    await service.read(1)
    await fault_redis.pause()
    for x in range(2, 20):
        assert await service.read(x) == 0
    await fault_redis.resume()
    await until(lambda: service.cache.stats().breaker == "closed")


async def test_a_flushed_redis_brings_nothing_back(redis_cache: MakeCache, fault_redis: LocalRedis) -> None:
    (service,) = services(redis_cache(fault_redis.uri, max_entries=0))
    await service.read(1)
    type(service).value = 1
    await service.cache.invalidate_tags("all")
    async with redis.asyncio.Redis.from_url(fault_redis.uri) as admin:
        await admin.flushall()
        await admin.script_flush()
    assert await service.read(1) == 1


async def test_a_cancelled_caller_leaves_the_shared_connection_in_order(redis_cache: MakeCache) -> None:
    (service,) = services(redis_cache(max_entries=0))
    for x in range(20):
        await service.cache.set(f"k{x}", x, 60)
    for _ in range(30):
        tasks = [asyncio.create_task(service.cache.get(f"k{x}")) for x in range(20)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert results[1::2] == list(range(1, 20, 2))
