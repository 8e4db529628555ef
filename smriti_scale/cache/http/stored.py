"""A whole response as it is kept: bytes and headers, ready to be sent again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import orjson

from smriti_scale.errors import UncacheableValue

RawHeaders = tuple[tuple[bytes, bytes], ...]

# Of one connection (RFC 9110 section 7.6.1), of one request, or of one person: nothing to hand to the next.
_UNKEPT = frozenset(
    {
        b"age",
        b"cache-status",
        b"connection",
        b"date",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"ratelimit",
        b"ratelimit-policy",
        b"retry-after",
        b"server-timing",
        b"te",
        b"traceparent",
        b"traceresponse",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"x-request-id",
        b"x-response-time",
    }
)
_OF_THE_BODY = frozenset(
    {
        b"content-encoding",
        b"content-language",
        b"content-length",
        b"content-range",
        b"content-type",
        b"accept-ranges",
        b"transfer-encoding",
        b"content-digest",
        b"repr-digest",
    }
)


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """One response.

    Attributes:
        status: its status.
        headers: names in lower case, with `ETag`.
        body: its bytes, coded as `Content-Encoding` says.
        born: when it was made, seconds since the epoch.
        ttl: seconds for which it is fresh here; 0 if it must not be kept, nor given to anyone but who asked.
        tags: what it is made of.
    """

    status: int
    headers: RawHeaders
    body: bytes
    born: float
    ttl: float
    tags: tuple[str, ...] = ()

    def field(self, name: bytes) -> str | None:
        """A header's value, the first of its lines."""
        for found, value in self.headers:
            if found == name:
                return value.decode("latin-1")
        return None


NOT_SHARED = StoredResponse(0, (), b"", 0.0, 0.0)
"""Stands for a response that went to the one who asked and to nobody else."""


def kept_headers(headers: Iterable[tuple[bytes, bytes]]) -> RawHeaders:
    """The headers that the next one who asks may get too."""
    return tuple(
        (name, value)
        for name, value in headers
        if name not in _UNKEPT and not name.startswith((b"x-ratelimit-", b"ratelimit-"))
    )


def not_modified_headers(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers of a 304 (RFC 9110 section 15.4.5): all but those that describe the body it does not have.

    `Access-Control-*` must stay: without it a browser keeps the answer from the page that asked.
    """
    return [(name, value) for name, value in headers if name.lower() not in _OF_THE_BODY]


class ResponseCodec:
    """Turns responses into bytes for the cache: a line of JSON, then the body as it is."""

    fingerprint = "http-response-1"

    def bind(self, type_: Any) -> ResponseCodec:
        """It knows one type."""
        return self

    def dumps(self, value: StoredResponse) -> tuple[bytes, StoredResponse]:
        """The bytes, and the same value.

        Raises:
            UncacheableValue: the response is not to be kept.
        """
        if value.ttl <= 0:
            raise UncacheableValue("this response is not to be kept")
        head = {
            "s": value.status,
            "h": [[name.decode("latin-1"), text.decode("latin-1")] for name, text in value.headers],
            "b": value.born,
            "l": value.ttl,
            "t": value.tags,
        }
        return orjson.dumps(head) + b"\n" + value.body, value

    def loads(self, raw: bytes) -> StoredResponse:
        """The response."""
        line, separator, body = raw.partition(b"\n")
        if not separator:
            raise ValueError("not a stored response")
        head = orjson.loads(line)
        headers = tuple((name.encode("latin-1"), text.encode("latin-1")) for name, text in head["h"])
        return StoredResponse(head["s"], headers, body, head["b"], head["l"], tuple(head["t"]))


def with_body_etag(response: StoredResponse, etag: str) -> StoredResponse:
    """The response with this `ETag`."""
    return replace(response, headers=(*response.headers, (b"etag", etag.encode())))
