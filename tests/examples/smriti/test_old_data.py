"""A database that the original wrote, without a single field that came later or was optional."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import bcrypt
import pytest
from bson import ObjectId
from httpx import AsyncClient
from motor.motor_asyncio import AsyncIOMotorDatabase

from tests.examples.smriti.conftest import CRON_SECRET, PASSWORD, OpenClient, data_of

Database = AsyncIOMotorDatabase[dict[str, Any]]

MOMENT = datetime(2024, 5, 1, 12)
CODE = "ABCDEFGH"


@pytest.fixture
async def circle_id(open_client: OpenClient, motor_db: Database) -> str:
    """A circle of Asha's and Bela's, with posts, a device and a quote, all as bare as they can be."""
    users = {name: str(ObjectId()) for name in ("asha", "bela")}
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    for name, identifier in users.items():
        user = {"_id": ObjectId(identifier), "username": name, "hashed_password": hashed, "created_at": MOMENT}
        await motor_db.users.insert_one(user)
    author = {"user_id": users["asha"], "username": "asha"}
    circle = {
        "_id": ObjectId(), "name": "porch", "color": "#8D6E63", "invite_code": CODE, "max_members": 5,
        "members": [{"user_id": each, "username": name, "joined_at": MOMENT} for name, each in users.items()],
        "created_at": MOMENT, "created_by": author,
    }  # fmt: skip
    await motor_db.circles.insert_one(circle)
    note = {"content_type": "note", "text_content": "The light was already there.", "author": author}
    await motor_db.posts.insert_many(
        [
            {**note, "created_at": MOMENT},
            {**note, "created_at": MOMENT, "visibility": "circles", "circle_ids": [str(circle["_id"])]},
        ]
    )
    await motor_db.device_tokens.insert_one({"token": "t", "user_id": users["bela"]})
    quote = {
        "user_id": users["asha"], "day_key": "2024-05-01", "push_sent": True, "push_sent_at_utc": MOMENT,
        "quote_text": "Old words.", "source_post_id": str(ObjectId()), "source_author_user_id": users["bela"],
        "source_author_username": "bela",
    }  # fmt: skip
    await motor_db.user_daily_quotes.insert_one(quote)
    return str(circle["_id"])


@pytest.fixture
async def asha(circle_id: str, client: AsyncClient) -> AsyncClient:
    """Asha, signed in with the password of old."""
    data = data_of(await client.post("/api/auth/login", json={"username": "asha", "password": PASSWORD}))
    client.headers["Authorization"] = f"Bearer {data['token']}"
    # What she reads from here on is no older than this, on whatever replica.
    data_of(await client.patch("/api/users/me", json={"timezone": "Asia/Kolkata"}))
    return client


async def test_every_list_and_object_is_shown(asha: AsyncClient, circle_id: str) -> None:
    me = (await asha.get("/api/auth/me")).json()["user"]
    assert (me["email"], me["phone"], me["display_name"], me["location"]) == (None, None, None, None)
    assert data_of(await asha.get("/api/users/me"))["user"]["post_count"] == 2
    assert [post["visibility"] for post in data_of(await asha.get("/api/posts"))["posts"]] == ["public"]
    assert len(data_of(await asha.get("/api/posts/me"))["posts"]) == 2
    assert data_of(await asha.get("/api/posts/search", params={"q": "light"}))["total"] == 1
    assert data_of(await asha.get(f"/api/users/{me['_id']}/posts"))["total"] == 2
    assert data_of(await asha.get("/api/circles"))["circles"][0]["memberCount"] == 2
    circle = data_of(await asha.get(f"/api/circles/{circle_id}"))["circle"]
    assert (circle["description"], circle["emoji"], circle["deletionVotes"]) == (None, None, 0)
    assert data_of(await asha.get(f"/api/circles/preview/{CODE}"))["circle"]["alreadyMember"] is True
    assert data_of(await asha.get(f"/api/circles/{circle_id}/posts"))["posts"][0]["circleNames"] == ["porch"]
    history = (await asha.get("/api/quotes/history")).json()
    assert [quote["text"] for quote in history["quotes"]] == ["Old words."]
    assert (await asha.get("/api/quotes/today")).json()["status"] in ("pending", "delivered")


async def test_everything_can_be_done_to_it(asha: AsyncClient, circle_id: str, motor_db: Database) -> None:
    path = f"/api/circles/{circle_id}"
    assert data_of(await asha.patch(path, json={"name": "garden"}))["circle"]["name"] == "garden"
    assert data_of(await asha.post(f"{path}/regenerate-invite"))["inviteCode"] != CODE
    note = {"content_type": "note", "text_content": "new"}
    assert data_of(await asha.post(f"{path}/posts", data=note), 201)["post"]["circleIds"] == [circle_id]
    votes = data_of(await asha.post(f"{path}/vote-delete"))
    assert (votes["votesCast"], votes["votesNeeded"]) == (1, 2)
    data_of(await asha.request("DELETE", f"{path}/vote-delete"))
    assert (await asha.post("/api/notifications/register-token", json={"token": "t", "platform": "ios"})).is_success
    for job, counted in (("init", "initialized_count"), ("push", "processed_count")):
        answer = await asha.post(f"/api/internal/daily-quote-{job}", headers={"X-Cron-Secret": CRON_SECRET})
        assert answer.status_code == 200
        assert answer.json()["error_count"] == 0
        assert counted in answer.json()
    for post in data_of(await asha.get("/api/posts/me"))["posts"]:
        data_of(await asha.delete(f"/api/posts/{post['postId']}"))
    assert await motor_db.posts.count_documents({}) == 0
