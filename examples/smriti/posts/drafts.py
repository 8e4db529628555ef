"""What may be posted: the rules of the contract in its order, as functions of values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from examples.smriti.answers import ApiError

ContentType = Literal["note", "link", "image", "document"]
CONTENT_TYPES: tuple[ContentType, ...] = ("note", "link", "image", "document")
VISIBILITIES = ("public", "circles")

LONGEST_TITLE = 200
LONGEST_TEXT = 100_000
LONGEST_LINK = 2_048


@dataclass(frozen=True, slots=True)
class Draft:
    """A post as its author sent it, checked."""

    content_type: str
    title: str | None
    text_content: str | None
    link_url: str | None
    visibility: str = "public"


def checked(
    *,
    content_type: str,
    title: str | None,
    text_content: str | None,
    link_url: str | None,
    visibility: str = "public",
) -> Draft:
    """A draft that may be stored.

    Raises:
        ApiError: 400 with the first problem.
    """
    if content_type not in ("note", "link"):
        raise ApiError(400, f"content_type must be note or link, not {content_type[:40]!r}")
    if content_type == "note" and not text_content:
        raise ApiError(400, "A note needs text_content")
    if content_type == "link" and not link_url:
        raise ApiError(400, "A link needs link_url")
    if visibility != "public":
        raise ApiError(400, f"visibility must be public, not {visibility[:40]!r}")
    for name, value, longest in (
        ("title", title, LONGEST_TITLE),
        ("text_content", text_content, LONGEST_TEXT),
        ("link_url", link_url, LONGEST_LINK),
    ):
        if value is not None and len(value) > longest:
            raise ApiError(400, f"{name} may have {longest:,} characters, not {len(value):,}")
    return Draft(content_type, title or None, text_content or None, link_url or None, visibility)
