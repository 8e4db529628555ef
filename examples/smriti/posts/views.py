"""A post as clients see it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from examples.smriti.answers import iso


class Author(BaseModel):
    userId: str  # noqa: N815
    username: str


class PostView(BaseModel):
    """Every key is always present."""

    postId: str  # noqa: N815
    contentType: str  # noqa: N815
    title: str | None
    textContent: str | None  # noqa: N815
    linkUrl: str | None  # noqa: N815
    imageUrl: str | None  # noqa: N815
    imagePublicId: str | None  # noqa: N815
    documentUrl: str | None  # noqa: N815
    documentType: str | None  # noqa: N815
    documentPublicId: str | None  # noqa: N815
    documentStatus: str | None  # noqa: N815
    author: Author
    visibility: str
    circleIds: list[str] | None  # noqa: N815
    circleNames: list[str] | None  # noqa: N815
    createdAt: str  # noqa: N815
    updatedAt: None  # noqa: N815


class Feed(BaseModel):
    count: int
    posts: list[PostView]
    next_cursor: str | None


class OwnPosts(BaseModel):
    posts: list[PostView]
    next_cursor: str | None


class Created(BaseModel):
    post: PostView


def post_view(document: dict[str, Any], circle_names: list[str] | None = None) -> dict[str, Any]:
    """A stored post as a `PostView`; documents from before a field existed have its default."""
    get = document.get
    author = document["author"]
    return {
        "postId": str(document["_id"]),
        "contentType": document["content_type"],
        "title": get("title"),
        "textContent": get("text_content"),
        "linkUrl": get("link_url"),
        "imageUrl": get("image_url"),
        "imagePublicId": get("image_public_id"),
        "documentUrl": get("document_url"),
        "documentType": get("document_type"),
        "documentPublicId": get("document_public_id"),
        "documentStatus": get("document_status"),
        "author": {"userId": author["user_id"], "username": author["username"]},
        "visibility": get("visibility") or "public",
        "circleIds": get("circle_ids"),
        "circleNames": circle_names,
        "createdAt": iso(document["created_at"]),
        "updatedAt": None,
    }
