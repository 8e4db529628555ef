"""Choosing the index that serves a list: a function of the indexes, the sort and the filter, without I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from smriti_scale.pagination.filters import MAX_RANGES, FilterReading, read_filter
from smriti_scale.pagination.keyset import IndexPath, SortSpec

Method = Literal["bounds", "merge", "comparison"]
"""`bounds`: one index range. `merge`: one range for each value of an `$in`, merged by the server.
`comparison`: where the server refuses bounds (strict Stable API)."""


@dataclass(frozen=True, slots=True)
class ListPlan:
    """How one list (a sort and a shape of filter) is read. `str()` gives a sentence.

    Args:
        collection: the collection's name.
        index: the index's name.
        method: how its range is reached.
        prefix: the filter's fields that the index begins with.
        residual: the filter's other fields and operators: tested on each row, so rows that fail cost index keys.
        path: the index in detail.
        partial: the expression of a partial index, which the filter must contain.
        collated: text is compared by a collation, so two different ids can be level.
    """

    collection: str
    index: str
    method: Method
    prefix: tuple[str, ...]
    residual: tuple[str, ...]
    path: IndexPath
    partial: Mapping[str, Any] | None = None
    collated: bool = False

    @property
    def exact(self) -> bool:
        """Whether a page examines no more index keys than it has rows, at any depth (one for each merged value)."""
        return not self.residual

    def __str__(self) -> str:
        how = {
            "bounds": "one index range a page",
            "merge": "one index range for each value of the $in, merged",
            "comparison": "a comparison, since the server refuses index bounds",
        }[self.method]
        left = f"; tested row by row: {', '.join(self.residual)}" if self.residual else ""
        return f"{self.collection}: index {self.index} ({how}){left}"


@dataclass(frozen=True, slots=True)
class Candidate:
    """An index that could serve the list, with how."""

    path: IndexPath
    method: Method
    residual: tuple[str, ...]
    partial: Mapping[str, Any] | None
    collated: bool


def candidates(
    indexes: Sequence[Mapping[str, Any]],
    sort: SortSpec,
    reading: FilterReading,
    filter: Mapping[str, Any],
    *,
    only: str | Sequence[tuple[str, int]] | None = None,
    collation: Mapping[str, Any] | None = None,
) -> tuple[list[Candidate], dict[str, str]]:
    """The indexes that serve a list, best first, and for each of the others why it does not.

    Args:
        indexes: as `listIndexes` gives them.
        sort: the list's order.
        reading, filter: the list's filter, read and as it is.
        only: the one index to consider, by name or keys.
        collation: the collation asked for; None takes the collection's.
    """
    # The _id index always has the collection's own collation, which is what a find without one uses.
    default = next((index.get("collation") for index in indexes if list(index["key"]) == ["_id"]), None)
    wanted = _locale(collation) if collation is not None else _locale(default)
    found: list[Candidate] = []
    refused: dict[str, str] = {}
    for index in indexes:
        name = str(index["name"])
        if only is not None and not _is_only(index, only):
            continue
        problem = _unusable(index, reading, filter, wanted)
        path = None if problem else _match(index, sort, reading)
        if path is None:
            refused[name] = problem or "its fields are not the filter's equalities followed by the sort"
            continue
        merged = [field for field in path.prefix if field in reading.members]
        if (ranges := reading.ranges(merged)) > MAX_RANGES:
            refused[name] = (
                f"the $in conditions on {', '.join(merged)} make {ranges} ranges of it, "
                f"and the server merges {MAX_RANGES}"
            )
            continue
        partial = index.get("partialFilterExpression")
        # What costs nothing: the prefix, a range on the first sort field (an end of the scan), a partial index's own.
        first = path.keys[len(path.prefix)][0] if len(path.keys) > len(path.prefix) else None
        free = {*path.prefix, *(partial or ())}
        tested = dict.fromkeys((*reading.equal, *reading.members, *reading.residual))
        tested |= dict.fromkeys(field for field in (*reading.lower, *reading.upper) if field != first)
        residual = [field for field in tested if field not in free]
        found.append(Candidate(path, "merge" if merged else "bounds", tuple(residual), partial, wanted is not None))
    found.sort(key=lambda each: (-len(each.path.prefix), len(each.path.keys), each.path.name))
    return found, refused


def index_for(sort: SortSpec, filter: Mapping[str, Any]) -> list[tuple[str, int]]:
    """The index that serves a list best: the filter's equalities, then its `$in`s, then the sort."""
    reading = read_filter(filter)
    fields = sort.fields
    prefix = list(reading.equal)
    merged: list[str] = []
    for name in reading.members:
        if name not in fields and reading.ranges([*merged, name]) <= MAX_RANGES:
            merged.append(name)
    prefix += merged
    return [*((name, 1) for name in prefix), *((name, way) for name, way in sort.keys if name not in prefix)]


def _match(index: Mapping[str, Any], sort: SortSpec, reading: FilterReading) -> IndexPath | None:
    keys = tuple((str(name), int(direction)) for name, direction in index["key"].items())
    sorted_fields = sort.fields
    at = 0
    while at < len(keys) and (
        keys[at][0] in reading.equal or (keys[at][0] in reading.members and keys[at][0] not in sorted_fields)
    ):
        at += 1
    # A sort field that the filter fixes is constant: the index may hold it in its place, or in its prefix.
    varying = tuple(key for key in sort.keys if key[0] not in reading.equal)
    for ordered, start in ((varying, at), (sort.keys, 0)):
        if any(keys[place][0] not in reading.equal and keys[place][0] not in reading.members for place in range(start)):
            continue
        here = keys[start:]
        wanted = ordered
        if index.get("unique") and ordered and len(here) == len(ordered) - 1:
            wanted = ordered[:-1]  # unique keys need no _id to break ties
        if not wanted or len(here) < len(wanted):
            continue
        pairs = list(zip(here, wanted, strict=False))
        if any(key[0] != field[0] for key, field in pairs):
            continue
        ways = {key[1] * field[1] for key, field in pairs}
        if len(ways) == 1:
            prefix = tuple(name for name, _ in keys[:start])
            return IndexPath(str(index["name"]), keys, prefix, wanted, reverse=ways == {-1})
    return None


def _unusable(
    index: Mapping[str, Any],
    reading: FilterReading,
    filter: Mapping[str, Any],
    collation: tuple[Any, ...] | None,
) -> str | None:
    if any(isinstance(way, str) or way not in (1, -1) for way in index["key"].values()):
        return "it is not an ordinary index of ascending and descending fields"
    if any("$**" in str(name) for name in index["key"]):
        return "it is a wildcard index"
    if index.get("hidden"):
        return "it is hidden"
    if index.get("sparse"):
        return "it is sparse: rows without its fields would be lost"
    if index.get("clustered"):
        return "it is the clustered index"
    partial = index.get("partialFilterExpression")
    if partial is not None and not implies(reading, filter, partial):
        return f"it is partial and the filter does not contain {dict(partial)!r}: rows outside it would be lost"
    if _locale(index.get("collation")) != collation:
        return "its collation is not the list's"
    return None


def implies(reading: FilterReading, filter: Mapping[str, Any], partial: Mapping[str, Any]) -> bool:
    """Whether every row that matches the filter is in the partial index, as far as equal clauses show it."""
    for name, condition in partial.items():
        if name in filter and filter[name] == condition and type(filter[name]) is type(condition):
            continue
        if name in reading.equal:
            value = reading.equal[name]
            same = value == condition and isinstance(value, bool) == isinstance(condition, bool)
            if same or (condition == {"$exists": True} and value is not None):
                continue
        return False
    return True


def _is_only(index: Mapping[str, Any], only: str | Sequence[tuple[str, int]]) -> bool:
    if isinstance(only, str):
        return bool(index["name"] == only)
    return [(name, way) for name, way in index["key"].items()] == [(name, way) for name, way in only]


def _locale(collation: Mapping[str, Any] | None) -> tuple[Any, ...] | None:
    """A collation in comparable form; the simple one is none. The server fills in defaults, so they count as absent."""
    if collation is None or collation.get("locale") == "simple":
        return None
    defaults = {
        "caseLevel": False, "caseFirst": "off", "strength": 3, "numericOrdering": False,
        "alternate": "non-ignorable", "maxVariable": "punct", "normalization": False, "backwards": False,
    }  # fmt: skip
    settings = {name: collation.get(name, default) for name, default in defaults.items()}
    return (collation.get("locale"), *settings.items())
