"""Entity tags and conditional requests: RFC 9110 sections 8.8 and 13, as functions of values."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
_UNSAFE = re.compile(r"[^\x21\x23-\x24\x26-\x7d]")


@dataclass(frozen=True, slots=True)
class EntityTag:
    """A parsed entity tag: what stands between the quotes, and whether `W/` stood before them."""

    opaque: str
    weak: bool = False

    def __str__(self) -> str:
        return f'{"W/" if self.weak else ""}"{self.opaque}"'


def body_etag(body: bytes) -> str:
    """A strong tag, quoted: the hash of these bytes, the same in every process."""
    return f'"{hashlib.blake2b(body, digest_size=16).hexdigest()}"'


def version_etag(version: object) -> str:
    """A strong tag, quoted, of the application's own version: a counter, an ObjectId, an `updated_at`.

    Characters that a tag cannot hold (and `~`, which marks a content coding) are percent-encoded.
    """
    text = version.isoformat() if isinstance(version, datetime) else str(version)
    escaped = _UNSAFE.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), text)
    return f'"{escaped}"'


def parse_etag(value: str | None) -> EntityTag | None:
    """One tag of an `ETag` field; None when there is none or it is malformed."""
    found = _TAG.fullmatch(value.strip()) if value else None
    return EntityTag(found[2], weak=found[1] is not None) if found else None


def parse_etags(value: str) -> Iterator[EntityTag]:
    """The tags of an `If-Match` or `If-None-Match` list; what is no tag is skipped. Commas may stand inside tags."""
    return (EntityTag(found[2], weak=found[1] is not None) for found in _TAG.finditer(value))


def matches_weakly(condition: str, etag: EntityTag | None) -> bool:
    """Whether a list (or `*`) holds the tag, `W/` or not: the comparison of `If-None-Match`.

    Args:
        condition: the field's value.
        etag: that of the current representation; None if it has none, which `*` matches all the same.
    """
    if condition.strip() == "*":
        return True
    return etag is not None and any(tag.opaque == etag.opaque for tag in parse_etags(condition))


def matches_strongly(condition: str, etag: EntityTag | None) -> bool:
    """Whether a list (or `*`) holds the tag and neither is weak: the comparison of `If-Match`."""
    if condition.strip() == "*":
        return True
    return etag is not None and not etag.weak and any(tag == etag for tag in parse_etags(condition))


def is_not_modified(
    *, if_none_match: str | None, if_modified_since: str | None, etag: str | None, last_modified: str | None
) -> bool:
    """Whether a GET or HEAD is answered with 304. `If-Modified-Since` counts only without `If-None-Match`.

    Args:
        if_none_match: the request's field, None when absent; lists, `*` and weak tags are understood.
        if_modified_since: the request's field; one that is no date is ignored.
        etag: the answer's `ETag`.
        last_modified: the answer's `Last-Modified`.
    """
    if if_none_match is not None:
        return matches_weakly(if_none_match, parse_etag(etag))
    since, modified = parse_http_date(if_modified_since), parse_http_date(last_modified)
    return since is not None and modified is not None and modified <= since


def parse_http_date(value: str | None) -> datetime | None:
    """A date in one of HTTP's forms, in UTC; None when absent or malformed."""
    if not value:
        return None
    try:
        parsed = parsedate_to_datetime(value)
        return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    except (ValueError, OverflowError, TypeError, IndexError):
        return None


def http_date(moment: datetime) -> str:
    """A moment as HTTP writes it: `Tue, 15 Nov 1994 08:12:31 GMT`. A naive one is taken as UTC, as MongoDB's are."""
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return format_datetime(aware.replace(microsecond=0), usegmt=True)
