from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from bson import ObjectId
from motor.motor_asyncio import AsyncIOMotorDatabase

from tests.examples.smriti.conftest import data_of, error_of

Database = AsyncIOMotorDatabase[dict[str, Any]]
Join = Callable[..., Any]


async def test_a_place_can_be_set_and_is_seen_at_once(join: Join) -> None:
    person = await join()
    user = data_of(
        await person.client.patch("/api/users/me", json={"timezone": "Asia/Kolkata", "latitude": 0, "longitude": 0})
    )["user"]
    assert (user["timezone"], user["location"]) == ("Asia/Kolkata", {"latitude": 0, "longitude": 0})
    assert user["location_required"] is False
    assert "joined_at" not in user
    assert data_of(await person.client.get("/api/users/me"))["user"]["timezone"] == "Asia/Kolkata"
    assert (await person.client.get("/api/auth/me")).json()["user"]["location"] == {"latitude": 0, "longitude": 0}


async def test_null_and_unknown_fields_change_nothing(join: Join, motor_db: Database) -> None:
    person = await join("asha")
    await person.client.patch("/api/users/me", json={"timezone": "Europe/Paris"})
    body = {"timezone": None, "latitude": None, "username": "eve", "hashed_password": "x", "email": "e@example.org"}
    user = data_of(await person.client.patch("/api/users/me", json=body))["user"]
    assert (user["username"], user["timezone"]) == ("asha", "Europe/Paris")
    assert data_of(await person.client.patch("/api/users/me", json={}))["user"]["timezone"] == "Europe/Paris"
    stored = await motor_db.users.find_one({"_id": ObjectId(person.id)}) or {}
    assert stored["email"] == "asha@example.org"


@pytest.mark.parametrize(
    "wrong",
    [
        {"latitude": 1},
        {"longitude": 1},
        {"latitude": 91, "longitude": 0},
        {"latitude": 0, "longitude": -181},
        {"latitude": "north", "longitude": 0},
        {"timezone": "Mars/Olympus"},
        {"timezone": "Asia"},
        {"timezone": "../../etc/passwd"},
        {"timezone": "x" * 10_000},
        {"timezone": ""},
        {"timezone": 7},
    ],
    ids=lambda wrong: str(wrong)[:30],
)
async def test_a_place_that_is_none_is_400(join: Join, wrong: dict[str, Any]) -> None:
    person = await join()
    error_of(await person.client.patch("/api/users/me", json=wrong), 400)


async def test_others_see_a_profile_without_contacts_and_count_public_posts_only(
    join: Join, motor_db: Database
) -> None:
    person, other = await join("asha"), await join()
    await person.note()
    circle = data_of(await person.client.post("/api/circles", json={"name": "porch"}), 201)["circle"]
    await person.note(visibility="circles", circle_ids=circle["circleId"])
    await motor_db.posts.insert_one(
        {
            "content_type": "note",
            "author": {"user_id": person.id, "username": "asha"},
            "created_at": (await motor_db.posts.find_one({}) or {})["created_at"],
            "text_content": "old, without visibility",
        }
    )
    for reader in (person, other):
        await reader.catch_up()
    seen = data_of(await other.client.get(f"/api/users/{person.id}"))["user"]
    assert set(seen) == {"id", "username", "display_name", "joined_at", "post_count"}
    assert seen["post_count"] == 2
    assert data_of(await person.client.get(f"/api/users/{person.id}"))["user"]["post_count"] == 3
    theirs = data_of(await other.client.get(f"/api/users/{person.id}/posts"))
    assert (theirs["total"], len(theirs["posts"]), theirs["skip"], theirs["limit"]) == (2, 2, 0, 20)
    assert {post["visibility"] for post in theirs["posts"]} == {"public"}
    own = data_of(await person.client.get(f"/api/users/{person.id}/posts"))
    assert (own["total"], len(own["posts"])) == (3, 3)


async def test_posts_of_a_user_page_by_cursor(join: Join) -> None:
    person, other = await join(), await join()
    made = [(await person.note(f"note {number}"))["postId"] for number in range(5)][::-1]
    await other.catch_up()
    path = f"/api/users/{person.id}/posts"
    first = data_of(await other.client.get(path, params={"limit": 3}))
    rest = data_of(await other.client.get(path, params={"limit": 3, "cursor": first["next_cursor"]}))
    assert [post["postId"] for post in first["posts"] + rest["posts"]] == made
    assert rest["next_cursor"] is None
    skipped = data_of(await other.client.get(path, params={"skip": 4}))
    assert [post["postId"] for post in skipped["posts"]] == made[4:]
    error_of(await person.client.get(path, params={"cursor": first["next_cursor"]}), 400)


async def test_unknown_and_malformed_ids(join: Join) -> None:
    person = await join()
    for path in ("", "/posts"):
        error_of(await person.client.get(f"/api/users/{ObjectId()}{path}"), 404)
        for malformed in ("x", "0" * 23, "g" * 24):
            error_of(await person.client.get(f"/api/users/{malformed}{path}"), 400)


async def test_a_change_is_dated(join: Join, motor_db: Database) -> None:
    person = await join()
    before = await motor_db.users.find_one({"_id": ObjectId(person.id)}) or {}
    assert "updated_at" not in before
    data_of(await person.client.patch("/api/users/me", json={}))
    assert "updated_at" not in (await motor_db.users.find_one({"_id": ObjectId(person.id)}) or {})
    data_of(await person.client.patch("/api/users/me", json={"timezone": "Asia/Tokyo"}))
    assert "updated_at" in (await motor_db.users.find_one({"_id": ObjectId(person.id)}) or {})


async def test_the_edges_of_the_world_are_places(join: Join) -> None:
    person = await join()
    for latitude, longitude in ((90, 180), (-90, -180), (0, 0)):
        place = {"latitude": latitude, "longitude": longitude}
        assert data_of(await person.client.patch("/api/users/me", json=place))["user"]["location"] == place
