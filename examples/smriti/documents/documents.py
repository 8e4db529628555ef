"""Documents after they were posted: their text is taken out, so that search finds it."""

from __future__ import annotations

import logging
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

from bson import ObjectId

from examples.smriti.auth.accounts import now
from examples.smriti.documents.extract import ExtractionFailed, extract_text
from examples.smriti.posts.tags import tags_of
from smriti_scale.cache import Cache
from smriti_scale.errors import StorageError
from smriti_scale.mongo import MongoClients
from smriti_scale.storage import ObjectStore

_log = logging.getLogger("smriti.documents")

_LONGEST_TEXT = 200_000
_OVERDUE = timedelta(minutes=2)
_MOST_OVERDUE = 100


class Documents:
    """The text of documents.

    Args:
        mongo: clients.
        cache: search results are dropped when a text arrives.
        store: where the files are; None when none is configured.
    """

    def __init__(self, mongo: MongoClients, cache: Cache, store: ObjectStore | None) -> None:
        self._mongo = mongo
        self._cache = cache
        self._store = store

    async def process(self, post_id: str) -> str:
        """Take the text out of a post's document; may run any number of times.

        Returns:
            `ready`, `failed` (the file is unreadable), or `gone` (the post, or its file).
        """
        posts = self._mongo.write.posts
        which = {"_id": ObjectId(post_id)}
        post = await posts.find_one(
            which, {"document_public_id": 1, "document_type": 1, "author": 1, "visibility": 1, "circle_ids": 1}
        )
        if post is None or self._store is None or not post.get("document_public_id"):
            return "gone"
        change: dict[str, Any]
        try:
            text = await self._text_of(self._store, post["document_public_id"], post["document_type"])
        except FileNotFoundError:
            return "gone"
        except ExtractionFailed as failed:
            _log.info("a document could not be read: %s", failed, extra={"post": post_id})
            change = {"document_status": "failed"}
        else:
            change = {"document_status": "ready", "document_text": text[:_LONGEST_TEXT]}
        await posts.update_one(which, {"$set": change})
        await self._cache.invalidate_tags(*tags_of(post))
        return str(change["document_status"])

    async def overdue(self) -> list[str]:
        """Posts whose document still waits, since the broker could not be told of it."""
        waiting = {"document_status": "pending", "created_at": {"$lt": now() - _OVERDUE}}
        found = await self._mongo.read.posts.find(waiting, {"_id": 1}).limit(_MOST_OVERDUE).to_list(_MOST_OVERDUE)
        return [str(post["_id"]) for post in found]

    async def _text_of(self, store: ObjectStore, key: str, extension: str) -> str:
        with tempfile.NamedTemporaryFile(suffix=f".{extension}") as file:
            try:
                async for piece in store.get(key):
                    file.write(piece)
            except StorageError as error:
                if isinstance(error, FileNotFoundError):
                    raise
                raise  # an outage of the store: the task is tried again
            file.flush()
            return await extract_text(Path(file.name), extension)
