"""What the cache adds to a response's headers, and whether it may keep it: functions of values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from smriti_scale.cache.http.asked import Asked, accepts
from smriti_scale.cache.http.policy import CachePolicy, parse_cache_control, seconds_of, surrogate_key

Headers = list[tuple[bytes, bytes]]

CACHEABLE_STATUS = frozenset({200, 203, 300, 301, 308})
"""Answers that are kept. Not 404 and 410: what is not there now may be there in a moment, with no tag to say so."""

_GOVERNED_STATUS = CACHEABLE_STATUS | {206, 304}
_NEVER_SHARED = "private, no-store"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A response's start after the policy was applied.

    Attributes:
        status: its status.
        headers: names in lower case.
        tags: the response's tags.
        ttl: seconds for which a shared cache may keep it; 0 if it may not.
        private: whether it is for one person.
        varies: the fields that the application itself named in `Vary`, in lower case.
    """

    status: int
    headers: Headers
    tags: tuple[str, ...]
    ttl: int
    private: bool
    varies: tuple[str, ...] = ()


def apply_policy(
    policy: CachePolicy | None,
    status: int,
    raw_headers: Sequence[tuple[bytes, bytes]],
    *,
    authenticated: bool,
    vary_on: Sequence[str],
    tags: Sequence[str],
    tag_headers: Sequence[str],
) -> Outgoing:
    """The response's headers under a policy.

    What the endpoint says itself in `Cache-Control` goes before the policy. A `Set-Cookie` makes the response
    private and unstored whatever both say: a cookie kept is a cookie given to the next person.

    Args:
        policy: the route's, None without one.
        status: the response's status.
        raw_headers: its headers.
        authenticated: whether the request was.
        vary_on: what tells authenticated from anonymous requests: `Authorization`, `Cookie`.
        tags: what the response is made of.
        tag_headers: the headers that name tags to CDNs: `Surrogate-Key`, `Cache-Tag`.
    """
    headers: Headers = [(name.lower(), value) for name, value in raw_headers]
    own = ",".join(value.decode("latin-1") for name, value in headers if name == b"cache-control")
    directives = parse_cache_control(own)
    if any(name == b"set-cookie" for name, _ in headers):
        may_be_shared = policy is not None or not directives.keys() & {"private", "no-store"}
        if may_be_shared and status < 400:
            headers = _without(headers, _SHARED_FIELDS)
            headers.append((b"cache-control", _NEVER_SHARED.encode()))
            headers.append((b"cdn-cache-control", b"no-store"))
        return Outgoing(status, headers, (), 0, private=True)
    varies = tuple(field for name, value in headers if name == b"vary" for field in vary_fields(value))
    if policy is None:
        return Outgoing(status, headers, tuple(tags), _own_ttl(directives), _says_private(directives), varies)
    if status not in _GOVERNED_STATUS:
        return Outgoing(status, headers, (), 0, private=_says_private(directives))
    private = _says_private(directives) or policy.is_private(authenticated=authenticated)
    if not own:
        headers.append((b"cache-control", policy.cache_control(authenticated=authenticated).encode()))
        headers = _without(headers, {b"cdn-cache-control"})
        headers.append((b"cdn-cache-control", policy.cdn_cache_control(authenticated=authenticated).encode()))
    names = [*policy.vary, *(() if policy.public else vary_on)]
    headers = add_vary(headers, names)
    if tags and not private:
        headers = _with_tags(headers, tags, tag_headers)
    ttl = _own_ttl(directives) if own else policy.shared_age
    if private and (_says_private(directives) or not policy.per_identity):
        ttl = 0
    return Outgoing(status, headers, tuple(tags), ttl, private, varies)


_SHARED_FIELDS = {
    b"cache-control",
    b"cdn-cache-control",
    b"surrogate-control",
    b"surrogate-key",
    b"cache-tag",
    b"expires",
}


def may_keep(outgoing: Outgoing, asked: Asked, *, keyed_on: Callable[[str], bool]) -> bool:
    """Whether the response may be kept for the next one who asks.

    Args:
        outgoing: the response's start.
        asked: the request.
        keyed_on: whether a header field is part of the key.
    """
    if outgoing.ttl <= 0 or outgoing.status not in CACHEABLE_STATUS:
        return False
    if not all(keyed_on(field) for field in outgoing.varies):
        return False
    encoding = ""
    for name, value in outgoing.headers:
        if name in (b"set-cookie", b"content-range"):
            return False
        if name == b"content-encoding":
            encoding = value.decode("latin-1").strip().lower()
        if name == b"content-type" and value.lower().startswith(b"text/event-stream"):
            return False
    # A middleware that codes what nobody asked for must not have its mistake multiplied.
    return not encoding or encoding == "identity" or accepts(asked.fields.get(b"accept-encoding"), encoding)


def vary_fields(value: bytes) -> list[str]:
    """The header names of a `Vary` value, in lower case; `*` among them if it is there."""
    return [field for part in value.decode("latin-1").lower().split(",") if (field := part.strip())]


def add_vary(headers: Headers, names: Sequence[str]) -> Headers:
    """The headers with these names in `Vary`, each once, none beside `*`."""
    present = [field for name, value in headers if name == b"vary" for field in vary_fields(value)]
    missing = [name for name in dict.fromkeys(names) if name.lower() not in present]
    if not missing or "*" in present:
        return headers
    lines = [value.decode("latin-1").strip(", ") for name, value in headers if name == b"vary"]
    joined = ", ".join([*filter(None, lines), *missing])
    return [*_without(headers, {b"vary"}), (b"vary", joined.encode("latin-1"))]


def _with_tags(headers: Headers, tags: Sequence[str], tag_headers: Sequence[str]) -> Headers:
    for header in tag_headers:
        name = header.lower().encode()
        separator = "," if name == b"cache-tag" else " "
        own = [value.decode("latin-1") for found, value in headers if found == name]
        keys = separator.join([*own, *map(surrogate_key, tags)])
        headers = [*_without(headers, {name}), (name, keys.encode("latin-1"))]
    return headers


def _without(headers: Headers, names: set[bytes]) -> Headers:
    return [(name, value) for name, value in headers if name not in names]


def _says_private(directives: dict[str, str | None]) -> bool:
    return not directives.keys().isdisjoint({"private", "no-store", "no-cache"})


def _own_ttl(directives: dict[str, str | None]) -> int:
    """What the response's own `Cache-Control` grants a shared cache, seconds."""
    if _says_private(directives):
        return 0
    shared = seconds_of(directives, "s-maxage")
    return (seconds_of(directives, "max-age") or 0) if shared is None else shared
