"""The Smriti service on the real replica set and the real Redis, in process and over HTTP.

A test of the contract asks for `client` or `join` and runs three times: in process (on PyMongo Async), and, as long
tests, over HTTP against two instances (on Motor) behind a balancer, and with the primitives switched off. One that
looks into the app (`app`) runs in process alone; one about what a primitive adds asks for `primitives`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient, Response
from motor.motor_asyncio import AsyncIOMotorDatabase
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.write_concern import WriteConcern

from examples.smriti.app import create_app
from examples.smriti.indexes import INDEXES
from examples.smriti.settings import SmritiSettings
from smriti_scale.cache import Cache
from smriti_scale.mongo import MongoClients
from tests.examples.smriti.cluster import Cluster, running_cluster

PASSWORD = "correct horse"
CRON_SECRET = "tick tock"
POSTS_A_MINUTE = 120
_numbers = itertools.count(1)

OpenClient = Callable[[], AsyncClient]
"""Opens a client of the service under test that is nobody yet."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "transport" in metafunc.fixturenames:
        further = [] if "app" in metafunc.fixturenames else ["http", "plain"]
        if "primitives" in metafunc.fixturenames:
            further.remove("plain")
        metafunc.parametrize(
            "transport", ["process", *(pytest.param(each, marks=pytest.mark.long) for each in further)]
        )


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody signed up: a client that carries their token."""

    id: str
    username: str
    client: AsyncClient

    async def note(self, text: str = "a thought", **fields: str) -> dict[str, Any]:
        """Post a note and return the post object."""
        answer = await self.client.post("/api/posts/", data={"content_type": "note", "text_content": text, **fields})
        assert answer.status_code == 201, answer.text
        post: dict[str, Any] = answer.json()["data"]["post"]
        return post

    async def catch_up(self) -> None:
        """Write something: what this person reads next is no older than that, on whatever replica it is read."""
        answer = await self.client.patch("/api/users/me", json={"timezone": "UTC"})
        assert answer.status_code == 200, answer.text


SettingsFactory = Callable[..., SmritiSettings]


@pytest.fixture(scope="session")
def smriti_database(mongo_uri: str) -> Iterator[Database[dict[str, Any]]]:
    """One database for all tests of a worker: building twenty indexes takes longer than most tests."""
    with MongoClient[dict[str, Any]](mongo_uri, w=1) as client:
        database = client[f"smriti_{secrets.token_hex(6)}"]

        async def build_indexes() -> None:
            async with MongoClients(mongo_uri, database=database.name, min_pool_size=0) as mongo:
                await INDEXES.apply(mongo.write)

        asyncio.run(build_indexes())
        yield database
        client.drop_database(database)


@pytest.fixture
def motor_db(motor_db: AsyncIOMotorDatabase[dict[str, Any]], mongo_uri: str) -> AsyncIOMotorDatabase[dict[str, Any]]:
    """What a test writes by itself is on every node before it goes on: the service reads from secondaries."""
    return motor_db.client.get_database(motor_db.name, write_concern=WriteConcern(w=mongo_uri.count(",") + 1))


@pytest.fixture
def mongo_database_name(smriti_database: Database[dict[str, Any]]) -> Iterator[str]:
    """That database, in place of a fresh one; emptied after each test."""
    yield smriti_database.name
    for collection in smriti_database.list_collection_names():
        smriti_database[collection].delete_many({})


@pytest.fixture
def smriti_settings(mongo_database_name: str, settings_factory: SettingsFactory) -> SettingsFactory:
    """Settings of a service that a test makes for itself."""
    return settings_factory


@pytest.fixture(scope="session")
def settings_factory(
    mongo_uri: str, smriti_database: Database[dict[str, Any]], redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> SettingsFactory:
    """Settings for these tests; limits far away unless a test says otherwise."""

    def make(**changes: Any) -> SmritiSettings:
        defaults: dict[str, Any] = {
            "environment": "test",
            "mongodb_uri": mongo_uri,
            "database_name": smriti_database.name,
            "min_pool_size": 0,
            # Closes in a moment, where Motor joins threads for half a second; over HTTP the tests run on Motor.
            "mongodb_driver": "pymongo",
            "redis_url": redis_url,
            "namespace": f"smriti-{secrets.token_hex(6)}",
            "indexes": "off",  # built once for all
            "cache_timeout": 5.0,  # a busy test machine is no reason to go without Redis
            "rate_limit_timeout": 5.0,
            "bcrypt_rounds": 4,
            "signup_limit": "10000/minute",
            "login_limit": "10000/minute",
            "post_limit": "10000/minute",
            "user_limit": "10000/minute",
            "storage_folder": str(tmp_path_factory.mktemp("files")),
            "cron_secret": CRON_SECRET,
        }
        return SmritiSettings(_env_file=None, **{**defaults, **changes})

    return make


@pytest.fixture(scope="session")
def smriti_app(settings_factory: SettingsFactory) -> FastAPI:
    """The service, made once for a worker; FastAPI takes half a second to build it."""
    return create_app(settings_factory())


@pytest.fixture
async def app(smriti_app: FastAPI, mongo_database_name: str) -> AsyncIterator[FastAPI]:
    """The service, running for one test."""
    async with smriti_app.router.lifespan_context(smriti_app):
        yield smriti_app
        await smriti_app.state.services.scale.cache.clear()


@pytest.fixture(scope="session")
def cluster(settings_factory: SettingsFactory) -> Iterator[Cluster]:
    """Two instances behind a balancer, once for a worker."""
    with running_cluster(settings_factory(post_limit=f"{POSTS_A_MINUTE}/minute")) as running:
        yield running


@pytest.fixture
async def over_http(cluster: Cluster, mongo_database_name: str) -> AsyncIterator[OpenClient]:
    """Clients of the balancer; the instances forget what they keep after each test."""
    yield cluster.client
    async with Cache(cluster.settings.redis_url, namespace=cluster.settings.namespace) as cache:
        await cache.clear()


@pytest.fixture
def in_process(app: FastAPI) -> OpenClient:
    """Clients of the app itself."""
    return lambda: client_of(app)


@pytest.fixture(scope="session")
def plain_app(settings_factory: SettingsFactory) -> FastAPI:
    return create_app(settings_factory(primitives="off"))


@pytest.fixture
async def plain(plain_app: FastAPI, mongo_database_name: str) -> AsyncIterator[OpenClient]:
    """Clients of an app without the primitives."""
    async with plain_app.router.lifespan_context(plain_app):
        yield lambda: client_of(plain_app)


@pytest.fixture
def primitives() -> None:
    """For a test about what a primitive adds to the contract: it has no sense without."""


@pytest.fixture
def open_client(request: pytest.FixtureRequest, transport: str) -> OpenClient:
    """Clients of the service as this run of the test is to meet it."""
    name = {"process": "in_process", "http": "over_http", "plain": "plain"}[transport]
    opener: OpenClient = request.getfixturevalue(name)
    return opener


@pytest.fixture
async def client(open_client: OpenClient) -> AsyncIterator[AsyncClient]:
    """Nobody: a client without a token."""
    async with open_client() as nobody:
        yield nobody


@pytest.fixture
async def join(open_client: OpenClient) -> AsyncIterator[Callable[..., Any]]:
    """Sign somebody up: `person = await join()`."""
    async with contextlib.AsyncExitStack() as stack:

        async def sign_up(username: str | None = None) -> Person:
            return await join_through(await stack.enter_async_context(open_client()), username)

        yield sign_up


def client_of(app: FastAPI) -> AsyncClient:
    return AsyncClient(transport=ASGITransport(app, raise_app_exceptions=False), base_url="https://smriti.test")


async def join_through(client: AsyncClient, username: str | None = None) -> Person:
    name = username or f"person_{next(_numbers)}"
    answer = await client.post(
        "/api/auth/signup", json={"username": name, "password": PASSWORD, "email": f"{name}@example.org"}
    )
    assert answer.status_code == 201, answer.text
    client.headers["Authorization"] = f"Bearer {answer.json()['data']['token']}"
    me = (await client.get("/api/auth/me")).json()["user"]
    return Person(me["_id"], name, client)


def error_of(answer: Response, status: int, code: str | None = None) -> str:
    """The text of an E envelope, which must have this status and code."""
    assert answer.status_code == status, f"{answer.status_code}, not {status}: {answer.text}"
    body = answer.json()
    assert body["success"] is False
    assert isinstance(body["error"], str)
    assert body["error"]
    assert body.get("code") == code
    return str(body["error"])


def data_of(answer: Response, status: int = 200) -> Any:
    """The data of an S envelope, which must have this status."""
    assert answer.status_code == status, f"{answer.status_code}, not {status}: {answer.text}"
    body = answer.json()
    assert body["success"] is True
    assert isinstance(body["message"], str)
    return body.get("data")
