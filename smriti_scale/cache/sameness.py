"""Questions about values: are two the same, may one be shared, how many bytes does it hold.

Equality in Python is too lenient to prove that a value came back from JSON as it went in: `1 == True == 1.0`, an
aware datetime equals itself in another zone, `Decimal("1.0") == Decimal("1.00")`, and a text enum equals its text.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Set as AbstractSet
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from bson import ObjectId
from pydantic import BaseModel

_ATOMS = frozenset({str, int, bool, bytes, type(None), UUID, ObjectId, date, timedelta})
_IMMUTABLE = _ATOMS | {float, complex, datetime, time, Decimal, range}
_MUTABLE = frozenset({list, dict, set, bytearray})


def same(left: Any, right: Any) -> bool:
    """Whether a caller could not tell the two apart (identity and the name of a time zone aside)."""
    kind = type(left)
    if kind is not type(right):
        return False
    if kind in _ATOMS:
        return bool(left == right)
    if isinstance(left, float):
        return repr(left) == repr(right)
    if isinstance(left, (datetime, time)):
        return bool(left.isoformat() == right.isoformat() and left.fold == right.fold)
    if isinstance(left, Decimal):
        return str(left) == str(right)
    if isinstance(left, Mapping):
        return len(left) == len(right) and all(
            same(mine, theirs) and same(left[mine], right[theirs]) for mine, theirs in zip(left, right, strict=True)
        )
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, AbstractSet):
        return bool(left == right) and _types(left) == _types(right)
    if isinstance(left, BaseModel):
        return (
            same(left.__dict__, right.__dict__)
            and same(left.__pydantic_extra__, right.__pydantic_extra__)
            and same(left.__pydantic_private__, right.__pydantic_private__)
        )
    if dataclasses.is_dataclass(left):
        return all(same(getattr(left, f.name), getattr(right, f.name)) for f in dataclasses.fields(left))
    return bool(left == right)


def _types(values: AbstractSet[Any]) -> dict[Any, type]:
    return {value: type(value) for value in values}


def immutable(value: Any) -> bool:
    """Whether the value can be handed to many callers, since none can change it."""
    kind = type(value)
    if kind in _IMMUTABLE:
        return True
    if kind in _MUTABLE:
        return False
    if isinstance(value, Enum):
        return True
    if kind is tuple or kind is frozenset:
        return all(map(immutable, value))
    if isinstance(value, BaseModel):
        return (
            bool(value.model_config.get("frozen"))
            and not value.__pydantic_private__
            and not value.__pydantic_extra__
            and all(map(immutable, value.__dict__.values()))
        )
    if dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        return all(immutable(getattr(value, field.name)) for field in dataclasses.fields(kind))
    return False


def held_bytes(value: Any) -> int:
    """Bytes of memory the value holds, its parts included (each counted once)."""
    seen: set[int] = set()
    total = 0
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, (type, Enum)):
            continue
        seen.add(id(item))
        total += sys.getsizeof(item)
        if isinstance(item, Mapping):
            waiting.extend(item.keys())
            waiting.extend(item.values())
        elif isinstance(item, (list, tuple, AbstractSet)):
            waiting.extend(item)
        else:
            waiting.extend(vars(item).values() if hasattr(item, "__dict__") else ())
            for kind in type(item).__mro__:
                slots = kind.__dict__.get("__slots__", ())
                names = (slots,) if isinstance(slots, str) else slots
                waiting.extend(getattr(item, name) for name in names if name != "__dict__" and hasattr(item, name))
    return total
