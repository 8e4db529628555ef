"""After a write: no load reads before it, and the person who wrote sees it on every instance."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest
from bson import Timestamp
from pymongo import AsyncMongoClient, ReadPreference, WriteConcern
from pymongo.asynchronous.client_session import AsyncClientSession

from smriti_scale import context
from smriti_scale.cache import Cache
from smriti_scale.local import LocalMongo
from smriti_scale.testing.fault_proxy import FaultProxy
from smriti_scale.testing.manual_clock import ManualClock
from smriti_scale.testing.replication import replication_lag
from tests.cache.conftest import MakeCache, until


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
    options: dict[str, Any] = {"memory": {"url": None}, "redis": {"max_entries": 0}, "both": {}}[store]
    cache = redis_cache(fill=recorder, clock=clock, **options)
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


async def test_who_wrote_sees_it_at_once_on_an_instance_that_has_not_heard(
    redis_cache: MakeCache, fault_proxy: Callable[..., Awaitable[FaultProxy]], redis_url: str
) -> None:
    """The other instance's notices are held up; its commands are not, as when its loop is busy."""
    proxy = await fault_proxy(redis_url)
    value = 0

    def reader(cache: Cache) -> Any:
        @cache.cached(60, key="value", tags=["value"])
        async def read() -> int:
            return value

        return read

    here = redis_cache()
    there = redis_cache(own_write_window=5.0)
    read_there = reader(there)
    assert await read_there() == 0
    channel = there._tiers.channel
    assert channel is not None
    channel._on_message = lambda _: None  # the notice has not arrived yet
    value = 1
    with at("mine"):
        await here.invalidate_tags("value")
    assert await read_there() == 0  # somebody else, for a moment
    with at("mine"):
        assert await read_there() == 1
    assert proxy.connections_accepted == 0


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
    """Nobody invalidated here yet: the other instance's notice is still on its way."""
    value, entered, gate = 0, asyncio.Event(), asyncio.Event()
    here, there = redis_cache(), redis_cache()

    @there.cached(60, key="value", tags=["value"])
    async def read() -> int:
        found = value
        entered.set()
        await gate.wait()
        return found

    await there.start()
    channel = there._tiers.channel
    assert channel is not None
    channel._on_message = lambda _: None
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


class Posts:
    """Posts on a replica set: written to the primary, read from a secondary that lags."""

    def __init__(self, client: AsyncMongoClient[dict[str, Any]], secondary: Any) -> None:
        self.client = client
        self.written = client.test.get_collection("posts", write_concern=WriteConcern(1))
        self.read = secondary.test.get_collection("posts", read_preference=ReadPreference.SECONDARY)
        self.secondary = secondary
        self.at: str | None = None

    async def write(self, n: int, title: str) -> str:
        """Write, and the position of the write."""
        async with self.client.start_session() as session:
            await self.written.update_one({"_id": n}, {"$set": {"title": title}}, upsert=True, session=session)
            assert session.operation_time is not None
            return f"{session.operation_time.time}.{session.operation_time.inc}"

    async def title(self, n: int, session: AsyncClientSession | None = None) -> str | None:
        found = await self.read.find_one({"_id": n}, session=session)
        return found["title"] if found else None


async def stale_after_write(
    posts: Posts, cache: Cache, other: Cache, fault: LocalMongo, *, trials: int, hook: bool
) -> int:
    """Writes, invalidations, then loads from a lagging secondary: how many loads stored what was before the write."""
    wanted: list[Timestamp] = []

    @contextlib.contextmanager
    def fill(positions: Sequence[str]) -> Iterator[None]:
        newest = max(tuple(map(int, position.split("."))) for position in positions)
        wanted.append(Timestamp(*newest))
        yield
        wanted.pop()

    if hook:
        other._loader._fill = fill

    @other.cached(60, key="title:{n}", tags=["post:{n}"])
    async def title(n: int) -> str | None:
        async with posts.secondary.start_session(causal_consistency=True) as session:
            if wanted:
                session.advance_operation_time(wanted[-1])
            return await posts.title(n, session)

    stale = 0
    async with replication_lag(fault, 0.15):
        for n in range(trials):
            with at(await posts.write(n, "new")):
                await cache.invalidate_tags(f"post:{n}")
            stale += await title(n) != "new"
    return stale


@pytest.mark.long
async def test_no_load_stores_what_a_lagging_replica_had_before_the_write(
    redis_cache: MakeCache, fault_mongo: LocalMongo
) -> None:
    async with AsyncMongoClient(fault_mongo.uri) as client, AsyncMongoClient(fault_mongo.uri) as secondary:
        posts = Posts(client, secondary)
        for n in range(30):
            await posts.write(n, "old")
        await until(lambda: True)
        without = await stale_after_write(posts, redis_cache(), redis_cache(), fault_mongo, trials=10, hook=False)
        assert without > 0, "the replica does not lag, so this test shows nothing"
        for n in range(30):
            await posts.write(n, "old")
        here, there = redis_cache(version=2), redis_cache(version=2)
        assert await stale_after_write(posts, here, there, fault_mongo, trials=30, hook=True) == 0
