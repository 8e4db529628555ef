"""One cached page for many readers: cursors moved from scope to scope by the server that signed them."""

from __future__ import annotations

from typing import Any

import pytest
from motor.motor_asyncio import AsyncIOMotorDatabase

from smriti_scale.errors import InvalidCursor
from smriti_scale.pagination import CursorPaginator

FIRST, SECOND = "a" * 32, "b" * 32


async def test_a_rescoped_cursor_serves_its_new_scope_only(motor_db: AsyncIOMotorDatabase[dict[str, Any]]) -> None:
    await motor_db.rows.insert_many([{"_id": number} for number in range(6)])
    paginator = CursorPaginator([("_id", 1)], FIRST)
    page = await paginator.paginate(motor_db.rows, limit=2)
    assert page.next_cursor is not None
    mine = paginator.rescoped(page.next_cursor, motor_db.rows, scope=None, to="asha")
    following = await paginator.paginate(motor_db.rows, limit=2, cursor=mine, scope="asha")
    assert [row["_id"] for row in following.items] == [2, 3]
    for scope in (None, "bela"):
        with pytest.raises(InvalidCursor):
            await paginator.paginate(motor_db.rows, limit=2, cursor=mine, scope=scope)
    assert paginator.rescoped(mine, motor_db.rows, scope="asha", to=None) == page.next_cursor


async def test_a_cursor_that_is_not_of_the_scope_is_not_moved(motor_db: AsyncIOMotorDatabase[dict[str, Any]]) -> None:
    await motor_db.rows.insert_many([{"_id": number} for number in range(3)])
    paginator = CursorPaginator([("_id", 1)], FIRST)
    cursor = (await paginator.paginate(motor_db.rows, limit=1, scope="asha")).next_cursor
    assert cursor is not None
    altered = cursor[:-2] + ("AA" if cursor[-2:] != "AA" else "BB")
    for wrong, scope in ((cursor, "bela"), (altered, "asha"), ("nonsense", "asha")):
        with pytest.raises(InvalidCursor):
            paginator.rescoped(wrong, motor_db.rows, scope=scope, to="eve")
    with pytest.raises(InvalidCursor):
        CursorPaginator([("_id", 1)], SECOND).rescoped(cursor, motor_db.rows, scope="asha", to="eve")
