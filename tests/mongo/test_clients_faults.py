"""Clients in trouble: no connection, no primary, another loop, another process."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
from pymongo import monitoring
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
    WTimeoutError,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from smriti_scale.errors import ConfigurationError, DatabaseUnavailable
from smriti_scale.events import BreakerChanged, CausalWait, Event, Events, PoolExhausted, PrimaryChanged
from smriti_scale.local import LocalMongo
from smriti_scale.mongo import MongoClients, handle_unavailable
from smriti_scale.mongo.clients import Driver
from smriti_scale.mongo.uri import MongoURI, redacted

pytestmark = pytest.mark.long

NOBODY = "mongodb://ada:secret-password@127.0.0.1:9/?replicaSet=none&authSource=admin"
PRIMARY_STEPPED_DOWN = 189
UNREACHABLE = [
    # PyMongo leaves the socket of a connection attempt that its `close()` interrupts to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("_swept"),
]
DRIVERS = pytest.mark.parametrize("driver", ["motor", "pymongo"])


@pytest.fixture
def _swept() -> Iterator[None]:
    """What a test leaves to the garbage collector is collected in it, not in the next one."""
    yield
    gc.collect()


def bulk(*, write: dict[str, Any] | None = None, concern: dict[str, Any] | None = None) -> BulkWriteError:
    return BulkWriteError(
        {"writeErrors": [write] if write else [], "writeConcernErrors": [concern] if concern else [], "nInserted": 1}
    )


def unreachable(test: Any) -> Any:
    for mark in UNREACHABLE:
        test = mark(test)
    return test


@unreachable
@DRIVERS
async def test_no_primary_in_time_is_one_clear_error(driver: Driver) -> None:
    clients = MongoClients(NOBODY, database="any", driver=driver, write_timeout=0.3, connect_timeout=0.2)
    with pytest.raises(DatabaseUnavailable, match="no MongoDB node could take the command") as caught:
        await clients.write.posts.insert_one({})
    assert isinstance(caught.value, ServerSelectionTimeoutError)
    assert isinstance(caught.value, AutoReconnect)
    assert caught.value.retry_after == 0.3
    with pytest.raises(DatabaseUnavailable):
        await clients.ping()
    await clients.aclose()


@unreachable
@DRIVERS
async def test_an_application_starts_while_mongodb_is_down(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    clients = MongoClients(NOBODY, database="any", driver=driver, write_timeout=0.3, connect_timeout=0.2)
    async with clients:
        status = await clients.status()
    assert status.primary is None
    assert [node.role for node in status.nodes] == ["unknown"]
    assert "does not answer yet" in caplog.text


@unreachable
async def test_credentials_are_shown_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    clients = MongoClients(NOBODY, NOBODY.replace("=admin", "=users"), database="any", write_timeout=0.2)
    async with clients:
        with pytest.raises(DatabaseUnavailable) as caught:
            await clients.write.posts.insert_one({})
    shown = [repr(clients), str(caught.value), caplog.text, repr(clients._options)]
    assert not any("secret-password" in text for text in shown)
    assert "mongodb://***@127.0.0.1:9/" in repr(clients)
    with pytest.raises(ConfigurationError) as refused:
        MongoClients("mongodb://ada:secret-password@", database="any")
    assert "secret-password" not in str(refused.value)


@pytest.mark.parametrize(
    "uri",
    [
        "mongodb://ada:secret-password@db.example",
        "mongodb://ada:secret-password/with-slash@db.example/app",
        "mongodb://ada:secret-password?@db.example/app?tls=true",
        "mongodb://ada:secret@password@db.example/?appName=a@b",
        "mongodb://db.example/?tlsCertificateKeyFilePassword=secret-password&w=1",
        "mongodb://ada@db.example/?authMechanismProperties=AWS_SESSION_TOKEN:secret-password",
        "mongodb://db.example/?proxyHost=p&proxyUsername=u&proxyPassword=secret-password",
    ],
)
def test_a_uri_is_shown_without_any_of_its_secrets(uri: str) -> None:
    shown = redacted(uri)
    assert "db.example" in shown
    try:
        shown += repr(MongoURI.parse(uri))
    except ConfigurationError as malformed:
        shown += str(malformed)
    assert "secret" not in shown
    assert "password@" not in shown


@DRIVERS
async def test_200_requests_on_5_connections_queue_and_all_are_served(
    mongo_uri: str, mongo_database_name: str, driver: Driver
) -> None:
    clients = MongoClients(
        mongo_uri, database=mongo_database_name, driver=driver, max_pool_size=5, min_pool_size=0, wait_queue_timeout=60
    )
    async with clients:
        await asyncio.gather(*(clients.write.posts.insert_one({"_id": number}) for number in range(200)))
        assert await clients.write.posts.count_documents({}) == 200
        assert all(node.pool.open <= 5 and node.pool.limit == 5 for node in (await clients.status()).nodes)


@DRIVERS
async def test_a_full_pool_ends_in_a_clear_error_and_an_event(
    mongo_uri: str, mongo_database_name: str, driver: Driver
) -> None:
    seen: list[Event] = []
    clients = MongoClients(
        mongo_uri,
        database=mongo_database_name,
        driver=driver,
        max_pool_size=1,
        min_pool_size=0,
        wait_queue_timeout=0.2,
        events=Events(seen.append),
    )
    async with clients:
        await clients.write.posts.insert_one({})
        slow = asyncio.ensure_future(clients.write.posts.find_one({"$where": "sleep(3000) || true"}))
        connection = clients._here().writing
        while not any(connection._pool(node.address).busy for node in connection._all_nodes()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        outcomes = await asyncio.gather(*(clients.write.posts.find_one({}) for _ in range(3)), return_exceptions=True)
        await slow
    assert all(isinstance(outcome, DatabaseUnavailable) for outcome in outcomes)
    assert all(isinstance(outcome, WaitQueueTimeoutError) for outcome in outcomes)
    assert "max_pool_size" in str(outcomes[0])
    await asyncio.sleep(0)
    assert seen.count(PoolExhausted()) == 3


@DRIVERS
def test_each_event_loop_gets_clients_of_its_own(mongo_uri: str, driver: Driver) -> None:
    clients = MongoClients(mongo_uri, database="loops", driver=driver, min_pool_size=0)
    seen: list[Any] = []

    async def use(close: bool) -> None:
        await clients.ping()
        seen.append(clients.client())
        if close:
            await clients.aclose()

    asyncio.run(use(close=True))
    asyncio.run(use(close=True))
    if driver == "motor":  # PyMongo Async warns of a client that its loop left open
        asyncio.run(use(close=False))
        asyncio.run(use(close=True))
        assert len(clients._opened) == 0
    assert len({id(client) for client in seen}) == len(seen)


def test_outside_of_a_loop_the_error_says_what_to_do() -> None:
    with pytest.raises(ConfigurationError, match="inside async functions"):
        _ = MongoClients("mongodb://localhost", database="any").write


FORKING = """
import asyncio, os, sys
from smriti_scale.mongo import MongoClients

clients = MongoClients(os.environ["URI"], database="forks", driver=sys.argv[1], min_pool_size=0)

async def use():
    await clients.ping()
    return id(clients.client())

asyncio.run(use())  # a preloading parent, which leaves its client open
child = os.fork()
if child == 0:
    status = 1
    try:
        asyncio.run(asyncio.wait_for(use(), 20))
        status = 0
    finally:
        os._exit(status)
_, status = os.waitpid(child, 0)
asyncio.run(use())
print(os.waitstatus_to_exitcode(status))
"""


@DRIVERS
def test_a_forked_child_does_not_use_its_parents_connections(mongo_uri: str, driver: Driver) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING, driver],
        env={**os.environ, "URI": mongo_uri},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.stdout.strip() == "0", ran.stderr


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (DatabaseUnavailable("no primary on db-1.internal", retry_after=2.2), 503),
        (ServerSelectionTimeoutError("db-1.internal:27017: connection refused"), 503),
        (WTimeoutError("waiting for replication timed out", 64, {}), 503),
        (bulk(concern={"code": 64, "errmsg": "waiting for replication timed out"}), 503),
        (bulk(write={"code": 189, "errmsg": "db-1.internal stepped down"}), 503),
        (bulk(write={"code": 11000, "errmsg": "E11000 on db-1.internal"}), 500),
        (bulk(write={"code": 11000, "errmsg": "E11000"}, concern={"code": 64, "errmsg": "on db-1.internal"}), 500),
    ],
)
async def test_http_clients_are_told_to_come_back_and_nothing_of_the_inside(error: Exception, status: int) -> None:
    assert await answered(error) == status


async def answered(error: Exception) -> int:
    """The status with which an application answers whose handler raises this."""

    async def broken(_: Request) -> Response:
        raise error

    app = Starlette(routes=[Route("/", broken)])
    handle_unavailable(app)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.get("/")
    assert "internal" not in answer.text
    assert answer.status_code == 500 or int(answer.headers["Retry-After"]) >= 1
    return answer.status_code


@pytest.mark.xdist_group("fault_mongo")
@DRIVERS
async def test_a_new_primary_is_an_event_and_neither_reads_nor_writes_fail(
    fault_mongo: LocalMongo, driver: Driver
) -> None:
    seen: list[Event] = []
    clients = MongoClients(
        fault_mongo.uri, database=f"stepdown_{driver}", driver=driver, min_pool_size=0, events=Events(seen.append)
    )
    async with clients:
        await clients.write.posts.insert_one({"_id": 0})
        old = await fault_mongo.primary()
        stop = asyncio.Event()

        async def load() -> int:
            done = 0
            while not stop.is_set():
                done += 1
                await clients.write.posts.update_one({"_id": 0}, {"$set": {"n": done}})
                found = await clients.read.posts.find_one({"_id": 0})
                assert found is not None
                assert found["n"] == done
            return done

        task = asyncio.create_task(load())
        with suppress(AutoReconnect):  # the node that steps down may hang up
            await clients.client().admin.command("replSetStepDown", 5, force=True)
        async with asyncio.timeout(60):
            while not any(isinstance(event, PrimaryChanged) and event.previous is None for event in seen[1:]):
                await clients.write.posts.insert_one({})
        stop.set()
        assert await task > 0
    changes = [event for event in seen if isinstance(event, PrimaryChanged)]
    assert changes[0].previous is None
    assert f"{old.host}:{old.port}" in {change.previous for change in changes}


@pytest.mark.xdist_group("fault_mongo")
@DRIVERS
async def test_a_step_down_in_the_midst_of_a_write_is_tried_again_and_the_write_done_once(
    fault_mongo: LocalMongo, driver: Driver
) -> None:
    """The server tells it as the write's own error, without the label that has drivers try again."""
    clients = MongoClients(fault_mongo.uri, database=f"midst_{driver}", driver=driver, min_pool_size=0)
    async with clients:
        posts = clients.write.posts
        await posts.insert_one({"_id": 0, "n": 0})
        writes: tuple[Callable[[], Awaitable[Any]], ...] = (
            lambda: posts.insert_one({"_id": 1}),
            lambda: posts.update_one({"_id": 0}, {"$inc": {"n": 1}}),
            lambda: posts.replace_one({"_id": 1}, {"n": 5}),
            lambda: posts.delete_one({"_id": 1}),
            lambda: posts.find_one_and_update({"_id": 0}, {"$inc": {"n": 1}}),
        )
        for write in writes:
            async with stepping_down_within(clients, times=2):
                await write()
        assert await posts.find({}).to_list(None) == [{"_id": 0, "n": 2}]
        # Of a bulk the driver keeps each write's error: it says which were not done, and HTTP clients get 503.
        async with stepping_down_within(clients, times=2):  # the batch, then its first document alone
            with pytest.raises(BulkWriteError) as stopped:
                await posts.insert_many([{"_id": 7}, {"_id": 8}])
        assert stopped.value.details["nInserted"] == 0
        assert [error["code"] for error in stopped.value.details["writeErrors"]] == [PRIMARY_STEPPED_DOWN]
        assert await answered(stopped.value) == 503


@asynccontextmanager
async def stepping_down_within(clients: MongoClients, *, times: int) -> AsyncIterator[None]:
    """The next writes of a retryable kind fail just before they would be committed, as in a step-down."""
    admin = clients.client().admin
    fail = {"failBeforeCommitExceptionCode": PRIMARY_STEPPED_DOWN, "closeConnection": False}
    await admin.command("configureFailPoint", "onPrimaryTransactionalWrite", mode={"times": times}, data=fail)
    try:
        yield
    finally:
        await admin.command("configureFailPoint", "onPrimaryTransactionalWrite", mode="off")


@pytest.mark.xdist_group("fault_mongo")
async def test_a_silent_secondary_costs_a_few_reads_a_moment_and_then_none(fault_mongo: LocalMongo) -> None:
    """SIGSTOP: it accepts connections and never answers."""
    seen: list[Event] = []
    clients = MongoClients(
        fault_mongo.uri, database="silent", driver="pymongo", min_pool_size=0, events=Events(seen.append)
    )
    async with clients:
        await clients.write.posts.insert_one({"_id": 0})
        paused = (await fault_mongo.secondaries())[0]
        await fault_mongo.pause(paused)
        for number in range(1, 40):
            async with clients.consistent():
                await clients.write.posts.insert_one({"_id": number})
                token = clients.position
            async with clients.consistent(token):
                assert await clients.read.posts.find_one({"_id": number})
        await fault_mongo.resume(paused)
    assert any(isinstance(event, CausalWait) and not event.reached for event in seen)
    assert any(isinstance(event, BreakerChanged) and "replica" in event.breaker for event in seen)


async def test_a_users_own_driver_listener_goes_on_working(mongo_uri: str) -> None:
    names: list[str] = []

    class Listener(monitoring.CommandListener):
        def started(self, event: monitoring.CommandStartedEvent) -> None:
            names.append(event.command_name)

        def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
            pass

        def failed(self, event: monitoring.CommandFailedEvent) -> None:
            pass

    clients = MongoClients(
        mongo_uri, database="any", driver="pymongo", min_pool_size=0, client_options={"event_listeners": [Listener()]}
    )
    async with clients:
        await clients.ping()
    assert "ping" in names
