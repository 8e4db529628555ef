"""Projections that hide sort fields: read what a cursor needs, and hand out what was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

from smriti_scale.errors import ConfigurationError

Projection = Mapping[str, Any] | Sequence[str] | None

_ANCHOR = "_smriti_anchor"


@dataclass(frozen=True, slots=True)
class Projected:
    """A projection to send, where to find the sort values in what comes back, and what to take out again.

    Args:
        send: the projection for the server.
        fields: the sort fields.
        computed: the sort values come as one array, beside the document's fields.
        strip: paths that the caller did not ask for.
        flat: every sort value is a field of the row.
    """

    send: dict[str, Any] | None
    fields: tuple[str, ...]
    computed: bool = False
    strip: tuple[str, ...] = ()
    flat: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "flat", not self.computed and not any("." in name for name in self.fields))

    def anchor(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        """The row's sort values; missing ones are None, as in an index.

        Raises:
            ConfigurationError: one is an array, so the row has several places in the list.
        """
        if self.flat:
            values = tuple([row.get(name) for name in self.fields])
        elif self.computed:
            values = tuple(row[_ANCHOR])
        else:
            values = tuple([_dig(row, name) for name in self.fields])
        for value in values:
            if isinstance(value, (list, tuple)):
                name = self.fields[next(place for place, each in enumerate(values) if each is value)]
                raise ConfigurationError(
                    f"the row with _id {row.get('_id')!r} has an array in the sort field {name!r}: an array has "
                    "several places in an index, so a list sorted by it cannot be paged without losing rows"
                )
        return values

    def finish(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row as the caller's projection would have given it."""
        if self.computed:
            del row[_ANCHOR]
        for path in self.strip:
            _drop(row, path.split("."))
        return row

    def refuse_arrays(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Look at every row, not at the anchors alone: an array among the sort values loses rows without a word.

        Raises:
            ConfigurationError: as `anchor`.
        """
        if self.flat and rows and type(rows[0]) is dict:
            for name in self.fields:
                if name != "_id" and list in map(type, map(dict.get, rows, repeat(name))):  # type: ignore[arg-type] # dicts
                    break
            else:
                return
        for row in rows:
            self.anchor(row)

    @property
    def changes(self) -> bool:
        """Whether `finish` has anything to do."""
        return self.computed or bool(self.strip)


def projected(projection: Projection, fields: tuple[str, ...]) -> Projected:
    """Widen a projection so that the sort values can be read from its rows."""
    if not projection:  # none, or an empty one: all fields
        return Projected(None, fields)
    asked = dict(projection) if isinstance(projection, Mapping) else dict.fromkeys(projection, 1)
    if _keeps_only_named(asked):
        if all(name in asked or (name == "_id" and "_id" not in asked) for name in fields) and all(
            asked.get(name, 1) in (1, True) for name in fields
        ):
            return Projected(asked, fields)
        return Projected({**asked, _ANCHOR: _values(fields)}, fields, computed=True)
    hidden = [path for path in asked if not asked[path] and any(_overlap(path, name) for name in fields)]
    send = {path: value for path, value in asked.items() if path not in hidden}
    return Projected(send or None, fields, strip=tuple(hidden))


def _values(fields: tuple[str, ...]) -> list[dict[str, Any]]:
    return [{"$ifNull": [f"${name}", None]} for name in fields]


def _keeps_only_named(asked: Mapping[str, Any]) -> bool:
    """Whether a projection names what to keep, as opposed to what to leave out (MongoDB's find documentation)."""
    others = {path: value for path, value in asked.items() if path != "_id"}
    if not others:
        return bool(asked.get("_id"))
    return any(
        ("$slice" not in value and "$meta" not in value) if isinstance(value, Mapping) else bool(value)
        for value in others.values()
    )


def _overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(other + ".") or other.startswith(one + ".")


def _dig(row: Mapping[str, Any], path: str) -> Any:
    value: Any = row
    for name in path.split("."):
        if isinstance(value, list):
            return value
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def _drop(value: Any, path: list[str]) -> None:
    if isinstance(value, list):
        for inner in value:
            _drop(inner, path)
    elif isinstance(value, dict):
        if len(path) == 1:
            value.pop(path[0], None)
        else:
            _drop(value.get(path[0]), path[1:])
