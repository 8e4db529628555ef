"""Walking whole lists, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smriti_scale.pagination import CursorPaginator, Page

SECRET = "a secret of the tests, 32 bytes!"
Row = dict[str, Any]


async def walk_forward(
    paginator: CursorPaginator, collection: Any, filter: Mapping[str, Any], *, limit: int
) -> tuple[list[Row], Page[Row]]:
    """All rows from the first page to the last, and the last page."""
    rows: list[Row] = []
    cursor: str | None = None
    while True:
        page = await paginator.paginate(collection, filter, limit=limit, cursor=cursor)
        assert page.items or cursor is None, "an empty page at the end"
        rows += page.items
        cursor = page.next_cursor
        if cursor is None:
            return rows, page


async def walk_back(
    paginator: CursorPaginator, collection: Any, filter: Mapping[str, Any], last: Page[Row], *, limit: int
) -> list[Row]:
    """All rows, from the given last page back to the first, in the list's order."""
    rows = list(last.items)
    cursor = last.previous_cursor
    while cursor is not None:
        page = await paginator.paginate(collection, filter, limit=limit, cursor=cursor)
        assert page.items, "an empty page at the start"
        rows = page.items + rows
        cursor = page.previous_cursor
    return rows
