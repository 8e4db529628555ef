from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any, Literal

import pytest
import pytest_asyncio
from bson import SON
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient
from pymongo.errors import BulkWriteError, DuplicateKeyError, OperationFailure
from pymongo.monitoring import CommandStartedEvent, CommandSucceededEvent

from smriti_scale.events import Events
from smriti_scale.mongo import MongoClients, QueryGuard, guard as guard_module
from smriti_scale.monitoring import Metrics, MongoCommands, Monitoring, mongo_commands
from tests.monitoring.figures import series, until, value

COUNT = "scale_mongo_command_duration_seconds_count"
ERRORS = "scale_mongo_command_errors_total"


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest_asyncio.fixture(params=["motor", "pymongo"])
async def watched(
    request: pytest.FixtureRequest, mongo_uri: str, mongo_database_name: str, metrics: Metrics
) -> AsyncIterator[Any]:
    """A database of either driver whose commands are counted."""
    make: Callable[..., Any] = AsyncIOMotorClient if request.param == "motor" else AsyncMongoClient
    client = make(mongo_uri, event_listeners=[MongoCommands(metrics)])
    yield client[mongo_database_name]
    closing = client.close()
    if closing is not None:
        await closing


async def test_commands_are_counted_by_collection_and_name(watched: Any, metrics: Metrics) -> None:
    await watched.posts.insert_many([{"_id": n} for n in range(300)])
    assert len(await watched.posts.find({}, batch_size=100).to_list(None)) == 300
    await watched.posts.count_documents({})
    await watched.posts.update_one({"_id": 1}, {"$set": {"a": 1}})
    await watched.posts.find_one_and_delete({"_id": 2})
    await watched.command("dbStats")
    counted = series(metrics, COUNT)
    assert {key: counted[key] for key in counted if key != ("posts", "getMore")} == {
        ("posts", "insert"): 1,
        ("posts", "find"): 1,
        ("posts", "aggregate"): 1,
        ("posts", "update"): 1,
        ("posts", "findAndModify"): 1,
        ("", "dbStats"): 1,
    }
    assert counted["posts", "getMore"] >= 2
    assert value(metrics, COUNT.replace("_count", "_sum"), collection="posts", command="find") > 0
    assert series(metrics, ERRORS) == {}


async def test_failures_and_refused_writes_are_counted_by_name(watched: Any, metrics: Metrics) -> None:
    await watched.posts.insert_one({"_id": 1})
    with pytest.raises(DuplicateKeyError):
        await watched.posts.insert_one({"_id": 1})
    with pytest.raises(BulkWriteError):
        await watched.posts.insert_many([{"_id": 1}, {"_id": 1}], ordered=False)
    with pytest.raises(OperationFailure):
        await watched.posts.find_one({"$nonsense": 1})
    with pytest.raises(OperationFailure):
        await watched.command("noSuchCommand", "posts")
    assert series(metrics, ERRORS) == {
        ("posts", "insert", "DuplicateKey"): 2,
        ("posts", "find", "BadValue"): 1,
        ("posts", "noSuchCommand", "CommandNotFound"): 1,
    }
    assert value(metrics, COUNT, collection="posts", command="insert") == 3


async def test_what_no_application_asks_is_not_counted(watched: Any, metrics: Metrics) -> None:
    await watched.command("ping")
    await watched.client.admin.command("hello")
    assert series(metrics, COUNT) == {}


async def test_nothing_is_kept_of_commands_that_are_over(watched: Any, metrics: Metrics) -> None:
    listener = next(one for one in watched.client.options.event_listeners if isinstance(one, MongoCommands))
    await watched.posts.insert_one({})
    with pytest.raises(OperationFailure):
        await watched.posts.find_one({"$nonsense": 1})
    assert listener._running == {}


async def test_a_command_that_is_cancelled_is_an_error_and_forgotten(
    mongo_uri: str, mongo_database_name: str, metrics: Metrics
) -> None:
    counting, guard = MongoCommands(metrics), QueryGuard(slow_ms=100)
    async with AsyncMongoClient[dict[str, Any]](mongo_uri, event_listeners=[counting, guard]) as client:
        posts = client[mongo_database_name].posts
        await posts.insert_one({})
        slow = asyncio.create_task(posts.find_one({"$where": "sleep(300) || true"}))
        await until(lambda: counting._running)
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
    assert series(metrics, ERRORS) == {("posts", "find", "CancelledError"): 1}
    assert not counting._running
    assert not guard._running


def test_commands_whose_end_is_never_told_do_not_pile_up(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mongo_commands, "MOST_RUNNING", 5)
    monkeypatch.setattr(guard_module, "_MOST_RUNNING", 5)
    counting, guard = MongoCommands(metrics), QueryGuard(slow_ms=100)
    for number in range(100):
        started = CommandStartedEvent(SON([("find", "posts")]), "app", number, ("127.0.0.1", 1), number)
        counting.started(started)
        guard.started(started)
        assert 0 < len(counting._running) <= 5
        assert 0 < len(guard._running) <= 5
    ended = CommandSucceededEvent(timedelta(milliseconds=1), {}, "find", 99, ("127.0.0.1", 1), 99)
    counting.succeeded(ended)
    assert value(metrics, COUNT, collection="posts", command="find") == 1


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_the_clients_of_an_application_report_pools_lag_and_slow_shapes(
    mongo_uri: str, mongo_database_name: str, driver: Literal["motor", "pymongo"]
) -> None:
    events = Events()
    monitoring = Monitoring(events=events)
    listeners = [monitoring.command_listener, QueryGuard(slow_ms=0.001, events=events)]
    mongo = MongoClients(
        mongo_uri,
        database=mongo_database_name,
        driver=driver,
        client_options={"event_listeners": listeners},
        events=events,
    )
    monitoring.sample("mongodb", mongo.status)
    async with mongo:
        await mongo.write.posts.insert_one({"user_id": "secret-42"})
        await mongo.read.posts.find({"user_id": "secret-42"}).to_list(None)
        await monitoring.look()
        nodes = {node.address: node for node in (await mongo.status()).nodes}
    metrics = monitoring.metrics
    assert set(series(metrics, "scale_mongo_pool_limit")) == {(address,) for address in nodes}
    assert set(series(metrics, "scale_mongo_pool_limit").values()) == {50.0}
    assert sum(series(metrics, "scale_mongo_pool_connections").values()) > 0
    secondaries = {(address,) for address, node in nodes.items() if node.role == "secondary"}
    assert set(series(metrics, "scale_mongo_replication_lag_seconds")) == secondaries
    assert value(metrics, COUNT, collection="posts", command="find") == 1
    (slow,) = [shape for shape in monitoring.slow_queries if shape.shape.startswith("find posts")]
    assert "user_id" in slow.wants
    assert "secret" not in slow.shape
    assert value(metrics, "scale_mongo_slow_queries_total", collection="posts") >= 1
    assert series(metrics, "scale_sample_failures_total") == {}
