"""Which content coding an answer gets: RFC 9110 section 12.5.3, as functions of values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

# RFC 9110 section 12.4.2: a weight has at most three decimals and is never above 1; anything else is no weight.
_WEIGHT = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)\Z")
_LONGEST_REMEMBERED = 256
_ALIASES = {"x-gzip": "gzip"}


@dataclass(frozen=True, slots=True)
class Choice:
    """What negotiation decided.

    Attributes:
        coding: the content coding to apply, or None for the plain body.
        identity_allowed: False when the client refused the plain body (`identity;q=0`, or `*;q=0` without more).
    """

    coding: str | None
    identity_allowed: bool = True


PLAIN = Choice(None)


def parse_accept_encoding(value: str) -> dict[str, float]:
    """The weights of an `Accept-Encoding` field, by lower-case coding.

    An entry whose weight is malformed counts as refused (0): a client that said something unclear about a coding
    gets none of it. Of a coding named twice, the lower weight counts.

    Args:
        value: the field's value; several lines joined by commas.
    """
    weights: dict[str, float] = {}
    for entry in value.split(","):
        coding, *parameters = entry.split(";")
        coding = coding.strip().lower()
        if not coding:
            continue
        weight = 1.0
        for parameter in parameters:
            name, separator, given = parameter.partition("=")
            if separator and name.strip().lower() == "q":
                given = given.strip()
                weight = float(given) if _WEIGHT.match(given) else 0.0
                break
        coding = _ALIASES.get(coding, coding)
        weights[coding] = min(weight, weights.get(coding, 1.0))
    return weights


def choose(accept_encoding: str | None, offered: Sequence[str]) -> Choice:
    """The coding that the client likes best; among equals, the first that the server offers.

    Without the field, and with an empty one, the body stays plain. `identity` is acceptable unless refused, but only
    when it is named does it compete with the codings. Where nothing acceptable is left the plain body is sent all
    the same, as the RFC allows, rather than a 406 that helps nobody.

    Args:
        accept_encoding: the field's value, None when absent.
        offered: codings the server can produce, best first.
    """
    if not accept_encoding:
        return PLAIN
    if len(accept_encoding) > _LONGEST_REMEMBERED:
        # Remembering hostile headers would fill memory with them.
        return _choose(accept_encoding, tuple(offered))
    return _remembered(accept_encoding, tuple(offered))


def _choose(accept_encoding: str, offered: tuple[str, ...]) -> Choice:
    weights = parse_accept_encoding(accept_encoding)
    rest = weights.get("*", 0.0)
    identity = weights.get("identity")
    identity_allowed = identity > 0 if identity is not None else weights.get("*", 1.0) > 0
    best, best_weight = None, 0.0
    for coding in offered:
        weight = weights.get(coding, rest)
        if weight > best_weight:
            best, best_weight = coding, weight
    if identity is not None and identity > best_weight:
        best = None
    return Choice(best, identity_allowed)


_remembered = lru_cache(maxsize=512)(_choose)
