"""After a write: no load reads before it, and the person who wrote sees it on every instance."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from contextvars import ContextVar
from typing import Any

import pytest
from bson import json_util
from pymongo import AsyncMongoClient, ReadPreference, WriteConcern

from smriti_scale import context
from smriti_scale.cache import Cache
from smriti_scale.local import LocalMongo
from smriti_scale.testing.manual_clock import ManualClock
from smriti_scale.testing.replication import replication_lag
from tests.cache.conftest import MakeCache


@contextlib.contextmanager
def at(position: str | None) -> Iterator[None]:
    """The caller's causal position, as a middleware would set it."""
    token = context.causal_position.set(position)
    try:
        yield
    finally:
        context.causal_position.reset(token)


class Recorder:
    """A fill hook that notes what it was given."""

    def __init__(self) -> None:
        self.given: list[list[str]] = []

    @contextlib.contextmanager
    def __call__(self, positions: Sequence[str]) -> Iterator[None]:
        self.given.append(list(positions))
        yield


async def one() -> int:
    return 1


@pytest.mark.parametrize("store", ["memory", "redis", "both"])
async def test_a_load_after_an_invalidation_is_told_where_to_read(
    store: str, redis_cache: MakeCache, clock: ManualClock
) -> None:
    recorder = Recorder()
    options: dict[str, dict[str, Any]] = {"memory": {"url": None}, "redis": {"max_entries": 0}, "both": {}}
    cache = redis_cache(fill=recorder, clock=clock, **options[store])
    with at("after write 1"):
        await cache.invalidate("k")
    with at("after write 2"):
        await cache.invalidate_tags("t")
    with at("after write 3"):
        await cache.invalidate_tags("unrelated")
    await cache.get_or_set("k", one, 60, tags=["t"])
    assert recorder.given == [["after write 1", "after write 2"]]
    with at("after write 4"):
        await cache.clear()
    await cache.get_or_set("other", one, 60)
    assert recorder.given[1:] == [["after write 4"]]


async def test_another_processs_load_is_told_too(redis_cache: MakeCache) -> None:
    recorder = Recorder()
    here, there = redis_cache(), redis_cache(fill=recorder)
    with at("p1"):
        await here.invalidate("k")
    with at("p2"):
        await here.invalidate("k")
    await there.get_or_set("k", one, 60)
    assert recorder.given == [["p1", "p2"]]


async def test_a_load_without_invalidations_before_it_is_left_alone(any_cache: Cache) -> None:
    recorder = Recorder()
    any_cache._loader._fill = recorder
    await any_cache.invalidate_tags("t")  # by nobody with a position
    await any_cache.get_or_set("k", one, 60, tags=["t"])
    assert recorder.given == []


async def test_a_position_is_forgotten_after_its_window(redis_cache: MakeCache, clock: ManualClock) -> None:
    recorder = Recorder()
    cache = redis_cache(None, fill=recorder, clock=clock, causal_window=60)
    with at("p"):
        await cache.invalidate("k")
    clock.advance(61)
    await cache.get_or_set("k", one, 60)
    assert recorder.given == []


async def test_the_hook_may_be_asynchronous_and_its_error_is_the_loads(memory_cache: Cache) -> None:
    entered = []

    @contextlib.asynccontextmanager
    async def fill(positions: Sequence[str]) -> AsyncIterator[None]:
        await asyncio.sleep(0)
        entered.append(list(positions))
        yield
        raise ConnectionError("the replica set is away")

    memory_cache._loader._fill = fill
    with at("p"):
        await memory_cache.invalidate("k")
    with pytest.raises(ConnectionError, match="the replica set is away"):
        await memory_cache.get_or_set("k", one, 60)
    assert entered == [["p"]]


async def test_who_wrote_sees_it_at_once_on_an_instance_that_has_not_heard(redis_cache: MakeCache) -> None:
    value = 0
    here, there = redis_cache(), redis_cache()

    @there.cached(60, key="value", tags=["value"])
    async def read() -> int:
        return value

    assert await read() == 0
    hold_notices(there)
    value = 1
    with at("mine"):
        await here.invalidate_tags("value")
    assert await read() == 0  # somebody else, for a moment
    with at("mine"):
        assert await read() == 1


def hold_notices(cache: Cache) -> None:
    """As if they were still on their way."""
    channel = cache._tiers.channel
    assert channel is not None
    channel._on_message = lambda _: None


async def test_a_position_is_news_for_a_few_seconds_only(redis_cache: MakeCache) -> None:
    cache = redis_cache(own_write_window=0.2)

    @cache.cached(60)
    async def read() -> int:
        return 1

    with at("mine"):
        await read()
        await read()
        assert cache.stats().hits_memory == 0
        assert cache.stats().hits_redis == 1
        await asyncio.sleep(0.25)
        await read()
        await read()
    assert cache.stats().hits_memory == 2


async def test_who_wrote_does_not_join_a_load_from_before(redis_cache: MakeCache) -> None:
    value, entered, gate = 0, asyncio.Event(), asyncio.Event()
    here, there = redis_cache(), redis_cache()

    @there.cached(60, key="value", tags=["value"])
    async def read() -> int:
        found = value
        entered.set()
        await gate.wait()
        return found

    await there.start()
    hold_notices(there)
    others = asyncio.create_task(read())
    await entered.wait()
    value = 1
    with at("mine"):
        await here.invalidate_tags("value")
        mine = asyncio.create_task(read())
    await asyncio.sleep(0.05)
    gate.set()
    assert await mine == 1
    assert await others == 0
    assert await read() == 1


Client = AsyncMongoClient[dict[str, Any]]


class Posts:
    """Posts on a replica set: written to the primary, read from a secondary that lags, by two processes' clients."""

    def __init__(self, writing: Client, reading: Client) -> None:
        self._writing = writing
        self._reading = reading
        self._written = writing.test.get_collection("posts", write_concern=WriteConcern(1))
        self._read = reading.test.get_collection("posts", read_preference=ReadPreference.SECONDARY)
        self._fill_at: ContextVar[str | None] = ContextVar("fill_at", default=None)

    async def write(self, n: int, title: str) -> str:
        """Write; the position of the write, as the application's causal token has it."""
        async with self._writing.start_session() as session:
            await self._written.update_one({"_id": n}, {"$set": {"title": title}}, upsert=True, session=session)
            return json_util.dumps([session.operation_time, session.cluster_time])

    async def title(self, n: int) -> str | None:
        """Read from a secondary, at or after the position that the hook has set."""
        async with self._reading.start_session(causal_consistency=True) as session:
            if (position := self._fill_at.get()) is not None:
                operation_time, cluster_time = json_util.loads(position)
                session.advance_cluster_time(cluster_time)
                session.advance_operation_time(operation_time)
            found = await self._read.find_one({"_id": n}, session=session)
        return found["title"] if found else None

    @contextlib.contextmanager
    def fill(self, positions: Sequence[str]) -> Iterator[None]:
        """The hook: read at or after the newest of the positions."""
        newest = max(positions, key=lambda position: json_util.loads(position)[0])
        token = self._fill_at.set(newest)
        try:
            yield
        finally:
            self._fill_at.reset(token)


async def stale_loads(posts: Posts, writer: Cache, reader: Cache, trials: Sequence[int]) -> int:
    """Writes, invalidations, then loads by another process: how many loads stored what was before the write."""

    @reader.cached(60, key="title:{n}", tags=["post:{n}"])
    async def title(n: int) -> str | None:
        return await posts.title(n)

    stale = 0
    for n in trials:
        with at(await posts.write(n, "new")):
            await writer.invalidate_tags(f"post:{n}")
        stale += await title(n) != "new"
    return stale


@pytest.mark.long
async def test_no_load_stores_what_a_lagging_replica_had_before_the_write(
    redis_cache: MakeCache, fault_mongo: LocalMongo
) -> None:
    async with AsyncExitStack() as clients:
        writing: Client = await clients.enter_async_context(AsyncMongoClient(fault_mongo.uri))
        reading: Client = await clients.enter_async_context(AsyncMongoClient(fault_mongo.uri))
        posts = Posts(writing, reading)
        everywhere = writing.test.get_collection("posts", write_concern=WriteConcern(3))
        await everywhere.insert_many([{"_id": n, "title": "old"} for n in range(60)])
        async with replication_lag(fault_mongo, 0.15):
            without = await stale_loads(posts, redis_cache(), redis_cache(), range(20))
            assert without > 0, "the secondaries do not lag, so this test shows nothing"
            assert await stale_loads(posts, redis_cache(), redis_cache(fill=posts.fill), range(20, 60)) == 0
