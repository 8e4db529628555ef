"""BSON's comparison order in Python, written from MongoDB's documentation: an order that owes nothing to the server."""

from __future__ import annotations

import datetime as dt
import decimal
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bson import Binary, Code, Decimal128, MaxKey, MinKey, ObjectId, Regex, Timestamp

_EPOCH = dt.datetime(1970, 1, 1)


def order_key(value: Any) -> tuple[Any, ...]:
    """A tuple that compares as the value does in MongoDB; a missing field is None."""
    match value:
        case MinKey():
            return (0,)
        case None:
            return (5,)
        case bool():
            return (40, value)
        case int() | float() | Decimal128():
            return (10, 0) if exact(value).is_nan() else (10, 1, exact(value))
        case Code():
            # A function with a scope is a type of its own; `str` subclasses come before `str`.
            return (
                (60, str(value).encode()) if value.scope is None else (65, str(value).encode(), order_key(value.scope))
            )
        case str():
            return (15, value.encode())
        case Mapping():
            return (20, tuple((order_key(inner)[0], name.encode(), order_key(inner)) for name, inner in value.items()))
        case Binary():
            return (30, len(value), value.subtype, bytes(value))
        case bytes():
            return (30, len(value), 0, value)
        case ObjectId():
            return (35, value.binary)
        case dt.datetime():
            return (45, (value - _EPOCH) // dt.timedelta(milliseconds=1))
        case Timestamp():
            return (47, value.time, value.inc)
        case Regex():
            return (50, str(value.pattern).encode(), value.flags)
        case MaxKey():
            return (127,)
    raise TypeError(f"no order for {value!r}")


def in_order(rows: Iterable[Mapping[str, Any]], sort: Sequence[tuple[str, int]]) -> list[Mapping[str, Any]]:
    """The rows, sorted as MongoDB would."""
    ordered = list(rows)
    for name, direction in reversed(sort):  # a stable sort by each field, the least important first
        ordered.sort(key=lambda row: order_key(_at(row, name)), reverse=direction < 0)
    return ordered


def exact(number: float | Decimal128) -> decimal.Decimal:
    """A number's value, without rounding."""
    return number.to_decimal() if isinstance(number, Decimal128) else decimal.Decimal(number)


def _at(row: Mapping[str, Any], path: str) -> Any:
    value: Any = row
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
