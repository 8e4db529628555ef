"""The quotes somebody has had."""

from __future__ import annotations

from typing import Any

from examples.smriti.auth.accounts import User
from examples.smriti.lists import page_of
from examples.smriti.quotes.quotes import quote_view
from smriti_scale.mongo import MongoClients
from smriti_scale.pagination import CursorPaginator

NEWEST_DAY_FIRST = [("day_key", -1), ("_id", -1)]


class History:
    """Delivered quotes, the newest day first.

    Args:
        mongo: clients.
        paginator: by day, newest first.
    """

    def __init__(self, mongo: MongoClients, paginator: CursorPaginator) -> None:
        self._mongo = mongo
        self._paginator = paginator

    async def page(self, user: User, *, skip: int, limit: int, cursor: str | None) -> dict[str, Any]:
        records = self._mongo.read.user_daily_quotes
        which = {"user_id": user.id, "push_sent": True, "quote_text": {"$gt": ""}}
        found, next_cursor = await page_of(
            self._paginator, records, which, skip=skip, limit=limit, cursor=cursor, scope=user.id
        )
        total = await records.count_documents(which)
        return {
            "quotes": [quote_view(record) for record in found],
            "total": total,
            "skip": skip,
            "limit": limit,
            "has_more": next_cursor is not None,
            "next_cursor": next_cursor,
        }
