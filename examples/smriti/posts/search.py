"""Search over public posts: by words, author, kind and time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bson import ObjectId

from examples.smriti.answers import ApiError, json_bytes
from examples.smriti.lists import page_of
from examples.smriti.posts.posts import PUBLIC
from examples.smriti.posts.views import post_view
from smriti_scale.cache import Cache
from smriti_scale.mongo import MongoClients
from smriti_scale.pagination import CursorPaginator


@dataclass(frozen=True, slots=True)
class Query:
    """What is looked for; all of it must hold.

    Args:
        words: MongoDB's text search: any word matches, `"a phrase"` and `-without` work; None for no words.
        author_id: as given.
        content_type: as given; an unknown one finds nothing.
        since: the earliest creation time, inclusive; naive UTC.
        until: the latest, inclusive.
    """

    words: str | None = None
    author_id: str | None = None
    content_type: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def filter(self) -> dict[str, Any]:
        which: dict[str, Any] = dict(PUBLIC)
        if self.author_id is not None:
            which["author.user_id"] = self.author_id
        if self.content_type is not None:
            which["content_type"] = self.content_type
        between = {name: moment for name, moment in (("$gte", self.since), ("$lte", self.until)) if moment is not None}
        if between:
            which["created_at"] = between
        if self.words is not None:
            which["$text"] = {"$search": self.words}
        return which


class Search:
    """Finds posts. Results are kept for 30 s; whoever writes or deletes sees their change at once.

    Args:
        mongo: clients.
        cache: holds pages of results.
        paginator: newest first.
    """

    def __init__(self, mongo: MongoClients, cache: Cache, paginator: CursorPaginator) -> None:
        self._mongo = mongo

        @cache.cached(ttl=30, tags=["posts"])
        async def page(query: Query, user_id: str, *, skip: int, limit: int, cursor: str | None) -> bytes:
            which = query.filter()
            posts = mongo.read.posts
            if query.words is None:
                found, next_cursor = await page_of(
                    paginator, posts, which, skip=skip, limit=limit, cursor=cursor, scope=user_id
                )
            else:
                if cursor is not None and skip:
                    raise ApiError(400, "cursor and skip exclude each other")
                best = await paginator.paginate_relevance(
                    posts, which, limit=limit, cursor=cursor, skip=skip, scope=user_id
                )
                found, next_cursor = best.items, best.next_cursor
            return json_bytes(
                {
                    "posts": [post_view(document) for document in found],
                    "total": await total(query),
                    "skip": skip,
                    "limit": limit,
                    "next_cursor": next_cursor,
                }
            )

        @cache.cached(ttl=30, tags=["posts"])
        async def total(query: Query) -> int:
            count: int = await mongo.read.posts.count_documents(query.filter())
            return count

        self.page = page


def query_of(
    *, q: str | None, author_id: str | None, content_type: str | None, start_date: str | None, end_date: str | None
) -> Query:
    """A query as its parameters were sent; what cannot be read is ignored."""
    return Query(
        words=q if q is not None and q.strip() else None,
        author_id=_author(author_id),
        content_type=content_type or None,
        since=moment_of(start_date),
        until=moment_of(end_date),
    )


def moment_of(text: str | None) -> datetime | None:
    """An ISO 8601 date or time as naive UTC; None when it is none."""
    for spelling in (text.strip(), text.strip().replace(" ", "+")) if text else ():  # a + in a query may mean a blank
        try:
            moment = datetime.fromisoformat(spelling)
            return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
        except (ValueError, OverflowError):
            continue
    return None


def _author(author_id: str | None) -> str | None:
    if not author_id:
        return None
    return author_id.lower() if ObjectId.is_valid(author_id) else author_id
