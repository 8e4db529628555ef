from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest
import pytest_asyncio
from pymongo.errors import BulkWriteError, OperationFailure

from smriti_scale import context
from smriti_scale.errors import ConfigurationError, DatabaseUnavailable
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


async def test_a_session_of_the_users_own_moves_the_position_when_it_has_written(mongo: MongoClients) -> None:
    async with mongo.consistent() as scope:
        started = mongo.client().start_session()
        async with await started if asyncio.iscoroutine(started) else started as session:
            await mongo.read.posts.find_one({"_id": 1}, session=session)
            assert not scope.wrote
            await mongo.write.posts.insert_one({"_id": 1}, session=session)
            assert scope.wrote
            at = scope.at
            # Two at once: whichever answer comes first, the write's position is taken.
            await asyncio.gather(
                mongo.write.posts.find_one({"_id": 1}, session=session),
                mongo.write.posts.count_documents({}, session=session),
                mongo.write.posts.update_one({"_id": 1}, {"$set": {"n": 1}}, session=session),
            )
            assert scope.at > at
        assert await mongo.read.posts.find_one({"_id": 1}) == {"_id": 1, "n": 1}


async def test_a_write_that_the_server_refuses_moves_nothing_but_one_of_many_does(mongo: MongoClients) -> None:
    async with mongo.consistent() as scope:
        with pytest.raises(OperationFailure):
            await mongo.write.command({"insert": "posts", "documents": []})
        assert not scope.wrote
        await mongo.write.posts.insert_one({"_id": 1})
        at = scope.at
        with pytest.raises(BulkWriteError):
            await mongo.write.posts.insert_many([{"_id": 2}, {"_id": 1}, {"_id": 3}])
        assert scope.at > at
        assert await mongo.read.posts.count_documents({}) == 2


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


async def test_a_transaction_whose_time_is_over_is_one_clear_error_and_leaves_nothing(mongo: MongoClients) -> None:
    await mongo.write.posts.insert_one({"_id": "kept"})

    async def slow() -> None:
        await mongo.write.posts.insert_one({"_id": "half"})
        await mongo.write.posts.find_one({"$where": "sleep(3000) || true"})

    async def idle() -> None:
        await mongo.write.posts.insert_one({"_id": "half"})
        await asyncio.sleep(0.5)
        await mongo.write.posts.find_one({})

    for work in (slow, idle):
        with pytest.raises(DatabaseUnavailable):
            await mongo.transaction(work, timeout=0.4)
    assert await mongo.read.posts.distinct("_id") == ["kept"]


async def test_the_same_uri_twice_makes_one_client(mongo_uri: str) -> None:
    clients = MongoClients(mongo_uri, f"{mongo_uri}&readPreference=nearest", database="any", driver="pymongo")
    assert clients.client("read") is clients.client("write")
    assert clients.read.read_preference.mongos_mode == "nearest"
    await clients.aclose()


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_two_uris_that_differ_make_two_clients_and_one_promise(
    mongo_uri: str, mongo_database_name: str, driver: Driver
) -> None:
    clients = MongoClients(
        mongo_uri, f"{mongo_uri}&appName=reports", database=mongo_database_name, driver=driver, min_pool_size=0
    )
    async with clients:
        assert clients.client("read") is not clients.client("write")
        for number in range(20):
            await clients.write.posts.insert_one({"_id": number})
            assert await clients.read.posts.find_one({"_id": number})

        async def work() -> Any:
            await clients.write.posts.insert_one({"_id": "in"})
            return await clients.read.posts.find_one({"_id": "in"})

        assert await clients.transaction(work) == {"_id": "in"}


@pytest.mark.parametrize("preference", ["secondary", "nearest", "primaryPreferred", "primary"])
async def test_every_read_preference_keeps_the_promise(
    mongo_uri: str, mongo_database_name: str, preference: str
) -> None:
    clients = MongoClients(
        mongo_uri, database=mongo_database_name, driver="pymongo", min_pool_size=0, read_preference=preference
    )
    async with clients:
        assert clients.read.read_preference.mongos_mode == preference
        for number in range(20):
            await clients.write.posts.insert_one({"_id": number})
            assert await clients.read.posts.find_one({"_id": number})


async def test_tag_sets_staleness_and_hedging_pass_through(mongo_uri: str, mongo_database_name: str) -> None:
    from pymongo.read_preferences import Nearest, SecondaryPreferred

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # hedged reads, from MongoDB 8.0 on
        hedged = Nearest(hedge={"enabled": True})
        async with MongoClients(
            mongo_uri, read_preference=hedged, database=mongo_database_name, driver="pymongo", min_pool_size=0
        ) as clients:
            assert clients.read.read_preference.document == {"mode": "nearest", "hedge": {"enabled": True}}
    given = SecondaryPreferred(tag_sets=[{"use": "reports"}, {}], max_staleness=120)
    options: dict[str, Any] = {"database": mongo_database_name, "driver": "pymongo", "min_pool_size": 0}
    async with MongoClients(mongo_uri, read_preference=given, **options) as clients:
        assert clients.read.read_preference == given
        assert clients.read.read_preference.document == given.document
        assert await clients.read.posts.find_one({}) is None
    uri = f"{mongo_uri}&readPreference=secondary&readPreferenceTags=use:reports,dc:ny&readPreferenceTags="
    async with MongoClients(mongo_uri, uri, **options) as clients:
        document = {"mode": "secondary", "tags": [{"use": "reports", "dc": "ny"}, {}]}
        assert clients.read.read_preference.document == document
        assert clients.client("read") is clients.client("write")


async def test_write_concern_always_has_a_timeout(mongo_uri: str) -> None:
    from pymongo.write_concern import WriteConcern

    for given, expected in (
        ("majority", {"w": "majority", "wtimeout": 2500}),
        (2, {"w": 2, "wtimeout": 2500}),
        (WriteConcern("majority", wtimeout=100), {"w": "majority", "wtimeout": 100}),
        (WriteConcern(1, j=True), {"w": 1, "j": True, "wtimeout": 2500}),
    ):
        clients = MongoClients(
            mongo_uri, database="any", driver="pymongo", write_concern=given, write_timeout=2.5, min_pool_size=0
        )
        assert clients.write.write_concern.document == clients.read.write_concern.document == expected
        await clients.aclose()


async def test_what_the_uri_says_wins_over_the_defaults(mongo_uri: str) -> None:
    clients = MongoClients(f"{mongo_uri}&maxPoolSize=7", database="any", driver="pymongo", min_pool_size=0)
    assert clients.client().options.pool_options.max_pool_size == 7
    await clients.aclose()


async def test_a_change_stream_runs_beside_causal_reads(mongo: MongoClients) -> None:
    async with mongo.consistent():
        await mongo.write.posts.insert_one({"_id": 0})
        watching = mongo.read.posts.watch()
        async with await watching if asyncio.iscoroutine(watching) else watching as stream:
            assert await stream.try_next() is None
            await mongo.write.posts.insert_one({"_id": 1})
            async with asyncio.timeout(20):
                assert (await stream.next())["documentKey"] == {"_id": 1}


async def test_work_that_outlives_its_scope_goes_on_from_where_it_stood(mongo: MongoClients) -> None:
    go = asyncio.Event()

    async def later() -> Any:
        await go.wait()
        await mongo.write.posts.insert_one({"_id": 2})
        return await mongo.read.posts.find({}, sort=[("_id", 1)]).to_list(None)

    async with mongo.consistent():
        await mongo.write.posts.insert_one({"_id": 1})
        task = asyncio.create_task(later())
    go.set()
    assert await task == [{"_id": 1}, {"_id": 2}]


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
