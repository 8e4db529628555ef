"""The Smriti service in process, on the real replica set and the real Redis, each test with a database of its own."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient, Response

from examples.smriti.app import create_app
from examples.smriti.settings import SmritiSettings

PASSWORD = "correct horse"
_numbers = itertools.count(1)


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


SettingsFactory = Callable[..., SmritiSettings]


@pytest.fixture
def smriti_settings(mongo_uri: str, mongo_database_name: str, redis_url: str, redis_prefix: str) -> SettingsFactory:
    """Settings for this test alone; limits far away unless a test says otherwise."""

    def make(**changes: Any) -> SmritiSettings:
        defaults: dict[str, Any] = {
            "environment": "test",
            "mongodb_uri": mongo_uri,
            "database_name": mongo_database_name,
            "min_pool_size": 0,
            "redis_url": redis_url,
            "namespace": redis_prefix.strip(":").replace(":", "-"),
            "indexes": "apply",
            "bcrypt_rounds": 4,
            "signup_limit": "10000/minute",
            "login_limit": "10000/minute",
            "post_limit": "10000/minute",
            "user_limit": "10000/minute",
        }
        return SmritiSettings(_env_file=None, **{**defaults, **changes})

    return make


@pytest.fixture
async def app(smriti_settings: SettingsFactory) -> AsyncIterator[FastAPI]:
    """A running service."""
    service = create_app(smriti_settings())
    async with service.router.lifespan_context(service):
        yield service


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[AsyncClient]:
    """Nobody: a client without a token."""
    async with client_of(app) as nobody:
        yield nobody


@pytest.fixture
async def join(app: FastAPI) -> AsyncIterator[Callable[..., Any]]:
    """Sign somebody up: `person = await join()`."""
    opened: list[AsyncClient] = []

    async def sign_up(username: str | None = None) -> Person:
        person = await join_through(client_of(app), username)
        opened.append(person.client)
        return person

    yield sign_up
    for each in opened:
        await each.aclose()


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
