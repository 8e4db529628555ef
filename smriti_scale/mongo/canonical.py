"""When two BSON values, filters or collations mean the same to MongoDB, though they are written differently. Pure.

The server gives back what was declared in its own words: `1.0` for `1`, every collation field filled in, a text
index under `_fts`. A plan that compared them literally would rebuild indexes for nothing.
"""

from __future__ import annotations

import datetime
from collections.abc import Hashable, Mapping
from typing import Any

from bson import Decimal128

_COLLATION_DEFAULTS: dict[str, Any] = {
    "strength": 3,
    "caseLevel": False,
    "caseFirst": "off",
    "numericOrdering": False,
    "alternate": "non-ignorable",
    "maxVariable": "punct",
    "normalization": False,
    "backwards": False,
}
# ICU locales whose own default differs; the server fills it in, so it counts as undeclared.
_LOCALE_DEFAULTS: dict[str, dict[str, Any]] = {
    "fr_CA": {"backwards": True},
    "th": {"alternate": "shifted"},
    "da": {"caseFirst": "upper"},
    "mt": {"caseFirst": "upper"},
}


def value(of: Any) -> Hashable:
    """A hashable form in which equal means equal to MongoDB: `1` is `1.0` but not `True`; datetimes in whole ms."""
    if isinstance(of, bool):
        return ("bool", of)
    if isinstance(of, (int, float)):
        return ("number", of)
    if isinstance(of, Decimal128):
        decimal = of.to_decimal()
        return ("number", decimal) if decimal.is_finite() else ("decimal", str(of))
    if isinstance(of, datetime.datetime):
        if of.tzinfo is not None:
            of = of.astimezone(datetime.UTC).replace(tzinfo=None)
        return ("date", of.replace(microsecond=of.microsecond // 1000 * 1000))
    if isinstance(of, Mapping):
        return ("document", tuple((key, value(item)) for key, item in of.items()))
    if isinstance(of, (list, tuple)):
        return ("array", tuple(value(item) for item in of))
    return (type(of).__name__, of if isinstance(of, Hashable) else repr(of))


def predicate(of: Mapping[str, Any] | None) -> Hashable:
    """A filter as a set of conditions: order, `$and` nesting and a spelled-out `$eq` make no difference."""
    return None if of is None else frozenset(_conditions(of))


def _conditions(of: Mapping[str, Any]) -> list[Hashable]:
    found: list[Hashable] = []
    for field, condition in of.items():
        if field == "$and":
            for branch in condition:
                found.extend(_conditions(branch))
        elif field == "$or":
            found.append(("$or", frozenset(predicate(branch) for branch in condition)))
        elif isinstance(condition, Mapping) and any(str(key).startswith("$") for key in condition):
            for operator, operand in condition.items():
                if operator == "$in":
                    found.append((field, "$in", frozenset(value(item) for item in operand)))
                elif operator == "$exists":
                    found.append((field, "$exists", bool(operand)))
                else:
                    found.append((field, operator, value(operand)))
        else:
            found.append((field, "$eq", value(condition)))
    return found


def collation(of: Mapping[str, Any] | None) -> Hashable:
    """Every field of a collation, defaults filled in; None for none and for the `simple` one."""
    if of is None or of.get("locale") == "simple":
        return None
    filled = {**_COLLATION_DEFAULTS, **_LOCALE_DEFAULTS.get(of["locale"], {}), **of}
    filled.pop("version", None)
    return tuple(sorted(filled.items()))


def short_collation(of: Mapping[str, Any]) -> dict[str, Any]:
    """A collation without what goes without saying: as one would declare it."""
    defaults = _COLLATION_DEFAULTS | _LOCALE_DEFAULTS.get(of.get("locale", ""), {})
    return {key: chosen for key, chosen in of.items() if key != "version" and defaults.get(key) != chosen}


def projection(of: Mapping[str, Any] | None, *, prefix: str = "") -> Hashable:
    """A wildcard projection by dotted path, included or excluded."""
    if of is None:
        return None
    paths: list[tuple[str, bool]] = []
    for field, chosen in of.items():
        if isinstance(chosen, Mapping):
            nested = projection(chosen, prefix=f"{prefix}{field}.")
            if isinstance(nested, frozenset):
                paths.extend(nested)
        else:
            paths.append((f"{prefix}{field}", bool(chosen)))
    return frozenset(paths)


def direction(of: Any) -> int | str:
    """A key's direction as the server reads it: the sign of a number, or the kind of special index."""
    if isinstance(of, str):
        return of
    return 1 if of > 0 else -1
