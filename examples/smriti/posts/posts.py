"""The posts collection: writing, and the lists one can read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bson import ObjectId

from examples.smriti.answers import ApiError, json_bytes
from examples.smriti.auth.accounts import User, now
from examples.smriti.background import Background
from examples.smriti.lists import OwnCursors, page_of
from examples.smriti.posts.circle_feed import no_member
from examples.smriti.posts.drafts import Draft, Form, checked
from examples.smriti.posts.tags import circle_tag, circles_of, tags_of
from examples.smriti.posts.uploads import Files, Stored
from examples.smriti.posts.views import post_view
from smriti_scale.cache import Cache
from smriti_scale.mongo import MongoClients
from smriti_scale.pagination import CursorPaginator

PUBLIC: dict[str, Any] = {"visibility": {"$in": ["public", None]}}  # None: posts from before there was a choice


@dataclass(frozen=True, slots=True)
class FeedPage:
    """A page of the feed, for everybody.

    Args:
        body: the members `count` and `posts` of a JSON object.
        next_cursor: of the page after it, for no reader in particular.
    """

    body: bytes
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class OwnPage:
    """A page of what somebody wrote.

    Args:
        body: a JSON object.
        circle_ids: of every circle that a post in it is shown to.
    """

    body: bytes
    circle_ids: tuple[str, ...]


class Posts:
    """Posts of everybody.

    Args:
        mongo: clients for writing and reading.
        cache: holds pages of lists for a short time; every write that changes them drops them.
        paginator: newest first.
        files: keeps what is posted along.
        background: told of every new post.
    """

    def __init__(
        self,
        mongo: MongoClients,
        cache: Cache,
        paginator: CursorPaginator,
        files: Files,
        background: Background,
    ) -> None:
        self._files = files
        self._background = background
        self._mongo = mongo
        self._cache = cache
        self._paginator = paginator
        self._cursors = OwnCursors(paginator, lambda: mongo.read.posts)

        # One page for all readers: the cursor inside is nobody's, and is made each reader's own when it is served.
        @cache.cached(ttl=30, key="feed:{skip}:{limit}:{cursor}", tags=["posts"], stale=30, shared=True)
        async def feed_page(*, skip: int, limit: int, cursor: str | None) -> FeedPage:
            page = await paginator.paginate(mongo.read.posts, PUBLIC, skip=skip, limit=limit, cursor=cursor)
            posts = json_bytes([post_view(document) for document in page.items])
            return FeedPage(b'"count":%d,"posts":%b' % (len(page.items), posts), page.next_cursor)

        # A post's circles can vanish by the vote of others: the page is dropped by their tags too.
        @cache.cached(
            ttl=30,
            key="own_posts:{user_id}:{skip}:{limit}:{cursor}",
            tags=["posts_of:{user_id}"],
            tags_from=lambda page: [circle_tag(each) for each in page.circle_ids],
            shared=True,
        )
        async def own_page(user_id: str, *, skip: int, limit: int, cursor: str | None) -> OwnPage:
            found, next_cursor = await page_of(
                paginator, mongo.read.posts, _by(user_id, own=True), skip=skip, limit=limit, cursor=cursor,
                scope=user_id,
            )  # fmt: skip
            body = json_bytes({"posts": [post_view(document) for document in found], "next_cursor": next_cursor})
            return OwnPage(body, circles_of(found))

        @cache.cached(ttl=60, key="post_count:{user_id}:{own}", tags=["posts_of:{user_id}"])
        async def count_of(user_id: str, *, own: bool) -> int:
            count: int = await mongo.read.posts.count_documents(_by(user_id, own=own))
            return count

        self._feed_page = feed_page
        self._own_page = own_page
        self.count_of = count_of

    async def feed(self, reader: User, *, skip: int, limit: int, cursor: str | None) -> bytes:
        """A page of the public feed, as JSON.

        Raises:
            ApiError: 400 when both `skip` and `cursor` are given.
            InvalidCursor: the cursor was altered, or belongs to another list or reader.
        """
        shared = self._cursors.shared(cursor, PUBLIC, skip=skip, reader=reader.id)
        page = await self._feed_page(skip=skip, limit=limit, cursor=shared)
        return self._cursors.completed(page.body, page.next_cursor, PUBLIC, reader=reader.id)

    async def create(self, author: User, draft: Draft) -> dict[str, Any]:
        """Store a post; its author's next read of any list shows it.

        Raises:
            ApiError: 403 when the author is not a member of every circle; 500 when a file cannot be stored.
        """
        if draft.upload is not None and draft.circle_ids:
            await self._require_membership(author, draft.circle_ids)  # before the bytes travel
        stored = await self._files.keep(draft.upload) if draft.upload else None
        document: dict[str, Any] = {
            "_id": ObjectId(),
            "content_type": draft.content_type,
            "title": draft.title,
            "text_content": draft.text_content,
            "link_url": draft.link_url,
            "author": {"user_id": author.id, "username": author.username},
            "created_at": now(),
            "visibility": "circles" if draft.circle_ids else "public",
        }
        if stored is not None:
            document |= _file_fields(draft.content_type, stored)
        try:
            if draft.circle_ids:
                document["circle_ids"] = list(draft.circle_ids)
                await self._insert_into_circles(author, document)
            else:
                await self._mongo.write.posts.insert_one(document)
        except BaseException:
            if stored is not None:
                await self._files.discard(stored.public_id)
            raise
        await self._cache.invalidate_tags(*tags_of(document))
        has_document = "document_public_id" in document
        await self._background.post_created(str(document["_id"]), has_document=has_document)
        return post_view(document)

    async def draft_for_circle(self, circle_id: str, form: Form) -> Draft:
        """A draft for one circle; an id that is none is a circle one is not in.

        Raises:
            ApiError: 400 with the first problem; NOT_CIRCLE_MEMBER for a malformed id.
        """
        if not ObjectId.is_valid(circle_id):
            raise no_member()
        return await checked(form)

    async def delete(self, user: User, post_id: str) -> None:
        """Delete one's own post.

        Raises:
            ApiError: 404 for an unknown or malformed id, 403 for somebody else's post.
        """
        posts = self._mongo.write.posts
        fields = dict.fromkeys(("author", "visibility", "circle_ids", "image_public_id", "document_public_id"), 1)
        found = await posts.find_one({"_id": ObjectId(post_id)}, fields) if ObjectId.is_valid(post_id) else None
        if found is None:
            raise ApiError(404, "There is no such post")
        if found["author"]["user_id"] != user.id:
            raise ApiError(403, "That post is somebody else's")
        await posts.delete_one({"_id": found["_id"], "author.user_id": user.id})
        await self._cache.invalidate_tags(*tags_of(found))
        await self._files.discard(found.get("image_public_id"), found.get("document_public_id"))

    async def own(self, user: User, *, skip: int, limit: int, cursor: str | None) -> bytes:
        """Everything the user wrote, as JSON."""
        return (await self._own_page(user.id, skip=skip, limit=limit, cursor=cursor)).body

    async def of_user(
        self, reader: User, author_id: str, *, skip: int, limit: int, cursor: str | None
    ) -> dict[str, Any]:
        """What the reader may see of an author's posts: all of one's own, the public ones of others."""
        own = reader.id == author_id
        found, next_cursor = await self._page(_by(author_id, own=own), reader, skip=skip, limit=limit, cursor=cursor)
        return {
            "posts": [post_view(document) for document in found],
            "total": await self.count_of(author_id, own=own),
            "skip": skip,
            "limit": limit,
            "next_cursor": next_cursor,
        }

    async def _require_membership(self, author: User, circle_ids: Sequence[str]) -> None:
        which = {"_id": {"$in": [ObjectId(each) for each in circle_ids]}, "members.user_id": author.id}
        if await self._mongo.write.circles.count_documents(which) != len(circle_ids):
            raise no_member()

    async def _insert_into_circles(self, author: User, document: dict[str, Any]) -> None:
        ids = [ObjectId(each) for each in document["circle_ids"]]

        async def insert() -> None:
            # A write, not a read, and one that always changes something: a vote that deletes one of the circles
            # meanwhile conflicts with it, so that no post is left pointing at a circle that is gone.
            touched = await self._mongo.write.circles.update_many(
                {"_id": {"$in": ids}, "members.user_id": author.id},
                {"$inc": {"post_changes": 1}},
            )
            if touched.matched_count != len(ids):
                raise no_member()
            await self._mongo.write.posts.insert_one(document)

        await self._mongo.transaction(insert)

    async def _page(
        self, which: dict[str, Any], reader: User, *, skip: int, limit: int, cursor: str | None
    ) -> tuple[list[dict[str, Any]], str | None]:
        return await page_of(
            self._paginator, self._mongo.read.posts, which, skip=skip, limit=limit, cursor=cursor, scope=reader.id
        )


def _by(user_id: str, *, own: bool) -> dict[str, Any]:
    return {"author.user_id": user_id} if own else {"author.user_id": user_id, **PUBLIC}


def _file_fields(content_type: str, stored: Stored) -> dict[str, Any]:
    if content_type == "image":
        return {"image_url": stored.url, "image_public_id": stored.public_id}
    return {
        "document_url": stored.url,
        "document_public_id": stored.public_id,
        "document_type": stored.extension,
        "document_status": "pending",
    }
