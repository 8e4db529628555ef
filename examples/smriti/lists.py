"""What every list takes: `skip` and `limit` as ever, or a `cursor`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from cachetools import LRUCache
from fastapi import Query

from examples.smriti.answers import ApiError
from smriti_scale.pagination import CursorPaginator

DEEPEST_SKIP = 1_000_000
NEWEST_FIRST = [("created_at", -1), ("_id", -1)]

Skip = Annotated[int, Query(ge=0, le=DEEPEST_SKIP)]
Limit = Annotated[int, Query(ge=1, le=100)]
Cursor = Annotated[str | None, Query(max_length=1_000)]


async def page_of(
    paginator: CursorPaginator,
    collection: Any,
    which: Mapping[str, Any],
    *,
    skip: int,
    limit: int,
    cursor: str | None,
    scope: str,
    projection: Mapping[str, Any] | None = None,
) -> tuple[list[dict[str, Any]], str | None]:
    """The documents of one page, and the cursor of the next (None on the last).

    Raises:
        ApiError: 400 when both `skip` and `cursor` are given.
        InvalidCursor: the cursor was altered, or belongs to another list or user.
    """
    if cursor is not None and skip:
        raise ApiError(400, "cursor and skip exclude each other")
    page = await paginator.paginate(
        collection, which, limit=limit, cursor=cursor, skip=skip, scope=scope, projection=projection
    )
    return page.items, page.next_cursor


class OwnCursors:
    """Makes the cursors of a list whose pages are kept for everybody each reader's own, and back.

    Made ones are remembered: whoever reads the newest page reads it often.

    Args:
        paginator: of the list.
        collection: what it lists, anew for each use: clients may be closed and opened between.
    """

    def __init__(self, paginator: CursorPaginator, collection: Callable[[], Any]) -> None:
        self._paginator = paginator
        self._collection = collection
        self._made: LRUCache[tuple[str, str], str] = LRUCache(10_000)

    def shared(self, cursor: str | None, which: Mapping[str, Any], *, skip: int, reader: str) -> str | None:
        """The cursor that the kept pages go by.

        Raises:
            ApiError: 400 when both `skip` and `cursor` are given.
            InvalidCursor: the cursor was altered, or belongs to another list or reader.
        """
        if cursor is None:
            return None
        if skip:
            raise ApiError(400, "cursor and skip exclude each other")
        return self._paginator.rescoped(cursor, self._collection(), which, scope=reader, to=None)

    def completed(self, body: bytes, following: str | None, which: Mapping[str, Any], *, reader: str) -> bytes:
        """The JSON object of these members, with the reader's own `next_cursor`."""
        if following is None:
            return b'{%b,"next_cursor":null}' % body
        own = self._made.get((following, reader))
        if own is None:
            own = self._paginator.rescoped(following, self._collection(), which, scope=None, to=reader)
            self._made[following, reader] = own
        return b'{%b,"next_cursor":"%b"}' % (body, own.encode())


async def aggregated(collection: Any, pipeline: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The documents that a pipeline gives; Motor hands out the cursor at once, PyMongo Async after a round trip."""
    cursor = collection.aggregate(pipeline)
    if inspect.isawaitable(cursor):
        cursor = await cursor
    return list(await cursor.to_list(None))
