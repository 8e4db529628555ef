"""What a request asks for, as far as caching cares, and the key of its answer: functions of values."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache

from starlette.types import Scope

_WEIGHT = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")
_CODINGS = frozenset({"gzip", "x-gzip", "br", "zstd", "deflate", "identity", "*"})

# Conditions and parts are judged here, on the whole answer; credentials make no difference to a public one.
CONDITIONAL = frozenset(
    {b"if-none-match", b"if-modified-since", b"if-match", b"if-unmodified-since", b"if-range", b"range"}
)
CREDENTIALS = frozenset({b"authorization", b"cookie", b"proxy-authorization"})


@dataclass(frozen=True, slots=True)
class Asked:
    """One request's fields, joined where a field has several lines."""

    fields: dict[bytes, str]

    @property
    def if_none_match(self) -> str | None:
        return self.fields.get(b"if-none-match")

    @property
    def if_modified_since(self) -> str | None:
        return self.fields.get(b"if-modified-since")

    @property
    def has_body(self) -> bool:
        """A GET with a body: what it asks for is not in its address."""
        return self.fields.get(b"content-length", "0").strip() != "0" or b"transfer-encoding" in self.fields

    def is_authenticated(self, session_cookies: Collection[str] | None) -> bool:
        """Whether it carries credentials: `Authorization`, or a cookie (one of these; any, when None)."""
        if b"authorization" in self.fields:
            return True
        cookies = self.fields.get(b"cookie")
        if cookies is None:
            return False
        if session_cookies is None:
            return True
        return any(pair.partition("=")[0].strip() in session_cookies for pair in cookies.split(";"))


def read_request(scope: Scope) -> Asked:
    """The request's fields by lower-case name."""
    fields: dict[bytes, str] = {}
    for name, value in scope["headers"]:
        text = value.decode("latin-1")
        # Cookies are joined as they would stand on one line.
        fields[name] = f"{fields[name]}{'; ' if name == b'cookie' else ', '}{text}" if name in fields else text
    return Asked(fields)


def canonical_encoding(accept_encoding: str | None) -> str:
    """A short form of `Accept-Encoding` under which every server decides alike.

    Negotiation looks at which codings are named and in which order their weights stand, not at the weights. So the
    known codings are kept with the rank of their weight; spelling and unknown codings, of which a client could invent
    any number, make no further variants.
    """
    if not accept_encoding:
        return ""
    # Browsers send a handful of values; a hostile one must not fill memory with what it sends.
    return (_canonical if len(accept_encoding) > 256 else _remembered)(accept_encoding)


def _canonical(accept_encoding: str) -> str:
    weights: dict[str, float] = {}
    for entry in accept_encoding.lower().split(","):
        coding, _, parameters = entry.partition(";")
        coding = coding.strip()
        if coding not in _CODINGS:
            continue
        weights[coding] = min(_weight(parameters), weights.get(coding, 1.0))
    ranks = {weight: rank for rank, weight in enumerate(sorted({0.0, *weights.values()}))}
    return ",".join(f"{coding}{ranks[weight]}" for coding, weight in sorted(weights.items()))


_remembered = lru_cache(maxsize=512)(_canonical)


def _weight(parameters: str) -> float:
    for parameter in parameters.split(";"):
        name, separator, value = parameter.partition("=")
        if separator and name.strip() == "q":
            return float(value) if _WEIGHT.fullmatch(value.strip()) else 0.0
    return 1.0


def accepts(accept_encoding: str | None, coding: str) -> bool:
    """Whether a client named this coding, or `*`, and did not refuse it."""
    ranks = {entry[:-1]: entry[-1] for entry in canonical_encoding(accept_encoding).split(",") if entry}
    return ranks.get(coding, ranks.get(f"x-{coding}", ranks.get("*", "0"))) != "0"


def response_key(scope: Scope, asked: Asked, *, vary: Iterable[str], identity: str | None) -> str:
    """The key of the answer: address, accepted codings, the header fields it varies by, and whose it is.

    Each part has its length before it, so that no two requests can be made to share a key.
    """
    parts = [
        scope.get("scheme", "http"),
        asked.fields.get(b"host", "").lower(),
        scope["path"],
        scope.get("root_path", ""),
        scope.get("query_string", b"").decode("latin-1"),
        canonical_encoding(asked.fields.get(b"accept-encoding")),
        "anyone" if identity is None else f"identity={identity}",
    ]
    for name in vary:
        value = asked.fields.get(name.encode("latin-1"))
        parts += [name, "absent" if value is None else f"={value.strip()}"]
    return "".join(f"{len(part)}:{part}" for part in parts)


def address_tag(scope: Scope, asked: Asked) -> str:
    """The tag of everything kept for this address, whatever its query and variant."""
    return f"url:{asked.fields.get(b'host', '').lower()}{scope['path']}"
