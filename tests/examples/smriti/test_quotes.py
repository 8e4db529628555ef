from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from motor.motor_asyncio import AsyncIOMotorDatabase

from examples.smriti.app import create_app
from examples.smriti.quotes.day import day_of
from examples.smriti.quotes.quotes import Quotes
from tests.examples.smriti.conftest import CRON_SECRET, SettingsFactory, client_of, error_of
from tests.examples.smriti.test_notifications import RecordingPusher

Database = AsyncIOMotorDatabase[dict[str, Any]]
Join = Callable[..., Any]

CRON = {"X-Cron-Secret": CRON_SECRET}


async def run(client: AsyncClient, job: str) -> dict[str, int]:
    answer = await client.post(f"/api/internal/daily-quote-{job}", headers=CRON)
    assert answer.status_code == 200, answer.text
    counts: dict[str, int] = answer.json()
    return counts


async def make_due(motor_db: Database) -> None:
    await motor_db.user_daily_quotes.update_many(
        {}, {"$set": {"scheduled_push_time_utc": datetime.now(UTC) - timedelta(minutes=1)}}
    )


async def test_the_cron_routes_are_closed_to_whoever_lacks_the_secret(client: AsyncClient) -> None:
    for job in ("init", "push"):
        path = f"/api/internal/daily-quote-{job}"
        error_of(await client.post(path), 400)
        for wrong in ("", "wrong", CRON_SECRET + "x", "é"):
            error_of(await client.post(path, headers={b"X-Cron-Secret": wrong.encode()}), 401)


async def test_without_a_configured_secret_nobody_gets_in(smriti_settings: SettingsFactory) -> None:
    app = create_app(smriti_settings(cron_secret=None))
    async with app.router.lifespan_context(app), client_of(app) as client:
        error_of(await client.post("/api/internal/daily-quote-init", headers={"X-Cron-Secret": ""}), 500)


async def test_a_quote_comes_once_it_was_pushed(client: AsyncClient, join: Join, motor_db: Database) -> None:
    person, author = await join(), await join("asha")
    post = await author.note("The light was already there.", title="Morning")
    today = (await person.client.get("/api/quotes/today")).json()
    assert (today["has_quote"], today["status"], today["quote"]) == (False, "pending", None)
    assert await run(client, "init") == {"initialized_count": 2, "skipped_count": 0, "error_count": 0}
    assert await run(client, "init") == {"initialized_count": 0, "skipped_count": 2, "error_count": 0}
    assert (await run(client, "push"))["processed_count"] == 0
    await make_due(motor_db)
    counts = await run(client, "push")
    assert counts == {
        "processed_count": 2, "sent_count": 0, "no_quote_count": 0, "no_tokens_count": 2, "error_count": 0,
    }  # fmt: skip
    today = (await person.client.get("/api/quotes/today")).json()
    assert (today["has_quote"], today["status"], today["message"]) == (True, "delivered", None)
    quote = today["quote"]
    assert set(quote) == {"text", "author", "post_id", "day_key", "received_at"}
    assert quote["text"] == "Morning The light was already there."
    assert quote["author"] == {"user_id": author.id, "username": "asha"}
    assert quote["post_id"] == post["postId"]
    history = (await person.client.get("/api/quotes/history")).json()
    assert history["quotes"] == [quote]
    assert (history["total"], history["skip"], history["limit"], history["has_more"]) == (1, 0, 20, False)


async def test_without_a_usable_public_post_the_day_has_no_quote(
    client: AsyncClient, join: Join, motor_db: Database
) -> None:
    person = await join()
    circle = (await person.client.post("/api/circles", json={"name": "porch"})).json()["data"]["circle"]
    await person.note("a secret that is long enough", visibility="circles", circle_ids=circle["circleId"])
    await person.note("short")
    await run(client, "init")
    await make_due(motor_db)
    assert (await run(client, "push"))["no_quote_count"] == 1
    today = (await person.client.get("/api/quotes/today")).json()
    assert (today["status"], today["quote"]) == ("unavailable", None)
    assert (await person.client.get("/api/quotes/history")).json()["quotes"] == []


async def test_overlapping_runs_handle_each_record_once(
    app: FastAPI, client: AsyncClient, join: Join, motor_db: Database
) -> None:
    people = [await join() for _ in range(6)]
    for person in people:
        token = {"token": f"of {person.id}", "platform": "ios"}
        await person.client.post("/api/notifications/register-token", json=token)
    await people[0].note("The light was already there.")
    services = app.state.services
    pusher = RecordingPusher()
    jobs = [Quotes(services.scale.mongo, services.devices, pusher, chance=random.Random(seed)) for seed in range(5)]
    initialized = await asyncio.gather(*(job.initialize() for job in jobs))
    assert sum(each.initialized_count for each in initialized) == 6
    assert sum(each.error_count for each in initialized) == 0
    await make_due(motor_db)
    pushed = await asyncio.gather(*(job.push_due() for job in jobs))
    assert sum(each.processed_count for each in pushed) == 6
    assert sum(each.sent_count for each in pushed) == 6
    assert sorted(tokens[0] for tokens, _ in pusher.calls) == sorted(f"of {person.id}" for person in people)
    message = pusher.calls[0][1]
    assert set(message.data) == {"type", "day_key", "quote_text", "post_id"}
    assert message.data["type"] == "today_quote"


async def test_a_failed_push_counts_neither_way_and_the_quote_is_there(
    app: FastAPI, client: AsyncClient, join: Join, motor_db: Database
) -> None:
    person = await join()
    await person.client.post("/api/notifications/register-token", json={"token": "t", "platform": "ios"})
    await person.note("x" * 150 + " and more words than fit the body")
    services = app.state.services
    job = Quotes(services.scale.mongo, services.devices, pusher := RecordingPusher(failing=True))
    await job.initialize()
    await make_due(motor_db)
    counts = await job.push_due()
    assert (counts.processed_count, counts.sent_count, counts.no_tokens_count) == (1, 0, 0)
    assert pusher.calls[0][1].body == "x" * 100 + "..."
    assert (await person.client.get("/api/quotes/today")).json()["has_quote"]


async def test_a_user_with_a_broken_location_does_not_stop_the_others(
    client: AsyncClient, join: Join, motor_db: Database
) -> None:
    broken, _ = await join("broken"), await join()
    await motor_db.users.update_one({"username": "broken"}, {"$set": {"location": {"latitude": "north"}}})
    assert await run(client, "init") == {"initialized_count": 1, "skipped_count": 0, "error_count": 1}
    assert broken.username == "broken"


async def test_history_pages_newest_day_first(client: AsyncClient, join: Join, motor_db: Database) -> None:
    person = await join()
    days = [f"2026-01-{day:02}" for day in range(1, 8)]
    await motor_db.user_daily_quotes.insert_many(
        [
            {
                "user_id": person.id,
                "day_key": day,
                "push_sent": True,
                "push_sent_at_utc": datetime(2026, 1, 1),
                "quote_text": None if day.endswith("03") else f"quote of {day}",
                "source_post_id": "a" * 24,
                "source_author_user_id": "b" * 24,
                "source_author_username": "asha",
            }
            for day in days
        ]
    )
    expected = [day for day in reversed(days) if not day.endswith("03")]
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 4}
    while True:
        page = (await person.client.get("/api/quotes/history", params=query)).json()
        assert page["total"] == 6
        seen += [quote["day_key"] for quote in page["quotes"]]
        assert page["has_more"] == (page["next_cursor"] is not None)
        if not page["has_more"]:
            break
        query["cursor"] = page["next_cursor"]
    assert seen == expected
    skipped = (await person.client.get("/api/quotes/history", params={"skip": 4, "limit": 4})).json()
    assert ([quote["day_key"] for quote in skipped["quotes"]], skipped["has_more"]) == (expected[4:], False)
    for wrong in ("limit=51", "limit=0", "skip=-1", "cursor=x"):
        error_of(await person.client.get(f"/api/quotes/history?{wrong}"), 400)


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "America/New_York", None])
async def test_the_record_is_of_the_persons_own_day(
    client: AsyncClient, join: Join, motor_db: Database, zone: str | None
) -> None:
    person = await join()
    if zone:
        await person.client.patch("/api/users/me", json={"timezone": zone})
    before = datetime.now(UTC)
    await run(client, "init")
    record = await motor_db.user_daily_quotes.find_one({"user_id": person.id}) or {}
    assert record["day_key"] == day_of(before, timezone=zone, location=None).key
    assert record["scheduled_push_time_utc"].replace(tzinfo=UTC) > before
    assert record["push_sent"] is False


@pytest.mark.long
async def test_of_fifty_calls_of_each_cron_route_at_once_each_record_is_made_and_sent_once(
    client: AsyncClient, join: Join, motor_db: Database
) -> None:
    people = [await join() for _ in range(3)]
    await people[0].note("The light was already there.")
    made = await asyncio.gather(*(run(client, "init") for _ in range(50)))
    assert sum(each["initialized_count"] for each in made) == 3
    assert sum(each["error_count"] for each in made) == 0
    await make_due(motor_db)
    sent = await asyncio.gather(*(run(client, "push") for _ in range(50)))
    assert sum(each["processed_count"] for each in sent) == 3
    assert await motor_db.user_daily_quotes.count_documents({"push_sent": True}) == 3


async def test_a_quote_goes_to_fifty_devices_of_a_person_at_most(app: FastAPI, join: Join, motor_db: Database) -> None:
    person = await join()
    await person.note("The light was already there.")
    await motor_db.device_tokens.insert_many([{"token": f"t{n}", "user_id": person.id} for n in range(60)])
    services = app.state.services
    job = Quotes(services.scale.mongo, services.devices, pusher := RecordingPusher())
    await job.initialize()
    await make_due(motor_db)
    assert (await job.push_due()).sent_count == 1
    assert sum(len(tokens) for tokens, _ in pusher.calls) == 50
