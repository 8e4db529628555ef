"""Reading a filter: which fields it fixes, lists or bounds, and what is left for the server to test row by row."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bson import Regex

from smriti_scale.errors import ConfigurationError

Filter = Mapping[str, Any]

_RANGE = {"$gt": ("lower", True), "$gte": ("lower", False), "$lt": ("upper", True), "$lte": ("upper", False)}
# These order or select rows on their own terms, so a position in an index means nothing beside them.
MAX_RANGES = 200
"""The most index ranges that the server merges (`internalQueryMaxScansToExplode`); beyond, it sorts the whole list."""
_UNPAGEABLE = ("$near", "$nearSphere", "$geoNear")


@dataclass(frozen=True, slots=True)
class Bound:
    """One end of a range: the value, and whether rows equal to it are left out."""

    value: Any
    strict: bool


@dataclass(slots=True)  # not frozen: one is made for every page
class FilterReading:
    """What a filter says about each field.

    Args:
        equal: fields fixed to one value.
        members: fields that may have one of a few values (`$in`).
        lower, upper: ends of ranges.
        residual: every other condition, by field or operator; the server tests it on each row.
        text: the filter has `$text`.
        impossible: no row can match (an empty `$in`).
    """

    equal: dict[str, Any] = field(default_factory=dict)
    members: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    lower: dict[str, Bound] = field(default_factory=dict)
    upper: dict[str, Bound] = field(default_factory=dict)
    residual: dict[str, None] = field(default_factory=dict)
    text: bool = False
    impossible: bool = False
    _shape: tuple[Any, ...] | None = None

    @property
    def shape(self) -> tuple[Any, ...]:
        """What a plan depends on: the fields and how each is constrained, not the values."""
        if self._shape is None:
            parts = (self.equal, self.members, self.lower, self.upper, self.residual)
            self._shape = tuple([tuple(sorted(fields)) if fields else () for fields in parts])
            if len(self.members) > 1 and self.ranges(self.members) > MAX_RANGES:
                # How many values there are decides which of the fields an index can begin with.
                self._shape += tuple([len(self.members[name]) for name in self._shape[1]])
        return self._shape

    def ranges(self, fields: Iterable[str]) -> int:
        """How many index ranges the `$in` conditions on these fields make together."""
        # Null takes two: the server looks for the old type `undefined` as well.
        return math.prod(len(self.members[name]) + (None in self.members[name]) for name in fields)

    def combinations(self, fields: Sequence[str]) -> list[dict[str, Any]]:
        """Every way to fix `fields`, each as a mapping from field to value."""
        choices = [self.members[name] if name in self.members else (self.equal[name],) for name in fields]
        return [dict(zip(fields, values, strict=True)) for values in itertools.product(*choices)]


_EVERYTHING = FilterReading()


def read_filter(filter: Filter, *, max_members: int = 20) -> FilterReading:
    """Read a filter. An `$in` of more than `max_members` values counts as residual.

    Raises:
        ConfigurationError: the filter orders rows itself (`$near`), so no sort of ours can page it.
    """
    if not filter:
        return _EVERYTHING
    equal: dict[str, Any] = {}
    members: dict[str, tuple[Any, ...]] = {}
    lower: dict[str, Bound] = {}
    upper: dict[str, Bound] = {}
    residual: dict[str, None] = {}
    text = impossible = False
    for name, condition in _clauses(filter):
        if name == "$text":
            text = True
        elif name.startswith("$"):
            residual[name] = None
        elif not _is_operators(condition):
            if _is_literal(condition) and name not in equal:
                equal[name] = condition
            else:
                residual[name] = None
        else:
            for operator, operand in condition.items():
                if operator in _UNPAGEABLE:
                    raise ConfigurationError(
                        f"{operator} on {name!r} orders rows by distance, so they cannot be paged by this sort; "
                        "filter with $geoWithin instead"
                    )
                if operator == "$in":
                    values = _distinct(operand)
                    impossible |= not values
                    if len(values) == 1 and _is_literal(values[0]) and name not in equal:
                        equal[name] = values[0]
                    elif len(values) <= max_members and all(map(_is_literal, values)) and name not in members:
                        members[name] = tuple(values)
                    else:
                        residual[name] = None
                elif operator == "$eq" and _is_literal(operand) and name not in equal:
                    equal[name] = operand
                elif operator in _RANGE and _is_boundary(operand):
                    end, strict = _RANGE[operator]
                    bounds = lower if end == "lower" else upper
                    if name in bounds:  # comparing two bounds is the server's business
                        residual[name] = None
                    else:
                        bounds[name] = Bound(operand, strict)
                else:
                    residual[name] = None
    for name in equal:
        members.pop(name, None)
    return FilterReading(equal, members, lower, upper, residual, text, impossible)


def _clauses(filter: Filter) -> list[tuple[str, Any]]:
    """The conditions of a filter, with nested `$and` laid flat."""
    found: list[tuple[str, Any]] = []
    for name, condition in filter.items():
        if name == "$and" and isinstance(condition, (list, tuple)):
            for inner in condition:
                found.extend(_clauses(inner) if isinstance(inner, Mapping) else [("$and", inner)])
        elif name != "$comment":
            found.append((name, condition))
    return found


def _is_operators(condition: Any) -> bool:
    return isinstance(condition, Mapping) and bool(condition) and str(next(iter(condition))).startswith("$")


def _is_literal(value: Any) -> bool:
    """Whether `{field: value}` means plain equality with one place in an index: no pattern, no array."""
    if isinstance(value, Mapping):
        return not _is_operators(value)
    return not isinstance(value, (list, tuple, re.Pattern, Regex))


def _is_boundary(value: Any) -> bool:
    return value is not None and _is_literal(value) and not (isinstance(value, float) and math.isnan(value))


def _distinct(values: Any) -> list[Any]:
    kept: list[Any] = []
    for value in values:
        # 1, 1.0 and True are equal to Python; MongoDB tells True apart.
        if not any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in kept):
            kept.append(value)
    return kept
