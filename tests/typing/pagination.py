"""Checked by mypy, never run: what a user's code sees of the pagination's types."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, assert_type

from motor.motor_asyncio import AsyncIOMotorCollection
from pymongo.asynchronous.collection import AsyncCollection

from smriti_scale.pagination import CursorPaginator, ListPlan, Page, PageParams, decode_cursor, encode_cursor


async def pages(motor: AsyncIOMotorCollection[dict[str, Any]], pymongo: AsyncCollection[dict[str, Any]]) -> None:
    paginator = CursorPaginator(sort=[("created_at", -1)], secret=["a" * 32, b"b" * 32], total="exact")
    params = PageParams(limit=5)
    page = await paginator.paginate(motor, {"a": 1}, limit=params.limit, cursor=params.cursor, skip=params.skip)
    assert_type(page, Page[dict[str, Any]])
    assert_type(await paginator.paginate(pymongo, projection=["a"], scope="ana"), Page[dict[str, Any]])
    assert_type(await paginator.paginate_aggregate(pymongo, [{"$match": {}}]), Page[dict[str, Any]])
    assert_type(await paginator.paginate_relevance(motor, {"$text": {"$search": "x"}}), Page[dict[str, Any]])
    assert_type(page.map(len), Page[int])
    assert_type(page.map(str).items, list[str])
    assert_type(page.next_cursor, str | None)
    assert_type(paginator.items(motor), AsyncIterator[dict[str, Any]])
    assert_type(await paginator.check(motor), ListPlan | None)
    assert_type(paginator.index_for({"a": ...}), list[tuple[str, int]])
    assert_type(encode_cursor([1], secret="a" * 32), str)
    assert_type(decode_cursor("", secret="a" * 32), tuple[Any, ...])
    paginator.paginate(motor, {}, 5)  # type: ignore[call-arg, unused-coroutine] # the rest is by keyword
    CursorPaginator([("a", 1)], "a" * 32, total="some")  # type: ignore[arg-type]
