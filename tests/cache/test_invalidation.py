"""Invalidation: by key, by tag and of everything, from any process, and against loads under way."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import pytest
import redis.asyncio

from smriti_scale.cache import Cache, Invalidation
from smriti_scale.errors import CacheKeyError
from smriti_scale.events import CacheInvalidated, Event, Events
from tests.cache.conftest import MakeCache, until


class Database:
    """One value that changes, and functions that read it."""

    def __init__(self) -> None:
        self.value = 0
        self.reads = 0
        self.hold: asyncio.Event | None = None
        self.reading = asyncio.Event()

    def reader(self, cache: Cache, **options: Any) -> Any:
        @cache.cached(60, **{"key": "value:{x}", "tags": ["tag:{x}"], **options})
        async def read(x: int) -> int:
            self.reads += 1
            value = self.value
            self.reading.set()
            if self.hold is not None:
                await self.hold.wait()
            return value

        return read


async def change(way: str, cache: Cache, read: Any) -> None:
    """Make the entry of `read(1)` old, or put 1 in its place."""
    match way:
        case "key":
            await read.invalidate(1)
        case "tag":
            await cache.invalidate_tags("tag:1")
        case "clear":
            await cache.clear()
        case "set":
            await cache.set(read.key(1), 1, 60, as_type=int)
        case "refresh":
            await read.refresh(1)


async def test_by_key_tag_or_clear_the_next_read_is_new(any_cache: Cache) -> None:
    database = Database()
    read = database.reader(any_cache)
    ways = [
        lambda: read.invalidate(1),
        lambda: any_cache.invalidate(read.key(1)),
        lambda: any_cache.delete(read.key(1)),
        lambda: any_cache.invalidate_tags("tag:1"),
        lambda: any_cache.invalidate_tags("other", "tag:1"),
        any_cache.clear,
    ]
    assert await read(1) == await read(2) == 0
    for number, invalidate in enumerate(ways, start=1):
        database.value = number
        assert await read(1) == number - 1
        await invalidate()
        assert await read(1) == number
    assert await read(2) == 6  # by the clear
    assert database.reads == 2 + len(ways) + 1


async def test_a_tag_is_plain_text_whatever_the_arguments_type(any_cache: Cache) -> None:
    database = Database()
    read = database.reader(any_cache)
    await read(7)
    database.value = 1
    await any_cache.invalidate_tags(f"tag:{7}")
    assert await read(7) == 1


async def test_tags_can_come_from_the_result(any_cache: Cache) -> None:
    calls = 0

    @any_cache.cached(60, tags_from=lambda posts: [f"post:{post}" for post in posts])
    async def feed() -> list[int]:
        nonlocal calls
        calls += 1
        return [1, 2]

    await feed()
    await any_cache.invalidate_tags("post:3")
    await feed()
    assert calls == 1
    await any_cache.invalidate_tags("post:2")
    await feed()
    assert calls == 2


async def test_a_tag_of_the_result_that_changed_during_the_load_keeps_it_out(any_cache: Cache) -> None:
    database = Database()
    read = database.reader(any_cache, tags=[], tags_from=lambda _: ["late"])
    await any_cache.invalidate_tags("late")
    database.hold = asyncio.Event()
    old = asyncio.create_task(read(1))
    await database.reading.wait()
    database.value = 1
    await any_cache.invalidate_tags("late")
    database.hold.set()
    assert await old == 0
    assert await read(1) == 1


@pytest.mark.parametrize("way", ["key", "tag", "clear"])
async def test_a_load_under_way_does_not_store_what_it_read_before(any_cache: Cache, way: str) -> None:
    database = Database()
    read = database.reader(any_cache)
    database.hold = asyncio.Event()
    old = asyncio.create_task(read(1))
    await database.reading.wait()
    database.value = 1
    await change(way, any_cache, read)
    database.hold.set()
    # Who comes after the invalidation does not join the load that began before it.
    assert await read(1) == 1
    assert await old == 0
    assert await read(1) == 1


@pytest.mark.parametrize("way", ["key", "tag", "clear"])
async def test_another_processs_load_under_way_does_not_store_either(redis_cache: MakeCache, way: str) -> None:
    database = Database()
    here, there = redis_cache(), redis_cache()
    read_here, read_there = database.reader(here), database.reader(there)
    database.hold = asyncio.Event()
    old = asyncio.create_task(read_there(1))
    await database.reading.wait()
    database.value = 1
    await change(way, here, read_here)
    database.hold.set()
    assert await read_here(1) == 1
    assert await old == 0
    assert await read_there(1) == 1


@pytest.mark.parametrize("way", ["key", "tag", "clear", "set", "refresh"])
async def test_other_processes_memory_drops_the_old_value(redis_cache: MakeCache, way: str) -> None:
    database = Database()
    here, there = redis_cache(), redis_cache()
    read_here, read_there = database.reader(here), database.reader(there)
    assert await read_here(1) == await read_there(1) == 0
    assert there.stats().memory_entries == 1
    database.value = 1
    await change(way, here, read_here)
    await until(lambda: there.stats().memory_entries == 0)
    assert await read_there(1) == 1


async def test_a_tag_whose_version_was_lost_does_not_bring_old_entries_back(
    redis_cache: MakeCache, redis_client: redis.asyncio.Redis
) -> None:
    database = Database()
    cache = redis_cache(max_entries=0)
    read = database.reader(cache)
    await read(1)
    await cache.invalidate_tags("tag:1")
    database.value = 1
    versions = [key async for key in redis_client.scan_iter(match=f"{cache.name}:1:t:*tag:1*")]
    assert await redis_client.delete(*versions) == 1  # as an eviction would
    assert await read(1) == 1


async def test_a_lost_version_makes_entries_old_never_wrong(
    redis_cache: MakeCache, redis_client: redis.asyncio.Redis
) -> None:
    database = Database()
    cache = redis_cache(max_entries=0)
    read = database.reader(cache)
    await read(1)
    for key in [key async for key in redis_client.scan_iter(match=f"{cache.name}:1:t:*")]:
        await redis_client.delete(key)
        database.value += 1
        assert await read(1) == database.value


async def test_nothing_searches_redis_or_needs_to(
    redis_cache: MakeCache, redis_client: redis.asyncio.Redis, redis_url: str
) -> None:
    user = f"cache{secrets.token_hex(4)}"
    await redis_client.acl_setuser(
        user,
        enabled=True,
        passwords=["+secret"],
        keys=["*"],
        channels=["*"],
        commands=["+@all", "-@dangerous", "-scan"],
    )
    try:
        cache = redis_cache(redis_url.replace("redis://", f"redis://{user}:secret@"))
        database = Database()
        read = database.reader(cache)
        for invalidate in (lambda: read.invalidate(1), lambda: cache.invalidate_tags("tag:1"), cache.clear):
            await read(1)
            database.value += 1
            await invalidate()
            assert await read(1) == database.value
        assert cache.stats().breaker == "closed"
        assert cache.stats().channel == "live"
    finally:
        await redis_client.acl_deluser(user)


async def test_a_cancelled_writer_still_invalidates(redis_cache: MakeCache) -> None:
    database = Database()
    here, there = redis_cache(), redis_cache()
    read_there = database.reader(there)
    await here.start()
    await read_there(1)
    database.value = 1
    writer = asyncio.create_task(here.invalidate_tags("tag:1"))
    await asyncio.sleep(0)
    writer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writer
    await until(lambda: there.stats().memory_entries == 0)
    assert await read_there(1) == 1


async def test_the_version_argument_hides_everything_stored_before(redis_cache: MakeCache) -> None:
    old, new = redis_cache(version=1), redis_cache(version=2)
    await old.set("k", 1, 60)
    assert await new.get("k") is None
    assert await old.get("k") == 1


async def test_caches_of_two_namespaces_do_not_meet(redis_cache: MakeCache, redis_prefix: str) -> None:
    one, other = redis_cache(namespace=f"{redis_prefix}one"), redis_cache(namespace=f"{redis_prefix}other")
    await one.set("k", 1, 60)
    assert await other.get("k") is None
    await other.clear()
    assert await one.get("k") == 1


async def test_hooks_hear_of_this_processs_invalidations_once(redis_cache: MakeCache) -> None:
    here, there = redis_cache(), redis_cache()
    heard: list[Invalidation] = []

    async def purge(change: Invalidation) -> None:
        heard.append(change)

    def fail(change: Invalidation) -> None:
        raise ValueError

    here.on_invalidate(fail)
    remove = here.on_invalidate(purge)
    there.on_invalidate(heard.append)
    await there.start()
    await here.invalidate_tags("a", "b", "a")
    await here.invalidate("k")
    await until(lambda: len(heard) == 2)
    assert [(change.keys, change.tags) for change in heard] == [((), ("a", "b")), (("k",), ())]
    remove()
    await here.clear()
    assert len(heard) == 2


async def test_an_invalidation_is_an_event_without_names(redis_cache: MakeCache) -> None:
    seen: list[Event] = []
    cache = redis_cache(events=Events(seen.append))
    await cache.invalidate_tags("user:42", "user:43")
    assert CacheInvalidated(cache.name, keys=0, tags=2, everything=False, delivered=True) in seen


@pytest.mark.parametrize("tag", ["", "*", None, 7])
async def test_a_tag_that_cannot_be_one_is_refused(memory_cache: Cache, tag: Any) -> None:
    with pytest.raises(CacheKeyError, match="a tag is a non-empty text"):
        await memory_cache.invalidate_tags(tag)
