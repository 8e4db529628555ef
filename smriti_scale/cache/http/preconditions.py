"""Optimistic writes: refuse a write whose `If-Match` names another version than the stored one."""

from __future__ import annotations

from datetime import datetime

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from smriti_scale.cache.http.conditions import (
    http_date,
    matches_strongly,
    matches_weakly,
    parse_etag,
    parse_etags,
    parse_http_date,
)
from smriti_scale.errors import ScaleError


class PreconditionFailed(ScaleError, HTTPException):
    """412: the client's condition does not hold for the current version. Read again, then write again."""

    def __init__(self, condition: str, etag: str | None) -> None:
        detail = f"{condition} does not hold for the current version; fetch it and try again"
        HTTPException.__init__(self, 412, detail, headers={"ETag": etag} if etag else None)


class PreconditionRequired(ScaleError, HTTPException):
    """428: the write must say which version it is meant for."""

    def __init__(self) -> None:
        HTTPException.__init__(self, 428, "send If-Match with the ETag of the version you read")


def check_preconditions(
    request: HTTPConnection,
    etag: str | None,
    *,
    last_modified: datetime | None = None,
    required: bool = False,
    accept_weak: bool = False,
) -> None:
    """Refuse a write whose conditions do not hold (RFC 9110 section 13.2.2). Call it before writing.

    The comparison is strong and against the application's own version, so it is the same whether the client read
    the answer plain or coded: `CompressionMiddleware` turns `"7~zstd"` back into `"7"`. To be safe from a write in
    between, let the database compare once more: `update_one({"_id": id, "version": version}, …)`.

    Args:
        request: the request.
        etag: the tag of what is stored now, quoted, as `version_etag(document["version"])` makes it; None when
            nothing is stored yet.
        last_modified: when it was last changed, for `If-Unmodified-Since`.
        required: answer 428 to a write that states no condition at all.
        accept_weak: let a weak tag in `If-Match` stand for the strong one. For use behind a proxy that weakens tags
            (nginx with `gzip on`), and only where the version changes with every write.

    Raises:
        PreconditionFailed: 412.
        PreconditionRequired: 428, if `required`.
    """
    headers = request.headers
    if_match = ", ".join(headers.getlist("if-match")) if "if-match" in headers else None
    if_none_match = ", ".join(headers.getlist("if-none-match")) if "if-none-match" in headers else None
    unmodified_since = headers.get("if-unmodified-since")
    current = parse_etag(etag)
    if if_match is not None:
        holds = current is not None and (
            matches_strongly(if_match, current)
            or (accept_weak and any(tag.opaque == current.opaque for tag in parse_etags(if_match)))
        )
        if not holds:
            raise PreconditionFailed("If-Match", etag)
    elif unmodified_since is not None and last_modified is not None:
        limit, changed = parse_http_date(unmodified_since), parse_http_date(http_date(last_modified))
        if limit is not None and changed is not None and changed > limit:
            raise PreconditionFailed("If-Unmodified-Since", etag)
    elif required and if_none_match is None:
        raise PreconditionRequired
    if if_none_match is not None and current is not None and matches_weakly(if_none_match, current):
        raise PreconditionFailed("If-None-Match", etag)
