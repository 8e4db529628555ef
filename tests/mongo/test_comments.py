"""The request's id as the `comment` of MongoDB commands, as the server tells it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest
from pymongo import AsyncMongoClient, InsertOne, UpdateOne

from smriti_scale import context
from smriti_scale.mongo import MongoClients

pytestmark = pytest.mark.long

Drivers = Literal["motor", "pymongo"]


@pytest.fixture(params=["motor", "pymongo"])
async def mongo(request: Any, mongo_uri: str, mongo_database_name: str) -> AsyncIterator[MongoClients]:
    async with MongoClients(
        mongo_uri, database=mongo_database_name, driver=request.param, comment=True, read_preference="primary"
    ) as clients:
        yield clients


@pytest.fixture
async def profiled(mongo: MongoClients, mongo_uri: str) -> AsyncIterator[Any]:
    """The profiler's records, as `(operation, comment)`."""
    admin: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(mongo_uri)
    async with admin:
        database = admin[mongo.database]
        await database.command("profile", 2)

        async def read() -> list[tuple[str, Any]]:
            await database.command("profile", 0)
            found = database["system.profile"].find({"ns": {"$regex": r"\.posts$"}}).sort("ts", 1)
            return [(next(iter(one["command"])), one["command"].get("comment")) async for one in found]

        yield read
        await database.command("profile", 0)


async def test_the_profiler_names_the_request_of_every_kind_of_command(mongo: MongoClients, profiled: Any) -> None:
    posts = mongo.write.posts
    with context.restored({"request_id": "order-4711"}):
        await posts.insert_many([{"_id": number, "n": number} for number in range(10)])
        await posts.update_one({"_id": 1}, {"$set": {"n": 5}})
        await posts.find_one_and_update({"_id": 2}, {"$set": {"n": 5}})
        await posts.find({}, batch_size=2).to_list(None)
        await posts.count_documents({})
        await posts.distinct("n")
        await posts.bulk_write([InsertOne({"_id": 100}), UpdateOne({"_id": 100}, {"$set": {"n": 1}})])
        await posts.delete_one({"_id": 3})
    found = await profiled()
    assert len(found) >= 10
    # The profiler writes a statement of an update or delete by itself, and findAndModify by its new name.
    told = {comment for _, comment in found}
    assert "order-4711" in told
    assert {operation for operation, comment in found if comment == "order-4711"} >= {
        "insert",
        "find",
        "getMore",
        "aggregate",
        "distinct",
        "findAndModify",
    }
    for operation, comment in found:
        assert comment in ("order-4711", None), operation


async def test_a_write_in_a_transaction_is_named_too(mongo: MongoClients, profiled: Any) -> None:
    await mongo.write.posts.insert_one({"_id": 0})

    async def work() -> None:
        await mongo.write.posts.find_one({"_id": 0})
        await mongo.write.posts.insert_one({"_id": 1})

    with context.restored({"request_id": "order-4712"}):
        await mongo.transaction(work)
    found = await profiled()
    assert [operation for operation, comment in found if comment == "order-4712"] == ["find", "insert"]


async def test_a_comment_of_the_caller_s_own_stays(mongo: MongoClients, profiled: Any) -> None:
    with context.restored({"request_id": "order-4711"}):
        await mongo.write.posts.find_one({"_id": 1}, comment="mine")
    await mongo.write.posts.find_one({"_id": 2})
    assert await profiled() == [("find", "mine"), ("find", None)]


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_without_the_option_nothing_is_added(driver: Drivers, mongo_uri: str, mongo_database_name: str) -> None:
    admin: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(mongo_uri)
    clients = MongoClients(mongo_uri, database=mongo_database_name, driver=driver, read_preference="primary")
    async with clients, admin:
        database = admin[mongo_database_name]
        await database.command("profile", 2)
        with context.restored({"request_id": "order-4711"}):
            await clients.write.posts.find_one({"_id": 1})
        await database.command("profile", 0)
        (record,) = await database["system.profile"].find({"ns": {"$regex": r"\.posts$"}}).to_list()
        assert "comment" not in record["command"]
