"""A command's shape: what it asks without the values, and the index it would want. Pure.

Shapes may be logged and counted: values never appear in them, nor do field names that look like data (an id used as
a key).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bson.regex import Regex

from smriti_scale.errors import ConfigurationError
from smriti_scale.mongo.index import Index
from smriti_scale.mongo.queries import Query, SortField

READS = frozenset({"find", "aggregate", "count", "distinct"})
OBSERVED = READS | {"findAndModify", "update", "delete"}

_GEO = frozenset({"$near", "$nearSphere", "$geoWithin", "$geoIntersects"})
_IGNORED = frozenset({"$expr", "$where", "$comment", "$jsonSchema", "$text", "$sampleRate", "$alwaysTrue"})
_NAMES = frozenset({"from", "localField", "foreignField", "as", "into", "connectFromField", "connectToField", "path"})
_DATA_KEY = re.compile(r"^([0-9a-fA-F]{24}|[0-9a-fA-F-]{32,36}|\d{3,}|.*@.*|.{41,})$")
_MAX_IN = 200

Context = Literal["filter", "expression"]


@dataclass(frozen=True, slots=True)
class Shape:
    """What a command asks.

    Attributes:
        operation: the command's name, `find`, `aggregate`, ….
        text: `find posts {user_id: ?} sort {created_at: -1}`; equal texts are the same query.
        wants: the indexes that would serve it, in order of use; empty where none can be named.
        filtered: whether it has any condition.
        sorted: whether it sorts.
        limited: whether it stops after some documents.
        groups: whether it returns something else than the documents it reads (`$group`, `$count`, …).
        point: the single field it compares for equality, if that is all it does.
    """

    operation: str
    collection: str
    text: str
    wants: tuple[Index, ...] = ()
    filtered: bool = False
    sorted: bool = False
    limited: bool = False
    groups: bool = False
    point: str | None = None


def shape_of(command: Mapping[str, Any]) -> Shape | None:
    """The shape of a command as drivers send it, or None if it is none of those that read or match documents."""
    operation = next(iter(command), "")
    collection = command.get(operation)
    if operation not in OBSERVED or not isinstance(collection, str):
        return None
    try:
        return _of(operation, collection, command)
    except (TypeError, ValueError, AttributeError, LookupError):
        # A hostile or broken filter: the server refuses it, and a listener must not fall over it.
        return Shape(operation, collection, f"{operation} {collection} <malformed>")


def _of(operation: str, collection: str, command: Mapping[str, Any]) -> Shape:
    if operation == "aggregate":
        return _of_pipeline(collection, command.get("pipeline") or [])
    if operation in ("update", "delete"):
        statements: Sequence[Mapping[str, Any]] = command.get(f"{operation}s") or [{}]
        condition = statements[0].get("q") or {}
        limited = not statements[0].get("multi", False) if operation == "update" else statements[0].get("limit") == 1
    else:
        condition = command.get("filter" if operation == "find" else "query") or {}
        limited = bool(command.get("limit")) or operation == "findAndModify"
    sort = dict(command.get("sort") or {})
    text = f"{operation} {collection} {outline(condition)}"
    if operation == "distinct":
        text += f" key {command.get('key')}"
    if sort:
        text += f" sort {outline(sort, literal=True)}"
    return Shape(
        operation,
        collection,
        text,
        wants=wanted_indexes(condition, sort, collation=command.get("collation")),
        filtered=bool(condition),
        sorted=bool(sort),
        limited=limited,
        groups=operation in ("count", "distinct"),
        point=_point(condition),
    )


def _of_pipeline(collection: str, pipeline: Sequence[Mapping[str, Any]]) -> Shape:
    condition: dict[str, Any] = {}
    sort: dict[str, Any] = {}
    leading = True
    limited = groups = False
    for stage in pipeline:
        name = next(iter(stage), "")
        if leading and name == "$match" and not sort:
            condition = {"$and": [condition, stage[name]]} if condition else dict(stage[name])
        elif leading and name == "$sort" and not sort:
            sort = dict(stage[name])
        elif name == "$limit":
            limited = limited or not groups
            leading = False
        else:
            leading = False
            groups = groups or name in {
                "$group",
                "$count",
                "$facet",
                "$bucket",
                "$bucketAuto",
                "$sortByCount",
                "$unwind",
            }
    return Shape(
        "aggregate",
        collection,
        f"aggregate {collection} [{', '.join(map(_stage_outline, pipeline))}]",
        wants=wanted_indexes(condition, sort),
        filtered=bool(condition),
        sorted=bool(sort),
        limited=limited,
        groups=groups,
        point=None if groups else _point(condition),
    )


def _stage_outline(stage: Mapping[str, Any]) -> str:
    name = next(iter(stage), "")
    argument = stage.get(name)
    if name == "$sort":
        return f"{{$sort: {outline(argument, literal=True)}}}"
    return f"{{{name}: {outline(argument, context='filter' if name == '$match' else 'expression')}}}"


def outline(value: Any, *, context: Context = "filter", literal: bool = False) -> str:
    """A value's structure: keys stay, values become `?`; in expressions field paths (`"$user_id"`) stay too.

    Args:
        literal: keep numbers, for a sort's directions.
    """
    if isinstance(value, Mapping):
        parts = []
        for key, inner in value.items():
            if context == "expression" and key == "$match":
                text = outline(inner)
            elif context == "expression" and key in _NAMES and isinstance(inner, str):
                text = inner
            elif key == "$expr":
                text = outline(inner, context="expression")
            elif key == "$literal":
                text = "?"
            elif key == "pipeline" and isinstance(inner, list):
                text = f"[{', '.join(map(_stage_outline, inner))}]"
            else:
                text = outline(inner, context=context, literal=literal)
            parts.append(f"{_key(key)}: {text}")
        return f"{{{', '.join(parts)}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(dict.fromkeys(outline(item, context=context, literal=literal) for item in value))}]"
    if literal and isinstance(value, (int, float)):
        return f"{value:g}"
    if context == "expression" and isinstance(value, str) and value.startswith("$"):
        return ".".join(map(_key, value.split(".")))
    return "?"


def _key(key: Any) -> str:
    return ".".join("<key>" if _DATA_KEY.match(part) else part for part in str(key).split("."))


def wanted_indexes(
    condition: Mapping[str, Any], sort: Mapping[str, Any], *, collation: Mapping[str, Any] | None = None
) -> tuple[Index, ...]:
    """The indexes that would serve a filter and a sort, by equality, sort, range; one a branch of an `$or`."""
    branches: list[Mapping[str, Any]] = []
    special: list[Index] = []
    query = _query(condition, sort, branches, special, collation=collation)
    if special:
        return tuple(special)
    if branches and not (query and query.equality):
        found = [index for branch in branches for index in wanted_indexes(branch, sort, collation=collation)]
        return tuple(dict.fromkeys(found))
    if query is None or query.equality == ("_id",):
        return ()
    try:
        return (query.best_index(),)
    except ConfigurationError:  # `_id` alone, or a path that cannot be indexed
        return ()


def query_of(
    condition: Mapping[str, Any], sort: Mapping[str, Any], *, collation: Mapping[str, Any] | None = None
) -> Query | None:
    """A filter and a sort as what they want of an index; None if that is nothing an index of fields could give."""
    return _query(condition, sort, [], [], collation=collation)


def _query(
    condition: Mapping[str, Any],
    sort: Mapping[str, Any],
    branches: list[Mapping[str, Any]],
    special: list[Index],
    *,
    collation: Mapping[str, Any] | None,
) -> Query | None:
    equality: list[str] = []
    ranges: list[str] = []
    for path, kind in _conditions(condition, branches, special):
        (equality if kind == "equality" else ranges).append(path)
    order: list[SortField] = [
        (path, -1 if way == -1 else 1) for path, way in sort.items() if isinstance(way, (int, float))
    ]
    if not (equality or ranges or order):
        return None
    return Query(*equality, sort=order, range=ranges, collation=collation)


def _conditions(
    condition: Mapping[str, Any], branches: list[Mapping[str, Any]], special: list[Index], *, prefix: str = ""
) -> Iterator[tuple[str, Literal["equality", "range"]]]:
    for key, wanted in condition.items():
        if key == "$and":
            for inner in wanted:
                yield from _conditions(inner, branches, special, prefix=prefix)
        elif key == "$or":
            branches.extend(wanted)
        elif key.startswith("$"):
            continue
        elif not isinstance(wanted, Mapping) or not any(str(inner).startswith("$") for inner in wanted):
            pattern = isinstance(wanted, (re.Pattern, Regex))
            yield f"{prefix}{key}", "range" if pattern else "equality"
        else:
            yield from _operators(f"{prefix}{key}", wanted, branches, special)


def _operators(
    path: str, wanted: Mapping[str, Any], branches: list[Mapping[str, Any]], special: list[Index]
) -> Iterator[tuple[str, Literal["equality", "range"]]]:
    for operator, operand in wanted.items():
        if operator in _GEO:
            special.append(Index((path, "2dsphere")))
        elif operator in ("$eq", "$all") or (operator == "$in" and len(operand) <= _MAX_IN):
            yield path, "equality"
        elif operator == "$elemMatch" and not any(str(inner).startswith("$") for inner in operand):
            yield from _conditions(operand, branches, special, prefix=f"{path}.")
        elif operator not in ("$options", "$maxDistance", "$minDistance", "$comment"):
            yield path, "range"


def _point(condition: Mapping[str, Any]) -> str | None:
    if len(condition) != 1:
        return None
    (path, wanted), *_ = condition.items()
    if path.startswith("$") or (isinstance(wanted, Mapping) and set(wanted) != {"$eq"} and _has_operator(wanted)):
        return None
    return str(path)


def _has_operator(wanted: Mapping[str, Any]) -> bool:
    return any(str(key).startswith("$") for key in wanted)
