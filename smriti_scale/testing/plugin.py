"""The pytest plugin: servers, databases, prefixes, a clock and faults as fixtures.

pytest loads this in every run once the package is installed, so it imports nothing heavy and starts nothing until a
test asks. The servers are shared by the whole session, pytest-xdist's workers included; `SMRITI_MONGODB_URI` and
`SMRITI_REDIS_URL` name running ones to use instead.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Literal

import pytest

from smriti_scale.testing.query_guard import pytest_collection_finish, query_guard  # noqa: F401 - for pytest to find
from smriti_scale.testing.shared_servers import OwnServers, ServersOfController, ServerSource

try:
    from pytest_asyncio import fixture as _async_fixture
except ImportError:  # anyio's plugin runs plain async fixtures too
    _async_fixture = pytest.fixture  # type: ignore[assignment]

if TYPE_CHECKING:
    import redis.asyncio
    from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorDatabase
    from pymongo import AsyncMongoClient, MongoClient
    from pymongo.asynchronous.database import AsyncDatabase

    from smriti_scale.local import LocalMongo, LocalRedis
    from smriti_scale.testing.fault_proxy import FaultProxy
    from smriti_scale.testing.manual_clock import ManualClock

    Document = dict[str, Any]
    Database = AsyncIOMotorDatabase[Document] | AsyncDatabase[Document]

_SERVERS = pytest.StashKey[ServerSource]()
_WORKER_INPUT = "smriti_scale_servers"


def pytest_configure(config: pytest.Config) -> None:
    """Say where servers come from; start none."""
    given = getattr(config, "workerinput", {}).get(_WORKER_INPUT)
    config.stash[_SERVERS] = ServersOfController(given) if given else OwnServers()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """pytest-xdist: tell a worker how to ask for servers."""
    servers = node.config.stash[_SERVERS]
    node.workerinput[_WORKER_INPUT] = servers.address_for_workers()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop what was started."""
    if servers := config.stash.get(_SERVERS, None):
        servers.close()


@pytest.fixture(scope="session")
def mongo_server(pytestconfig: pytest.Config) -> LocalMongo:
    """The session's three-node replica set, with fail points allowed. Shared: do not harm it, see `fault_mongo`."""
    return pytestconfig.stash[_SERVERS].mongo()


@pytest.fixture(scope="session")
def redis_server(pytestconfig: pytest.Config) -> LocalRedis:
    """The session's Redis. Shared: do not harm it, see `fault_redis`."""
    return pytestconfig.stash[_SERVERS].redis()


@pytest.fixture(scope="session")
def mongo_uri(mongo_server: LocalMongo) -> str:
    """The replica set's URI."""
    return mongo_server.uri


@pytest.fixture(scope="session")
def redis_url(redis_server: LocalRedis) -> str:
    """The Redis server's URL."""
    return redis_server.uri


@pytest.fixture(scope="session")
def _mongo_cleaner(mongo_uri: str) -> Iterator[MongoClient[Document]]:
    """Drops databases when their tests are over; blocking, so that it is bound to no test's event loop."""
    from pymongo import MongoClient

    client: MongoClient[Document] = MongoClient(mongo_uri, w=1)
    yield client
    client.close()


@pytest.fixture
def mongo_database_name(_mongo_cleaner: MongoClient[Document]) -> Iterator[str]:
    """A name that no other test uses; the database is dropped afterwards."""
    name = f"test_{secrets.token_hex(8)}"
    yield name
    _mongo_cleaner.drop_database(name)


@_async_fixture
async def motor_client(mongo_uri: str) -> AsyncIterator[AsyncIOMotorClient[Document]]:
    """A Motor client of the replica set, in this test's event loop."""
    from motor.motor_asyncio import AsyncIOMotorClient

    client: AsyncIOMotorClient[Document] = AsyncIOMotorClient(mongo_uri)
    yield client
    client.close()


@_async_fixture
async def motor_db(
    motor_client: AsyncIOMotorClient[Document], mongo_database_name: str
) -> AsyncIOMotorDatabase[Document]:
    """An empty database, by Motor."""
    return motor_client[mongo_database_name]


@_async_fixture
async def pymongo_client(mongo_uri: str) -> AsyncIterator[AsyncMongoClient[Document]]:
    """A PyMongo Async client of the replica set, in this test's event loop."""
    from pymongo import AsyncMongoClient

    client: AsyncMongoClient[Document] = AsyncMongoClient(mongo_uri)
    async with client:
        yield client


@_async_fixture
async def pymongo_db(pymongo_client: AsyncMongoClient[Document], mongo_database_name: str) -> AsyncDatabase[Document]:
    """An empty database, by PyMongo Async."""
    return pymongo_client[mongo_database_name]


@pytest.fixture
def mongo_driver(request: pytest.FixtureRequest) -> Literal["motor", "pymongo"]:
    """The driver behind `db`: Motor, unless parametrised: `parametrize("mongo_driver", ["pymongo"], indirect=True)`."""
    return getattr(request, "param", "motor")


@pytest.fixture
def db(request: pytest.FixtureRequest, mongo_driver: str) -> Database:
    """An empty database, by Motor or by what `mongo_driver` says."""
    database: Database = request.getfixturevalue(f"{mongo_driver}_db")
    return database


@pytest.fixture(params=["motor", "pymongo"])
def both_drivers_db(request: pytest.FixtureRequest) -> Database:
    """An empty database; the test runs twice, by Motor and by PyMongo Async."""
    database: Database = request.getfixturevalue(f"{request.param}_db")
    return database


@pytest.fixture
def redis_prefix(redis_url: str) -> Iterator[str]:
    """A key prefix that no other test uses, ending in a colon; its keys are deleted afterwards."""
    import redis

    prefix = f"test:{secrets.token_hex(8)}:"
    yield prefix
    with redis.Redis.from_url(redis_url) as client:
        for key in client.scan_iter(match=f"{prefix}*", count=1000):
            client.unlink(key)


@_async_fixture
async def redis_client(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    """A client of the session's Redis, in this test's event loop; answers are bytes."""
    import redis.asyncio

    async with redis.asyncio.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still until the test moves it."""
    from smriti_scale.testing.manual_clock import ManualClock

    return ManualClock()


@_async_fixture
async def fault_proxy() -> AsyncIterator[Callable[..., Awaitable[FaultProxy]]]:
    """Makes proxies that misbehave on command: `proxy = await fault_proxy(redis_url)` or `(host, port)`."""
    from smriti_scale.testing.fault_proxy import FaultProxy

    async with AsyncExitStack() as proxies:

        async def make(server: str, port: int | None = None) -> FaultProxy:
            return await proxies.enter_async_context(FaultProxy(server, port))

        yield make


@_async_fixture
async def own_mongo() -> AsyncIterator[Callable[..., Awaitable[LocalMongo]]]:
    """Starts replica sets for this test alone: `server = await own_mongo(replicas=3)`; arguments as `LocalMongo`'s."""
    from smriti_scale.local import LocalMongo

    async with AsyncExitStack() as servers:

        async def make(replicas: int = 1, **options: Any) -> LocalMongo:
            options = {"test_commands": True, "use_environment": False, **options}
            return await servers.enter_async_context(LocalMongo(replicas, **options))

        yield make


@_async_fixture
async def own_redis() -> AsyncIterator[Callable[..., Awaitable[LocalRedis]]]:
    """Starts Redis servers for this test alone: `server = await own_redis()`; arguments as `LocalRedis`'s."""
    from smriti_scale.local import LocalRedis

    async with AsyncExitStack() as servers:

        async def make(**options: Any) -> LocalRedis:
            return await servers.enter_async_context(LocalRedis(**{"use_environment": False, **options}))

        yield make


@pytest.fixture(scope="session")
def _fault_mongo() -> Iterator[LocalMongo]:
    from smriti_scale.local import LocalMongo

    server = LocalMongo(replicas=3, test_commands=True, use_environment=False)
    server.start()
    yield server
    server.stop()


@_async_fixture
async def fault_mongo(_fault_mongo: LocalMongo) -> AsyncIterator[LocalMongo]:
    """A three-node replica set to harm: kill, pause, lag. One for each worker, started once, healed after each test."""
    yield _fault_mongo
    await _fault_mongo.heal()


@pytest.fixture(scope="session")
def _fault_redis() -> Iterator[LocalRedis]:
    from smriti_scale.local import LocalRedis

    server = LocalRedis(use_environment=False)
    server.start()
    yield server
    server.stop()


@_async_fixture
async def fault_redis(_fault_redis: LocalRedis) -> AsyncIterator[LocalRedis]:
    """A Redis to harm: kill, pause. One for each worker, started once, healed and emptied after each test."""
    import redis.asyncio

    yield _fault_redis
    await _fault_redis.heal()
    async with redis.asyncio.Redis.from_url(_fault_redis.uri) as client:
        await client.flushall()
