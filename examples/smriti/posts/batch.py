"""Posts that a client queued while it was offline, sent together: each stands or falls by itself."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from examples.smriti.answers import ApiError
from examples.smriti.auth.accounts import User
from examples.smriti.posts import drafts
from examples.smriti.posts.posts import Posts

MOST = 10


class Queued(BaseModel):
    """One queued note or link; nothing of it is checked before its turn."""

    queueId: str = Field(max_length=200)  # noqa: N815
    contentType: str = ""  # noqa: N815
    title: str | None = None
    textContent: str | None = None  # noqa: N815
    linkUrl: str | None = None  # noqa: N815


class Batch(BaseModel):
    posts: Annotated[list[Queued], Field(min_length=1, max_length=MOST)]


async def create_all(posts: Posts, author: User, batch: Batch) -> list[dict[str, Any]]:
    """Store what may be stored.

    Returns:
        For each item, in order: `{"queueId", "success"}`, and `"error"` where it failed.
    """
    results: list[dict[str, Any]] = []
    for item in batch.posts:
        form = drafts.Form(
            content_type=item.contentType,
            title=item.title,
            text_content=item.textContent,
            link_url=item.linkUrl,
        )
        try:
            await posts.create(author, await drafts.checked(form))
        except ApiError as refused:
            results.append({"queueId": item.queueId, "success": False, "error": refused.error})
        else:
            results.append({"queueId": item.queueId, "success": True})
    return results
