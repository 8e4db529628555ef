"""What may be posted: the rules of the contract in its order, as functions of values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bson import ObjectId
from starlette.datastructures import UploadFile

from examples.smriti.answers import ApiError
from examples.smriti.posts.uploads import DOCUMENTS, IMAGES, Upload, inspected

CONTENT_TYPES = ("note", "link", "image", "document")
VISIBILITIES = ("public", "circles")

LONGEST_TITLE = 200
LONGEST_TEXT = 100_000
LONGEST_LINK = 2_048


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A post as it was sent: nothing is checked yet."""

    content_type: str
    title: str | None = None
    text_content: str | None = None
    link_url: str | None = None
    image: UploadFile | None = None
    document: UploadFile | None = None
    visibility: str = "public"
    circle_ids: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A post that may be stored, as far as its author's membership allows.

    Args:
        circle_ids: of 24 lower-case hex digits each, none twice; empty for a public post.
        upload: the file of an image or a document.
    """

    content_type: str
    title: str | None
    text_content: str | None
    link_url: str | None
    circle_ids: tuple[str, ...] = ()
    upload: Upload | None = None


async def checked(form: Form) -> Draft:
    """A draft that may be stored.

    Raises:
        ApiError: 400 with the first problem.
    """
    kind = form.content_type
    if kind not in CONTENT_TYPES:
        raise ApiError(400, f"content_type must be one of {', '.join(CONTENT_TYPES)}, not {kind[:40]!r}")
    if kind == "note" and not form.text_content:
        raise ApiError(400, "A note needs text_content")
    if kind == "link" and not form.link_url:
        raise ApiError(400, "A link needs link_url")
    if kind == "image" and not _is_file(form.image):
        raise ApiError(400, "An image needs the file image")
    if kind == "document" and not _is_file(form.document):
        raise ApiError(400, "A document needs the file document")
    if form.visibility not in VISIBILITIES:
        raise ApiError(400, f"visibility must be public or circles, not {form.visibility[:40]!r}")
    circle_ids = tuple(dict.fromkeys(_circle_ids(form.circle_ids)))
    if form.visibility == "circles" and not circle_ids:
        raise ApiError(400, "A post to circles needs circle_ids")
    if form.visibility == "public" and circle_ids:
        raise ApiError(400, "A public post has no circle_ids")
    for name, value, longest in (
        ("title", form.title, LONGEST_TITLE),
        ("text_content", form.text_content, LONGEST_TEXT),
        ("link_url", form.link_url, LONGEST_LINK),
    ):
        if value is not None and len(value) > longest:
            raise ApiError(400, f"{name} may have {longest:,} characters, not {len(value):,}")
    upload = None
    if kind == "image" and form.image is not None:
        upload = await inspected(form.image, IMAGES)
    elif kind == "document" and form.document is not None:
        upload = await inspected(form.document, DOCUMENTS)
    return Draft(
        content_type=kind,
        title=form.title or None,
        text_content=form.text_content or None,
        link_url=form.link_url or None,
        circle_ids=circle_ids,
        upload=upload,
    )


def _is_file(given: UploadFile | None) -> bool:
    return given is not None and bool(given.filename)


def _circle_ids(text: str) -> Iterable[str]:
    for piece in text.split(","):
        identifier = piece.strip()
        if not identifier:
            continue
        if not ObjectId.is_valid(identifier):
            raise ApiError(400, f"{identifier[:40]!r} is no circle id")
        yield identifier.lower()
