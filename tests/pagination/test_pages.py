"""Walking lists on a real server: every row exactly once, both ways, by both drivers."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from smriti_scale.errors import ConfigurationError, InvalidCursor
from smriti_scale.pagination import CursorPaginator

from .walking import SECRET, walk_back, walk_forward

NEWEST = [("created_at", -1), ("_id", -1)]
START = dt.datetime(2025, 1, 1)


async def _posts(db: Any, count: int = 60) -> Any:
    await db.posts.create_index([("user_id", 1), ("created_at", -1), ("_id", -1)])
    await db.posts.create_index(NEWEST)
    await db.posts.insert_many(
        [
            {
                "_id": number,
                "user_id": number % 3,
                # Threes share a moment, so the tie-break decides.
                "created_at": START + dt.timedelta(seconds=number // 3 // 3),
                "visibility": ("public", None, "circles")[number % 3] if number % 2 else "public",
                "title": f"post {number}",
            }
            for number in range(count)
        ]
    )
    return db.posts


async def test_a_list_is_walked_forwards_and_backwards_without_loss_by_both_drivers(both_drivers_db: Any) -> None:
    posts = await _posts(both_drivers_db)
    paginator = CursorPaginator(NEWEST, SECRET)
    for filter in ({}, {"user_id": 1}):
        expected = [row["_id"] async for row in posts.find(filter).sort(NEWEST)]
        forward, last = await walk_forward(paginator, posts, filter, limit=7)
        assert [row["_id"] for row in forward] == expected
        assert [row["_id"] for row in await walk_back(paginator, posts, filter, last, limit=7)] == expected


async def test_the_last_page_of_a_list_that_divides_evenly_has_no_next(db: Any) -> None:
    posts = await _posts(db, 40)
    paginator = CursorPaginator(NEWEST, SECRET)
    first = await paginator.paginate(posts, limit=20)
    second = await paginator.paginate(posts, limit=20, cursor=first.next_cursor)
    assert (len(second.items), second.has_next, second.next_cursor) == (20, False, None)
    assert (first.has_previous, second.has_previous) == (False, True)


async def test_a_cursor_is_refused_by_another_list_or_user(db: Any) -> None:
    posts = await _posts(db)
    paginator = CursorPaginator(NEWEST, SECRET)
    page = await paginator.paginate(posts, {"user_id": 1}, limit=5, scope="ana")
    for reason, collection, user_id, scope in (
        ("scope", posts, 1, "bo"),
        ("filter", posts, 2, "ana"),
        ("sort", db.other, 1, "ana"),
    ):
        with pytest.raises(InvalidCursor) as refusal:
            await paginator.paginate(collection, {"user_id": user_id}, cursor=page.next_cursor, scope=scope)
        assert (refusal.value.reason, str(refusal.value)) == (reason, "invalid cursor")


async def test_a_list_without_an_index_is_refused_with_the_index_to_create(db: Any) -> None:
    posts = await _posts(db)
    with pytest.raises(ConfigurationError, match=r"create_index\(\[\('title', 1\), \('_id', 1\)\]\)"):
        await CursorPaginator([("title", 1)], SECRET).paginate(posts)
