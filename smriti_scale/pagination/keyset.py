"""Keyset logic, without I/O: a sort, an index that serves it, and the part of that index that holds one page.

Two forms, both exact for every BSON type, null, missing and NaN:

- **bounds**: `min` and `max` on the whole index key. The page is one contiguous range of the index.
- **comparison**: an aggregation comparison, which orders values across types as an index does. One on the first sort
  field bounds the scan, one on all fields drops the rows level with the position that lie before it. For where the
  server refuses bounds, or where several ranges are merged.

The usual `$or` of `$gt` is neither: query operators never cross from one BSON type to another.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bson import Int64, MaxKey, MinKey, ObjectId

from smriti_scale.errors import ConfigurationError
from smriti_scale.pagination.filters import FilterReading

_LEAST, _GREATEST = MinKey(), MaxKey()
_MAX_FIELDS = 4
_OID_LAST = (1 << 96) - 1
_PLAIN = frozenset({dt.datetime, ObjectId, str, bool, int, Int64, float})
"""Types whose values a query tests for equality just as an expression does."""
_BYTES = tuple(bytes([value]) for value in range(256))


@dataclass(frozen=True, slots=True)
class SortSpec:
    """A total order: fields with directions, `_id` last.

    Args:
        keys: `(field, direction)`, the direction 1 or −1.
        fields: the fields alone.
    """

    keys: tuple[tuple[str, int], ...]
    fields: tuple[str, ...]

    @classmethod
    def of(cls, sort: Sequence[tuple[str, int]]) -> SortSpec:
        """Check a sort of 1–4 fields and append `_id`, in the last field's direction, unless it is there.

        Raises:
            ConfigurationError: no field, too many, one twice, a direction that is not 1 or −1, or fields after `_id`.
        """
        given: Any = sort  # types are checked here too: a wrong sort shows as lost rows, not as an error
        if isinstance(given, str) or not given:
            raise ConfigurationError(f"sort={sort!r} must be a list such as [('created_at', -1), ('_id', -1)]")
        keys: list[tuple[str, int]] = []
        for key in given:
            if not isinstance(key, (tuple, list)) or len(key) != 2:
                raise ConfigurationError(f"sort key {key!r} must be a pair such as ('created_at', -1)")
            name, direction = key
            if not isinstance(name, str) or not name or name.startswith("$") or "" in name.split("."):
                raise ConfigurationError(f"sort field {name!r} must be a field name")
            if direction not in (1, -1) or isinstance(direction, bool):
                raise ConfigurationError(f"sort direction of {name!r} is {direction!r}; it must be 1 or -1")
            if any(name == other for other, _ in keys):
                raise ConfigurationError(f"sort names {name!r} twice")
            keys.append((name, int(direction)))
        names = [name for name, _ in keys]
        if "_id" not in names:
            keys.append(("_id", keys[-1][1]))
        elif names[-1] != "_id":
            raise ConfigurationError(f"sort fields after _id never decide anything: {names[names.index('_id') + 1 :]}")
        if len(keys) > _MAX_FIELDS + 1:
            raise ConfigurationError(
                f"sort has {len(keys) - 1} fields besides _id; at most {_MAX_FIELDS} are supported"
            )
        return cls(tuple(keys), tuple(name for name, _ in keys))

    def __str__(self) -> str:
        return ", ".join(f"{name} {'ascending' if direction > 0 else 'descending'}" for name, direction in self.keys)


@dataclass(frozen=True, slots=True)
class IndexPath:
    """How an index serves a sort: some leading fields fixed by the filter, then the sort fields, then anything.

    Args:
        name: the index's name.
        keys: all its fields, with directions.
        prefix: the fields fixed by the filter.
        ordered: the sort fields that follow, in the list's directions.
        reverse: the index runs against the list.

    What every page needs is worked out once: the sorts `forward` and `backward`, the index's fields after the sort
    (`trailing`), the direction of `_id` in the index when it ends the sort (`id_direction`, else 0).
    """

    name: str
    keys: tuple[tuple[str, int], ...]
    prefix: tuple[str, ...]
    ordered: tuple[tuple[str, int], ...]
    reverse: bool
    forward: list[tuple[str, int]] = field(init=False, compare=False, repr=False)
    backward: list[tuple[str, int]] = field(init=False, compare=False, repr=False)
    trailing: tuple[tuple[str, int], ...] = field(init=False, compare=False, repr=False)
    id_direction: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        place = len(self.prefix) + len(self.ordered)
        object.__setattr__(self, "trailing", self.keys[place:])
        ends_with_id = bool(self.ordered) and self.ordered[-1][0] == "_id"
        object.__setattr__(self, "id_direction", self.keys[place - 1][1] if ends_with_id else 0)
        object.__setattr__(self, "forward", list(self.ordered))
        object.__setattr__(self, "backward", [(name, -direction) for name, direction in self.ordered])

    def sort(self, *, backward: bool) -> list[tuple[str, int]]:
        """The sort that makes the server walk this index in the right direction. Not to be changed."""
        return self.backward if backward else self.forward


@dataclass(slots=True)  # not frozen: one is made for every page
class Bounds:
    """`min` and `max` of a find, in index order; `without` is the id of a row inside them that is not of the page."""

    lower: dict[str, Any] | None
    upper: dict[str, Any] | None
    without: Any = None
    drops: bool = False


def page_bounds(
    path: IndexPath,
    fixed: Mapping[str, Any],
    reading: FilterReading,
    *,
    anchor: Mapping[str, Any] | None,
    backward: bool,
) -> Bounds:
    """The range of the index that holds the rows after `anchor` (before it, if `backward`).

    Args:
        path: the index.
        fixed: the value of each prefix field.
        reading: the filter, whose range on the first sort field narrows the end that the anchor leaves open.
        anchor: the sort values of the row that was seen last; None for the first page.
        backward: read against the list's order.
    """
    if anchor is None:
        return Bounds(_open_end(path, fixed, reading, at_start=True), _open_end(path, fixed, reading, at_start=False))
    here: dict[str, Any] = {}
    for name in path.prefix:
        here[name] = fixed[name]
    for name, _ in path.ordered:
        here[name] = anchor[name]
    beyond = None
    onward = backward == path.reverse
    if onward and path.id_direction:
        beyond = _neighbour(here["_id"], path.id_direction)
        if beyond is not None:
            here["_id"] = beyond
    for name, direction in path.trailing:
        here[name] = _extreme(direction, at_start=True)
    if not onward:  # towards the index's start: `max` is exclusive, which is what is wanted
        return Bounds(_open_end(path, fixed, reading, at_start=True), here)
    # `min` is inclusive: without a next id to begin at, the anchor itself is in range and is dropped by its id.
    upper = _open_end(path, fixed, reading, at_start=False)
    return Bounds(here, upper, without=anchor["_id"], drops=beyond is None)


def comparison(
    keys: Sequence[tuple[str, int]], values: Mapping[str, Any], *, backward: bool, inclusive: bool
) -> list[dict[str, Any]]:
    """Clauses for `$and` that keep the rows after a position in a list sorted by `keys`; no type is special.

    Args:
        keys: the sort, `(field, direction)`.
        values: the position, one value for each field.
        backward: keep the rows before it.
        inclusive: keep the row at the position too.
    """
    tests: list[tuple[str, list[Any]]] = []
    for name, direction in keys:
        value = values[name]
        # In an expression a missing field is less than null, in an index they are one.
        field = {"$ifNull": [f"${name}", None]} if value is None else f"${name}"
        tests.append(("$gt" if (direction > 0) != backward else "$lt", [field, {"$literal": value}]))
    after, operand = tests[-1]
    rest: dict[str, Any] = {f"{after}e" if inclusive else after: operand}
    for after, operand in reversed(tests[1:-1]):
        rest = {"$or": [{after: operand}, {"$and": [{"$eq": operand}, rest]}]}
    after, operand = tests[0]
    if len(tests) == 1:
        return [{"$expr": rest}]
    if values[keys[0][0]] is None and after == "$gt":
        # No index serves `$ifNull`, and without it the missing would be lost. Next to nothing sorts before null.
        return [{"$expr": {"$or": [{after: operand}, {"$and": [{"$eq": operand}, rest]}]}}]
    name, value = keys[0][0], values[keys[0][0]]
    bound = {"$expr": {f"{after}e": [f"${name}", operand[1]]}}
    if type(value) in _PLAIN and value == value:  # not NaN
        # Plain equality says the same of such a value, and most rows then cost no expression.
        return [bound, {"$nor": [{name: value, "$expr": {"$not": [rest]}}]}]
    return [bound, {"$expr": {"$or": [{"$ne": operand}, rest]}}]


def _open_end(
    path: IndexPath, fixed: Mapping[str, Any], reading: FilterReading, *, at_start: bool
) -> dict[str, Any] | None:
    """The end of the range that no anchor sets: the filter's own range, or the end of the prefix."""
    if not path.prefix and not reading.lower and not reading.upper:
        return None
    name, direction = path.keys[len(path.prefix)] if len(path.keys) > len(path.prefix) else ("", 1)
    bound = (reading.lower if (direction > 0) == at_start else reading.upper).get(name)
    rest = path.keys[len(path.prefix) + 1 :]
    if bound is not None and not at_start and not bound.strict and not rest:
        bound = None  # `max` is exclusive and no further field can lift it past the rows equal to the bound
    if bound is None:
        if not path.prefix:
            return None
        rest = path.keys[len(path.prefix) :]
        return {f: fixed[f] for f in path.prefix} | {f: _extreme(d, at_start=at_start) for f, d in rest}
    # Rows equal to the bound: begin before them when they count, after them when the range is strict.
    at_first = (at_start and not bound.strict) or (not at_start and bound.strict)
    return (
        {f: fixed[f] for f in path.prefix} | {name: bound.value} | {f: _extreme(d, at_start=at_first) for f, d in rest}
    )


def _extreme(direction: int, *, at_start: bool) -> MinKey | MaxKey:
    return _LEAST if (direction > 0) == at_start else _GREATEST


def _neighbour(value: Any, direction: int) -> ObjectId | None:
    """The ObjectId right after `value` in an index of that direction: nothing sorts between the two."""
    if type(value) is not ObjectId:
        return None
    raw = value.binary
    last = raw[11] + direction
    if 0 <= last <= 255:  # nearly always: no carry
        return ObjectId(raw[:11] + _BYTES[last])
    number = int.from_bytes(raw, "big") + direction
    return ObjectId(number.to_bytes(12, "big")) if 0 <= number <= _OID_LAST else None
