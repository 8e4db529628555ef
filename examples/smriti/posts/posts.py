"""The posts collection: writing, the public feed, one's own posts."""

from __future__ import annotations

from typing import Any

from bson import ObjectId
from smriti_scale.cache import Cache
from smriti_scale.mongo import MongoClients
from smriti_scale.pagination import CursorPaginator

from examples.smriti.answers import ApiError, json_bytes
from examples.smriti.auth.accounts import User, now
from examples.smriti.posts.drafts import Draft
from examples.smriti.posts.views import post_view

NEWEST_FIRST = [("created_at", -1), ("_id", -1)]
PUBLIC: dict[str, Any] = {"visibility": {"$in": ["public", None]}}  # None: posts from before there was a choice
DEEPEST_SKIP = 1_000_000


class Posts:
    """Posts of everybody.

    Args:
        mongo: clients for writing and reading.
        cache: holds pages of the feed for a short time; every write that changes them drops them.
        paginator: newest first.
    """

    def __init__(self, mongo: MongoClients, cache: Cache, paginator: CursorPaginator) -> None:
        self._mongo = mongo
        self._cache = cache
        self._paginator = paginator

        @cache.cached(ttl=30, key="feed:{user_id}:{skip}:{limit}:{cursor}", tags=["feed"])
        async def feed(user_id: str, *, skip: int, limit: int, cursor: str | None) -> bytes:
            page, next_cursor = await self._page(PUBLIC, skip=skip, limit=limit, cursor=cursor, scope=user_id)
            return json_bytes({"count": len(page), "posts": page, "next_cursor": next_cursor})

        self.feed = feed

    async def create(self, author: User, draft: Draft) -> dict[str, Any]:
        """Store a post; its author's next read of any list shows it."""
        document: dict[str, Any] = {
            "_id": ObjectId(),
            "content_type": draft.content_type,
            "title": draft.title,
            "text_content": draft.text_content,
            "link_url": draft.link_url,
            "author": {"user_id": author.id, "username": author.username},
            "created_at": now(),
            "visibility": draft.visibility,
        }
        await self._mongo.write.posts.insert_one(document)
        await self._cache.invalidate_tags("feed")
        return post_view(document)

    async def delete(self, user: User, post_id: str) -> None:
        """Delete one's own post.

        Raises:
            ApiError: 404 for an unknown or malformed id, 403 for somebody else's post.
        """
        posts = self._mongo.write.posts
        found = await posts.find_one({"_id": ObjectId(post_id)}, {"author": 1}) if ObjectId.is_valid(post_id) else None
        if found is None:
            raise ApiError(404, "There is no such post")
        if found["author"]["user_id"] != user.id:
            raise ApiError(403, "That post is somebody else's")
        await posts.delete_one({"_id": found["_id"], "author.user_id": user.id})
        await self._cache.invalidate_tags("feed")

    async def own(self, user: User, *, skip: int, limit: int, cursor: str | None) -> dict[str, Any]:
        posts, next_cursor = await self._page(
            {"author.user_id": user.id}, skip=skip, limit=limit, cursor=cursor, scope=user.id
        )
        return {"posts": posts, "next_cursor": next_cursor}

    async def count_of(self, user_id: str) -> int:
        """How many posts the user has written, of any visibility."""
        count: int = await self._mongo.read.posts.count_documents({"author.user_id": user_id})
        return count

    async def _page(
        self, which: dict[str, Any], *, skip: int, limit: int, cursor: str | None, scope: str
    ) -> tuple[list[dict[str, Any]], str | None]:
        if cursor is not None and skip:
            raise ApiError(400, "cursor and skip exclude each other")
        posts = self._mongo.read.posts
        if skip:
            documents = await posts.find(which).sort(NEWEST_FIRST).skip(skip).limit(limit).to_list(limit)
            return [post_view(document) for document in documents], None
        page = await self._paginator.paginate(posts, which, limit=limit, cursor=cursor, scope=scope)
        return [post_view(document) for document in page.items], page.next_cursor
