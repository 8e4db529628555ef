"""No route scans a collection, sorts in memory or asks the same thing over and over: the query guard listens.

The named exception is search by words, which MongoDB ranks in memory; it is bounded to the best 1,000 matches.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fastapi import FastAPI
from motor.motor_asyncio import AsyncIOMotorDatabase

from smriti_scale.mongo import QueryGuard
from tests.examples.smriti.conftest import CRON_SECRET, Person, data_of

pytestmark = pytest.mark.long

Database = AsyncIOMotorDatabase[dict[str, Any]]
Join = Callable[..., Any]


@pytest.fixture
async def people(join: Join) -> list[Person]:
    """Two people who share circles and have written enough for every list to have pages."""
    person, other = await join(), await join()
    circles = []
    for number in range(4):
        body = {"name": f"circle {number}"}
        circle = data_of(await person.client.post("/api/circles", json=body), 201)["circle"]
        data_of(await other.client.post("/api/circles/join", json={"inviteCode": circle["inviteCode"]}), 201)
        circles.append(circle["circleId"])
    for number in range(6):
        await person.note(f"note {number}")
        await person.note(f"in circles {number}", visibility="circles", circle_ids=",".join(circles))
    return [person, other]


@pytest.fixture
async def watched(
    app: FastAPI, people: list[Person], motor_db: Database, query_guard: QueryGuard
) -> AsyncIterator[None]:
    await app.state.services.scale.cache.clear()
    async with query_guard.watch(motor_db):
        yield


READS = [
    "/api/auth/me", "/api/auth/check-username/{name}", "/api/posts", "/api/posts?skip=2&limit=2", "/api/posts/me",
    "/api/posts/search", "/api/posts/search?author_id={id}", "/api/posts/search?content_type=note",
    "/api/users/me", "/api/users/{id}", "/api/users/{id}/posts", "/api/circles", "/api/circles/{circle}",
    "/api/circles/{circle}/posts", "/api/quotes/today", "/api/quotes/history",
]  # fmt: skip


@pytest.mark.parametrize("path", READS)
async def test_a_read_follows_an_index(path: str, people: list[Person], watched: None) -> None:
    person, other = people
    circle = data_of(await other.client.get("/api/circles?limit=1"))["circles"][0]["circleId"]
    answer = await other.client.get(path.format(id=person.id, name=person.username, circle=circle))
    assert answer.status_code == 200, answer.text


async def test_the_pages_after_the_first_do_too(people: list[Person], watched: None) -> None:
    person, other = people
    for path in ("/api/posts", "/api/posts/me", f"/api/users/{person.id}/posts", "/api/circles"):
        query: dict[str, Any] = {"limit": 2}
        first = data_of(await person.client.get(path, params=query))
        data_of(await person.client.get(path, params={**query, "cursor": first["next_cursor"]}))
    assert other.id != person.id


async def test_writes_do_too(people: list[Person], query_guard: QueryGuard, watched: None) -> None:
    query_guard.max_repeats = 12  # a dozen requests are watched as one
    person, other = people
    post = await person.note("to be deleted")
    data_of(await person.client.delete(f"/api/posts/{post['postId']}"))
    circle = data_of(await person.client.post("/api/circles", json={"name": "new"}), 201)["circle"]
    data_of(await other.client.post("/api/circles/join", json={"inviteCode": circle["inviteCode"]}), 201)
    await person.note(visibility="circles", circle_ids=circle["circleId"])
    for voter in (person, other):
        data_of(await voter.client.post(f"/api/circles/{circle['circleId']}/vote-delete"))
    data_of(await person.client.patch("/api/users/me", json={"timezone": "Europe/Paris"}))
    device = {"token": "t", "platform": "ios"}
    for call in ("register-token", "unregister-token"):
        assert (await person.client.post(f"/api/notifications/{call}", json=device)).status_code == 200


async def test_the_jobs_do_too(people: list[Person], motor_db: Database, query_guard: QueryGuard) -> None:
    person, _ = people
    cron = {"X-Cron-Secret": CRON_SECRET}
    async with query_guard.watch(motor_db):
        assert (await person.client.post("/api/internal/daily-quote-init", headers=cron)).status_code == 200
        assert (await person.client.post("/api/internal/daily-quote-push", headers=cron)).status_code == 200
