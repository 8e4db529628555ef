"""What was posted to a circle, for its members."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bson import ObjectId

from examples.smriti.answers import ApiError, json_bytes
from examples.smriti.auth.accounts import User
from examples.smriti.lists import OwnCursors
from examples.smriti.posts.tags import circle_tag, circles_of
from examples.smriti.posts.views import post_view
from smriti_scale.cache import Cache
from smriti_scale.mongo import MongoClients
from smriti_scale.pagination import CursorPaginator


@dataclass(frozen=True, slots=True)
class CirclePage:
    """A page of a circle's posts, for every member.

    Args:
        body: the members `posts`, `total`, `skip` and `limit` of a JSON object.
        next_cursor: of the page after it, for no reader in particular.
        circle_ids: of every circle that a post in it is shown to, since it names them.
    """

    body: bytes
    next_cursor: str | None
    circle_ids: tuple[str, ...]


class CircleFeed:
    """Feeds of all circles.

    Args:
        mongo: clients.
        cache: holds pages and who is a member; joining, posting, renaming and removing drop them.
        paginator: newest first.
    """

    def __init__(self, mongo: MongoClients, cache: Cache, paginator: CursorPaginator) -> None:
        self._mongo = mongo
        self._cursors = OwnCursors(paginator, lambda: mongo.read.posts)

        @cache.cached(ttl=30, key="members:{circle_id}", tags=["circle:{circle_id}"], condition=bool, shared=True)
        async def members(circle_id: str) -> tuple[str, ...]:
            found = await mongo.read.circles.find_one({"_id": ObjectId(circle_id)}, {"members.user_id": 1})
            return tuple(member["user_id"] for member in found["members"]) if found else ()

        @cache.cached(
            ttl=30,
            key="circle_feed:{circle_id}:{skip}:{limit}:{cursor}",
            tags=["circle:{circle_id}"],
            tags_from=lambda page: [circle_tag(each) for each in page.circle_ids],
            shared=True,
        )
        async def page_for_all(circle_id: str, *, skip: int, limit: int, cursor: str | None) -> CirclePage:
            which = {"circle_ids": circle_id}
            page = await paginator.paginate(mongo.read.posts, which, skip=skip, limit=limit, cursor=cursor)
            shown_to = circles_of(page.items)
            names = await self._names(shown_to)
            posts = [
                post_view(document, [names.get(each, "A circle that is gone") for each in document["circle_ids"]])
                for document in page.items
            ]
            total = await mongo.read.posts.count_documents(which)
            body = b'"posts":%b,"total":%d,"skip":%d,"limit":%d' % (json_bytes(posts), total, skip, limit)
            return CirclePage(body, page.next_cursor, shown_to)

        self._members = members
        self._page_for_all = page_for_all

    async def page(self, reader: User, circle_id: str, *, skip: int, limit: int, cursor: str | None) -> bytes:
        """A page of a circle's feed, as JSON.

        Raises:
            ApiError: NOT_CIRCLE_MEMBER, for unknown, malformed and other people's circles alike; 400 when both `skip`
                and `cursor` are given.
            InvalidCursor: the cursor was altered, or belongs to another list or reader.
        """
        if not ObjectId.is_valid(circle_id):
            raise no_member()
        circle_id = circle_id.lower()
        if reader.id not in await self._members(circle_id):
            raise no_member()
        which = {"circle_ids": circle_id}
        shared = self._cursors.shared(cursor, which, skip=skip, reader=reader.id)
        page = await self._page_for_all(circle_id, skip=skip, limit=limit, cursor=shared)
        return self._cursors.completed(page.body, page.next_cursor, which, reader=reader.id)

    async def _names(self, circle_ids: tuple[str, ...]) -> dict[str, Any]:
        wanted = [ObjectId(each) for each in circle_ids if ObjectId.is_valid(each)]
        if not wanted:
            return {}
        found = await self._mongo.read.circles.find({"_id": {"$in": wanted}}, {"name": 1}).to_list(len(wanted))
        return {str(circle["_id"]): circle["name"] for circle in found}


def no_member() -> ApiError:
    """403, the same whether the circle exists or not."""
    return ApiError(403, "You are not in that circle", code="NOT_CIRCLE_MEMBER")
