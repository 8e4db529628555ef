"""What goes on behind the requests: tasks that beat schedules, tasks that posts cause, and no broker at all."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId
from fastapi import FastAPI
from httpx import AsyncClient
from motor.motor_asyncio import AsyncIOMotorDatabase

from examples.smriti.app import create_app
from examples.smriti.notifications.news import News
from smriti_scale.tasks import publish
from tests.examples.smriti.conftest import Person, SettingsFactory, client_of, data_of, join_through
from tests.examples.smriti.test_notifications import RecordingPusher

Database = AsyncIOMotorDatabase[dict[str, Any]]


@pytest.fixture
async def eager(smriti_settings: SettingsFactory) -> AsyncIterator[FastAPI]:
    """A service without Redis: its tasks run where they are published, as a worker would run them."""
    app = create_app(smriti_settings(redis_url=None))
    async with app.router.lifespan_context(app):
        yield app


@contextlib.asynccontextmanager
async def signed_up(app: FastAPI) -> AsyncIterator[Person]:
    async with client_of(app) as client:
        yield await join_through(client)


async def run(app: FastAPI, task: str) -> None:
    await publish(app.state.services.background.celery.tasks[task])


async def test_what_beat_schedules_is_what_the_cron_routes_do_and_looks_for_forgotten_documents(eager: FastAPI) -> None:
    celery = eager.state.services.background.celery
    schedule = {entry["task"]: entry["schedule"] for entry in celery.conf.beat_schedule.values()}
    assert schedule == {
        "smriti.prepare_quotes": 3600.0,  # hourly, as the contract means the first cron route
        "smriti.push_quotes": 300.0,  # every five to ten minutes, as it means the second
        "smriti.find_overdue_documents": 60.0,
    }
    assert set(schedule) <= set(celery.tasks)


async def test_the_scheduled_tasks_bring_the_quote_of_the_day(eager: FastAPI, motor_db: Database) -> None:
    async with signed_up(eager) as person:
        await person.note("The light was already there when I came.")
        await run(eager, "smriti.prepare_quotes")
        assert (await person.client.get("/api/quotes/today")).json()["status"] == "pending"
        due = {"$set": {"scheduled_push_time_utc": datetime.now(UTC) - timedelta(minutes=1)}}
        await motor_db.user_daily_quotes.update_many({}, due)
        await run(eager, "smriti.push_quotes")
        await person.catch_up()
        assert (await person.client.get("/api/quotes/today")).json()["status"] == "delivered"


async def test_a_document_that_no_worker_was_told_of_is_found_and_read(eager: FastAPI, motor_db: Database) -> None:
    async with signed_up(eager) as person:
        sent = await person.client.post(
            "/api/posts/", data={"content_type": "document"}, files={"document": ("x.txt", b"petrichor")}
        )
        post_id = ObjectId(data_of(sent, 201)["post"]["postId"])
        forgotten = {"document_status": "pending", "created_at": datetime.now(UTC) - timedelta(hours=1)}
        await motor_db.posts.update_one({"_id": post_id}, {"$set": forgotten, "$unset": {"document_text": ""}})
        await person.catch_up()
        await run(eager, "smriti.find_overdue_documents")
        read = await motor_db.posts.find_one({"_id": post_id}) or {}
        assert (read["document_status"], read["document_text"]) == ("ready", "petrichor")


async def test_a_post_is_pushed_by_a_task_of_its_own(eager: FastAPI) -> None:
    services, pusher = eager.state.services, RecordingPusher()
    services.news = News(services.scale.mongo, services.devices, pusher)
    async with signed_up(eager) as person, signed_up(eager) as other:
        await other.client.post("/api/notifications/register-token", json={"token": "t", "platform": "ios"})
        post = await person.note("a thought")
    assert [(tokens, message.data["postId"]) for tokens, message in pusher.calls] == [(["t"], post["postId"])]


async def test_a_push_that_breaks_fails_no_request(eager: FastAPI) -> None:
    services, pusher = eager.state.services, RecordingPusher(failing=True)
    services.news = News(services.scale.mongo, services.devices, pusher)
    async with signed_up(eager) as person, signed_up(eager) as other:
        await other.client.post("/api/notifications/register-token", json={"token": "t", "platform": "ios"})
        await person.note("a thought")
    assert len(pusher.calls) == 1


async def test_with_redis_away_everything_is_served_and_limits_still_hold(smriti_settings: SettingsFactory) -> None:
    away = smriti_settings(
        redis_url="redis://127.0.0.1:1/0", user_limit="20/minute", cache_timeout=0.1, rate_limit_timeout=0.05
    )
    app = create_app(away)
    async with app.router.lifespan_context(app), signed_up(app) as person:
        post = await person.note("a thought")
        assert data_of(await person.client.get("/api/posts"))["posts"][0]["postId"] == post["postId"]
        assert data_of(await person.client.get("/api/posts/me"))["posts"][0]["postId"] == post["postId"]
        statuses = [await _status(person.client) for _ in range(25)]
    assert set(statuses) == {200, 429}


async def _status(client: AsyncClient) -> int:
    return (await client.get("/api/users/me")).status_code
