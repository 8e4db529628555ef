from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest
import pytest_asyncio

from smriti_scale import context
from smriti_scale.errors import ConfigurationError
from smriti_scale.mongo import CausalToken, MongoClients

Driver = Literal["motor", "pymongo"]


@pytest_asyncio.fixture(params=["motor", "pymongo"])
async def mongo(
    request: pytest.FixtureRequest, mongo_uri: str, mongo_database_name: str
) -> AsyncIterator[MongoClients]:
    clients = MongoClients(mongo_uri, database=mongo_database_name, driver=request.param, min_pool_size=0)
    yield clients
    await clients.aclose()


async def test_writes_go_to_the_primary_and_reads_to_secondaries(mongo: MongoClients) -> None:
    await mongo.write.command("ping")
    async with mongo.consistent():
        served = await mongo.read.command("hello", read_preference=mongo.read.read_preference)
        assert served["secondary"]
    assert (await mongo.write.command("hello"))["isWritablePrimary"]


async def test_a_read_sees_the_write_before_it(mongo: MongoClients) -> None:
    for number in range(50):
        await mongo.write.posts.insert_one({"_id": number})
        assert await mongo.read.posts.find_one({"_id": number}) == {"_id": number}


async def test_every_kind_of_read_sees_every_kind_of_write(mongo: MongoClients) -> None:
    from pymongo import InsertOne, UpdateOne

    posts, read = mongo.write.posts, mongo.read.posts
    await posts.insert_many([{"_id": 1, "n": 0}, {"_id": 2, "n": 0}])
    assert await read.count_documents({}) == 2
    await posts.bulk_write([InsertOne({"_id": 3, "n": 5}), UpdateOne({"_id": 1}, {"$set": {"n": 1}})])
    assert [post["n"] async for post in read.find({}, sort=[("_id", 1)])] == [1, 0, 5]
    await posts.find_one_and_update({"_id": 2}, {"$inc": {"n": 7}})
    assert await read.distinct("n", {"_id": 2}) == [7]
    cursor = posts.aggregate([{"$match": {"_id": 3}}, {"$merge": {"into": "copies"}}])
    async for _ in await cursor if asyncio.iscoroutine(cursor) else cursor:
        pass
    assert await mongo.read.copies.find_one({"_id": 3}) == {"_id": 3, "n": 5}
    await posts.delete_one({"_id": 3})
    assert await read.find_one({"_id": 3}) is None


async def test_writes_at_once_are_all_done_and_all_seen(mongo: MongoClients) -> None:
    async with mongo.consistent():
        await asyncio.gather(*(mongo.write.posts.insert_one({"_id": number}) for number in range(100)))
        assert await mongo.read.posts.count_documents({}) == 100


async def test_the_context_carries_the_newest_position_even_of_child_tasks(mongo: MongoClients) -> None:
    async with mongo.consistent() as scope:
        assert context.causal_position.get() is None
        await asyncio.gather(mongo.write.posts.insert_one({"_id": 1}))
        position = context.causal_position.get()
        assert position is not None
        assert CausalToken.decode(position) == scope.token == mongo.position
        assert context.capture()["causal_position"] == position
    assert context.causal_position.get() is None


async def test_a_position_restored_as_text_is_honoured_and_moves(mongo: MongoClients) -> None:
    async with mongo.consistent() as scope:
        await mongo.write.posts.insert_one({"_id": 1})
        carried = context.capture()
    with context.restored(carried):
        assert mongo.position == scope.token
        assert await mongo.read.posts.find_one({"_id": 1})
        await mongo.write.posts.insert_one({"_id": 2})
        assert context.causal_position.get() != carried["causal_position"]


async def test_what_is_done_in_a_consistent_block_does_not_move_the_request_around_it(mongo: MongoClients) -> None:
    async with mongo.consistent() as outer:
        async with mongo.consistent() as inner:
            await mongo.write.posts.insert_one({"_id": 1})
        assert inner.token is not None
        assert outer.token is None


async def test_a_transaction_commits_all_or_nothing_and_is_read_afterwards(mongo: MongoClients) -> None:
    await mongo.write.posts.insert_one({"_id": 0})

    async def work() -> int:
        await mongo.write.posts.insert_one({"_id": 1})
        await mongo.write.counts.update_one({"_id": "posts"}, {"$inc": {"n": 1}}, upsert=True)
        found: int = await mongo.read.posts.count_documents({})
        return found

    assert await mongo.transaction(work) == 2
    assert await mongo.read.counts.find_one({"_id": "posts"}) == {"_id": "posts", "n": 1}

    async def broken() -> None:
        await mongo.write.posts.insert_one({"_id": 2})
        raise RuntimeError("changed my mind")

    with pytest.raises(RuntimeError, match="changed my mind"):
        await mongo.transaction(broken)
    assert await mongo.read.posts.find_one({"_id": 2}) is None


async def test_transactions_in_conflict_are_run_again(mongo: MongoClients) -> None:
    await mongo.write.counts.insert_one({"_id": "hits", "n": 0})

    async def hit() -> None:
        counted: dict[str, Any] = await mongo.write.counts.find_one({"_id": "hits"})
        await asyncio.sleep(0)
        await mongo.write.counts.update_one({"_id": "hits"}, {"$set": {"n": counted["n"] + 1}})

    await asyncio.gather(*(mongo.transaction(hit) for _ in range(5)))
    assert (await mongo.read.counts.find_one({"_id": "hits"}))["n"] == 5


async def test_the_same_uri_twice_makes_one_client(mongo_uri: str) -> None:
    clients = MongoClients(mongo_uri, f"{mongo_uri}&readPreference=nearest", database="any", driver="pymongo")
    assert clients.client("read") is clients.client("write")
    assert clients.read.read_preference.mongos_mode == "nearest"
    await clients.aclose()


async def test_ping_status_and_warm_up(mongo_uri: str) -> None:
    clients = MongoClients(mongo_uri, database="any", driver="pymongo", min_pool_size=3)
    async with clients:
        await clients.ping()
        status = await clients.status()
        assert [node.role for node in status.nodes].count("secondary") == 2
        assert status.primary is not None
        assert [(node.pool.limit, node.pool.open >= 3) for node in status.nodes] == [(50, True)] * 3
        assert status.lag_seconds is not None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"driver": "mysql"}, "driver"),
        ({"max_pool_size": 5}, "min_pool_size"),
        ({"write_timeout": 0}, "write_timeout"),
        ({"read_preference": "sometimes"}, "sometimes"),
        ({"database": ""}, "database"),
    ],
)
def test_a_wrong_argument_is_refused_at_once(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        MongoClients("mongodb://localhost", **({"database": "any"} | wrong))
