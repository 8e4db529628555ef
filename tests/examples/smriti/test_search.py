from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from motor.motor_asyncio import AsyncIOMotorDatabase

from examples.smriti.posts.search import moment_of
from tests.examples.smriti.conftest import Person, data_of, error_of

Database = AsyncIOMotorDatabase[dict[str, Any]]
Join = Callable[..., Any]


async def titles(person: Person, **query: Any) -> list[str]:
    data = data_of(await person.client.get("/api/posts/search", params=query))
    assert set(data) == {"posts", "total", "skip", "limit", "next_cursor"}
    return [post["title"] for post in data["posts"]]


async def test_words_stem_phrases_hold_and_a_minus_excludes(join: Join) -> None:
    person = await join()
    await person.note("He walks along the river", title="walking")
    await person.note("the river is high today", title="river")
    await person.note("a quiet garden", title="garden")
    assert set(await titles(person, q="walk river")) == {"walking", "river"}
    assert (await titles(person, q="walk river"))[0] == "walking"
    assert await titles(person, q='"river is high"') == ["river"]
    assert await titles(person, q="river -high") == ["walking"]
    assert await titles(person, q="gard") == []
    assert await titles(person, q="   ") == ["garden", "river", "walking"]


async def test_filters_combine_and_what_cannot_be_read_is_ignored(join: Join, motor_db: Database) -> None:
    person, other = await join(), await join()
    await person.note("mine", title="mine")
    await other.note("theirs", title="theirs")
    await other.client.post("/api/posts", data={"content_type": "link", "link_url": "https://e.org", "title": "link"})
    assert await titles(person, author_id=other.id) == ["link", "theirs"]
    assert await titles(person, author_id=other.id, content_type="link") == ["link"]
    assert await titles(person, content_type="note") == ["theirs", "mine"]
    assert await titles(person, content_type="poem") == []
    assert await titles(person, q="theirs", author_id=person.id) == []
    assert await titles(person, start_date="not a date", end_date="2026-99-99") == ["link", "theirs", "mine"]


async def test_dates_bound_the_time_of_creation_inclusively(join: Join, motor_db: Database) -> None:
    person = await join()
    for day in (1, 2, 3):
        await motor_db.posts.insert_one(
            {
                "content_type": "note",
                "title": f"day {day}",
                "text_content": "x",
                "visibility": "public",
                "author": {"user_id": person.id, "username": "p"},
                "created_at": datetime(2026, 1, day, 12),
            }
        )
    await person.catch_up()
    assert await titles(person, start_date="2026-01-02T12:00:00Z") == ["day 3", "day 2"]
    assert await titles(person, end_date="2026-01-02T12:00:00") == ["day 2", "day 1"]
    assert await titles(person, start_date="2026-01-02", end_date="2026-01-03") == ["day 2"]
    assert await titles(person, start_date="2026-01-02T17:30:00+05:30", end_date="2026-01-02T12:00:00Z") == ["day 2"]


def test_moments_are_read_in_every_spelling_of_iso() -> None:
    noon = datetime(2026, 1, 2, 12)
    for text in ("2026-01-02T12:00:00", "2026-01-02 12:00", "2026-01-02T12:00:00Z", "2026-01-02T17:30:00 05:30"):
        assert moment_of(text) == noon
    for unreadable in (None, "", "x", "0001-01-01T00:00:00+14:00"):
        assert moment_of(unreadable) is None


async def test_only_public_posts_are_found(join: Join) -> None:
    person = await join()
    circle = data_of(await person.client.post("/api/circles", json={"name": "porch"}), 201)["circle"]
    await person.note("secret river", title="hidden", visibility="circles", circle_ids=circle["circleId"])
    assert await titles(person, q="river") == []
    assert await titles(person) == []


async def test_ones_own_changes_show_at_once(join: Join) -> None:
    person = await join()
    for number in range(5):
        assert await titles(person, q="tide") == []
        post = await person.note("the tide", title=f"tide {number}")
        assert await titles(person, q="tide") == [f"tide {number}"]
        data_of(await person.client.delete(f"/api/posts/{post['postId']}"))


@pytest.mark.parametrize("words", [None, "tide"])
async def test_results_page_by_cursor_and_by_skip_with_the_whole_total(join: Join, words: str | None) -> None:
    person = await join()
    for number in range(7):
        await person.note("the tide", title=f"{number}")
    query: dict[str, Any] = {"limit": 3} | ({"q": words} if words else {})
    seen: list[str] = []
    while True:
        data = data_of(await person.client.get("/api/posts/search", params=query))
        assert data["total"] == 7
        seen += [post["title"] for post in data["posts"]]
        if data["next_cursor"] is None:
            break
        query["cursor"] = data["next_cursor"]
    assert sorted(seen) == [str(number) for number in range(7)]
    del query["cursor"]
    skipped = data_of(await person.client.get("/api/posts/search", params={**query, "skip": 5}))
    assert [post["title"] for post in skipped["posts"]] == seen[5:]
    for wrong in ("skip=-1", "limit=101", "cursor=x", "skip=1&cursor=x"):
        error_of(await person.client.get(f"/api/posts/search?{wrong}"), 400)
