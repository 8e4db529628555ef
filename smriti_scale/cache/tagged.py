"""JSON that keeps Python's types: what JSON lacks is written as an object with one marked name.

`{"$oid": "64…"}`, `{"$dt": "2026-01-01T00:00:00+00:00"}`, and so on. A text without the marker is plain JSON and is
read by orjson alone; only a marked one is walked.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import orjson
from bson import ObjectId

from smriti_scale.cache.sameness import same
from smriti_scale.errors import UncacheableValue

_MARK = b'"$'
_MAX_INT = 2**63


def dumps(value: Any) -> bytes:
    """The value as (marked) JSON.

    Raises:
        UncacheableValue: a part of it has no form here.
    """
    try:
        raw = orjson.dumps(value)
    except TypeError:
        pass
    else:
        # orjson writes tuples as lists, enums and UUIDs as text, NaN as null: only what reads back the same may
        # pass unmarked.
        if _MARK not in raw and same(orjson.loads(raw), value):
            return raw
    return orjson.dumps(_mark(value))


def loads(raw: bytes) -> Any:
    """The value that `dumps` wrote.

    Raises:
        ValueError: the bytes are not what `dumps` writes.
    """
    value = orjson.loads(raw)
    return _unmark(value) if _MARK in raw else value


def _mark(value: Any) -> Any:
    kind = type(value)
    if value is None or kind is bool or (kind is int and -_MAX_INT <= value < _MAX_INT):
        return value
    if kind is str:
        return value
    if kind is float:
        return value if value - value == 0 else {"$f": repr(value)}
    if kind is list:
        return [_mark(item) for item in value]
    if kind is dict:
        if all(type(name) is str and not name.startswith("$") for name in value):
            return {name: _mark(item) for name, item in value.items()}
        return {"$map": [[_mark(name), _mark(item)] for name, item in value.items()]}
    if isinstance(value, Enum):
        return _mark(value.value)  # for a model to turn back; where none does, it will be found not to be the same
    if form := _WRITE.get(kind):
        name, write = form
        return {name: write(value)}
    raise UncacheableValue(
        f"{kind.__module__}.{kind.__qualname__} has no JSON form here: annotate the function's return type "
        "(a pydantic model, dataclass or TypedDict), pass as_type=…, or give the cache another codec"
    )


def _unmark(value: Any) -> Any:
    if isinstance(value, list):
        return [_unmark(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((name, item),) = value.items()
        if name.startswith("$"):
            return _READ[name](item)
    return {name: _unmark(item) for name, item in value.items()}


_WRITE: dict[type, tuple[str, Callable[[Any], Any]]] = {
    int: ("$i", str),
    ObjectId: ("$oid", str),
    datetime: ("$dt", lambda value: [value.isoformat(), value.fold]),
    date: ("$da", date.isoformat),
    time: ("$ti", lambda value: [value.isoformat(), value.fold]),
    timedelta: ("$td", lambda value: [value.days, value.seconds, value.microseconds]),
    Decimal: ("$de", str),
    UUID: ("$u", str),
    bytes: ("$b", lambda value: base64.b64encode(value).decode()),
    tuple: ("$t", lambda value: [_mark(item) for item in value]),
    set: ("$s", lambda value: [_mark(item) for item in value]),
    frozenset: ("$fs", lambda value: [_mark(item) for item in value]),
}

_READ: dict[str, Callable[[Any], Any]] = {
    "$i": int,
    "$f": float,
    "$oid": ObjectId,
    "$dt": lambda item: datetime.fromisoformat(item[0]).replace(fold=item[1]),
    "$da": date.fromisoformat,
    "$ti": lambda item: time.fromisoformat(item[0]).replace(fold=item[1]),
    "$td": lambda item: timedelta(*item),
    "$de": Decimal,
    "$u": UUID,
    "$b": base64.b64decode,
    "$t": lambda item: tuple(map(_unmark, item)),
    "$s": lambda item: set(map(_unmark, item)),
    "$fs": lambda item: frozenset(map(_unmark, item)),
    "$map": lambda item: {_unmark(name): _unmark(part) for name, part in item},
}
