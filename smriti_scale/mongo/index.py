"""One index: how it is declared, checked, sent to the server, read back and compared. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from smriti_scale.errors import ConfigurationError
from smriti_scale.mongo import canonical

Direction: TypeAlias = Literal[1, -1, "text", "hashed", "2dsphere", "2d"]
Field: TypeAlias = str | tuple[str, int | str]
"""`"user_id"`, or a pair with a `Direction`. Typed widely, since a list such as `[("created_at", -1)]` that serves a
sort as well is inferred so; what is no direction is refused when declaring."""

TTL_OFF = 2147483647
"""Seconds (68 years): `collMod` cannot take a TTL away, so this stands for none."""

_DIRECTIONS = (1, -1, "text", "hashed", "2dsphere", "2d")
_PARTIAL_REFUSED = ("$ne", "$nin", "$not", "$nor", "$regex", "$expr", "$where", "$text")
_MAX_FIELDS = 32


@dataclass(frozen=True, slots=True, init=False, repr=False, eq=False)
class Index:
    """One declared index.

    Args:
        fields: `"user_id"` (ascending) or `("created_at", -1)`; the second may also be `"text"`, `"hashed"`,
            `"2dsphere"` or `"2d"`. A wildcard index is `Index("$**")` or `Index("attributes.$**")`.
        unique: no two documents share these values (missing counts as null).
        sparse: leave out documents that have none of the fields.
        partial: index only the documents that match this filter.
        ttl: seconds, or a `timedelta`, after which a document expires by its date in the one field.
        collation: as MongoDB writes it, for instance `{"locale": "en", "strength": 2}`.
        hidden: kept up to date, never chosen by the planner.
        name: by default the fields and directions joined by `_`, as every driver does.
        weights: of a text index, by field; 1 where absent.
        default_language: of a text index.
        language_override: the field that names a document's language, of a text index.
        wildcard_projection: which paths a `$**` index takes in or leaves out.

    Raises:
        ConfigurationError: MongoDB would refuse this index; the sentence says why.
    """

    keys: tuple[tuple[str, Direction], ...]
    name: str
    unique: bool
    sparse: bool
    partial: Mapping[str, Any] | None
    ttl: int | None
    collation: Mapping[str, Any] | None
    hidden: bool
    weights: Mapping[str, int] | None
    default_language: str
    language_override: str
    wildcard_projection: Mapping[str, Any] | None

    def __init__(
        self,
        *fields: Field,
        unique: bool = False,
        sparse: bool = False,
        partial: Mapping[str, Any] | None = None,
        ttl: float | datetime.timedelta | None = None,
        collation: Mapping[str, Any] | None = None,
        hidden: bool = False,
        name: str | None = None,
        weights: Mapping[str, int] | None = None,
        default_language: str = "english",
        language_override: str = "language",
        wildcard_projection: Mapping[str, Any] | None = None,
    ) -> None:
        keys = tuple(_key(field) for field in fields)
        text_fields = [path for path, kind in keys if kind == "text"]
        filled = dict.fromkeys(text_fields, 1) | dict(weights or {}) if text_fields else None
        values: dict[str, Any] = {
            "keys": keys,
            "name": name if name is not None else default_name(keys),
            "unique": unique,
            "sparse": sparse,
            "partial": partial,
            "ttl": _seconds(ttl),
            "collation": collation,
            "hidden": hidden,
            "weights": filled,
            "default_language": default_language,
            "language_override": language_override,
            "wildcard_projection": wildcard_projection,
        }
        for attribute, given in values.items():
            object.__setattr__(self, attribute, given)
        problem = _problem(self, weights=weights)
        if problem:
            raise ConfigurationError(f"{self!r}: {problem}")

    @classmethod
    def from_server(cls, listed: Mapping[str, Any]) -> Index:
        """The index that one document of `listIndexes` describes, without the checks of a declaration."""
        index = object.__new__(cls)
        weights = listed.get("weights")
        keys: list[tuple[str, Any]] = []
        for path, kind in listed["key"].items():
            if path == "_fts":
                keys.extend((field, "text") for field in weights or {})
            elif path != "_ftsx":
                keys.append((path, canonical.direction(kind)))
        ttl = listed.get("expireAfterSeconds")
        values: dict[str, Any] = {
            "keys": tuple(keys),
            "name": listed["name"],
            "unique": bool(listed.get("unique")),
            "sparse": bool(listed.get("sparse")),
            "partial": listed.get("partialFilterExpression"),
            "ttl": None if ttl is None else int(ttl),
            "collation": listed.get("collation"),
            "hidden": bool(listed.get("hidden")),
            "weights": weights,
            "default_language": listed.get("default_language", "english"),
            "language_override": listed.get("language_override", "language"),
            "wildcard_projection": listed.get("wildcardProjection"),
        }
        for attribute, given in values.items():
            object.__setattr__(index, attribute, given)
        return index

    def to_server(self, *, name: str | None = None) -> dict[str, Any]:
        """The document that `createIndexes` takes, optionally under another name."""
        spec: dict[str, Any] = {"key": dict(self.keys), "name": name or self.name}
        if self.unique:
            spec["unique"] = True
        if self.sparse:
            spec["sparse"] = True
        if self.hidden:
            spec["hidden"] = True
        if self.partial is not None:
            spec["partialFilterExpression"] = dict(self.partial)
        if self.ttl is not None:
            spec["expireAfterSeconds"] = self.ttl
        if self.collation is not None:
            spec["collation"] = dict(self.collation)
        if self.weights is not None:
            spec["weights"] = dict(self.weights)
            spec["default_language"] = self.default_language
            spec["language_override"] = self.language_override
        if self.wildcard_projection is not None:
            spec["wildcardProjection"] = dict(self.wildcard_projection)
        return spec

    @property
    def fields(self) -> tuple[str, ...]:
        """The paths, in order."""
        return tuple(path for path, _ in self.keys)

    @property
    def is_text(self) -> bool:
        return self.weights is not None

    @property
    def is_hashed(self) -> bool:
        return any(kind == "hashed" for _, kind in self.keys)

    @property
    def is_wildcard(self) -> bool:
        return any(path.endswith("$**") for path, _ in self.keys)

    @property
    def expires(self) -> bool:
        """Whether documents expire by this index."""
        return self.ttl is not None and self.ttl < TTL_OFF

    def shape(self) -> tuple[Hashable, ...]:
        """What cannot be changed on a built index: fields and what decides which documents are in it, and how.

        Equal shapes can be turned into one another by `collMod` (TTL, hidden, unique), others are built anew.
        """
        keys: list[Any] = [key for key in self.keys if key[1] != "text"]
        if self.weights is not None:
            at = next(place for place, key in enumerate(self.keys) if key[1] == "text")
            keys.insert(at, ("text", tuple(sorted(self.weights.items())), self.default_language))
            keys.append(self.language_override)
        return (
            tuple(keys),
            self.sparse,
            canonical.predicate(self.partial),
            canonical.collation(self.collation),
            canonical.projection(self.wildcard_projection),
        )

    def signature(self) -> Hashable:
        """What the server tells indexes apart by (since 5.0): two of one signature cannot stand side by side."""
        keys = tuple(key for key in self.keys if key[1] != "text") if self.is_text else self.keys
        _, sparse, partial, collation, wildcard = self.shape()
        return (keys, self.is_text, self.unique, sparse, partial, collation, wildcard)

    def replace(self, **changes: Any) -> Index:
        """A copy with other attributes, for instance `index.replace(unique=True)`; the name stays unless given."""
        copy = object.__new__(Index)
        for attribute in self.__slots__:
            object.__setattr__(copy, attribute, changes.get(attribute, getattr(self, attribute)))
        return copy

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Index) and self._everything() == other._everything()

    def __hash__(self) -> int:
        return hash(self._everything())

    def _everything(self) -> Hashable:
        return (self.shape(), self.name, self.unique, self.hidden, self.ttl)

    def __repr__(self) -> str:
        """The line that declares it."""
        parts = [repr(path) if kind == 1 else repr((path, kind)) for path, kind in self.keys]
        if self.name != default_name(self.keys):
            parts.append(f"name={self.name!r}")
        parts.extend(f"{flag}=True" for flag in ("unique", "sparse", "hidden") if getattr(self, flag))
        if self.partial is not None:
            parts.append(f"partial={dict(self.partial)!r}")
        if self.ttl is not None:
            parts.append(f"ttl={self.ttl}")
        if self.collation is not None:
            parts.append(f"collation={canonical.short_collation(self.collation)!r}")
        if self.weights is not None and any(weight != 1 for weight in self.weights.values()):
            parts.append(f"weights={dict(self.weights)!r}")
        if self.default_language != "english":
            parts.append(f"default_language={self.default_language!r}")
        if self.language_override != "language":
            parts.append(f"language_override={self.language_override!r}")
        if self.wildcard_projection is not None:
            parts.append(f"wildcard_projection={dict(self.wildcard_projection)!r}")
        return f"Index({', '.join(parts)})"


def default_name(keys: tuple[tuple[str, Any], ...]) -> str:
    """`user_id_1_created_at_-1`: the name that MongoDB's shell and drivers give."""
    return "_".join(f"{path}_{kind}" for path, kind in keys)


def _key(field: object) -> tuple[str, Direction]:
    if isinstance(field, str):
        return (field, 1)
    if isinstance(field, (tuple, list)) and len(field) == 2 and isinstance(field[0], str):
        kind = field[1]
        # True == 1 in Python, but nobody who writes ("a", True) means a direction.
        if not isinstance(kind, bool) and kind in _DIRECTIONS:
            return (field[0], kind)
        raise ConfigurationError(f"{kind!r} is no direction of {field[0]!r}: use one of {_DIRECTIONS}")
    raise ConfigurationError(
        f'{field!r} is no index field: write "user_id" or ("created_at", -1), each direction inside its own tuple'
    )


def _seconds(ttl: float | datetime.timedelta | None) -> int | None:
    if ttl is None:
        return None
    return int(ttl.total_seconds() if isinstance(ttl, datetime.timedelta) else ttl)


def _problem(index: Index, *, weights: Mapping[str, int] | None) -> str | None:
    """Why the server would refuse this index, or None."""
    kinds = [kind for _, kind in index.keys]
    if not index.keys:
        return "an index needs at least one field"
    if len(index.keys) > _MAX_FIELDS:
        return f"{len(index.keys)} fields; MongoDB allows {_MAX_FIELDS}"
    if len(set(index.fields)) < len(index.fields):
        return "a field appears twice"
    if index.keys in ((("_id", 1),), (("_id", -1),)):
        return "every collection has an index on _id; leave it out"
    if index.name == "_id_" or not index.name or "\0" in index.name or index.name == "*":
        return f"{index.name!r} cannot be an index's name"
    for path in index.fields:
        parts = path.split(".")
        if not all(parts) or any(part.startswith("$") and part != "$**" for part in parts) or "\0" in path:
            return f"{path!r} is no field path"
    if kinds.count("hashed") > 1:
        return "only one field can be hashed"
    if index.is_wildcard:
        if len(index.keys) > 1 or index.unique or index.ttl is not None or index.sparse or kinds != [1]:
            return "a wildcard index has one ascending field and is neither unique, sparse nor TTL"
    elif index.wildcard_projection is not None:
        return "wildcard_projection belongs to a $** index"
    if index.wildcard_projection is not None and index.fields != ("$**",):
        return 'wildcard_projection belongs to Index("$**"), on all paths'
    if weights and not index.is_text:
        return 'weights belong to a text index: write ("title", "text")'
    if weights and not set(weights) <= set(index.fields):
        return f"weights for {sorted(set(weights) - set(index.fields))}, which are no fields of the index"
    if index.is_text and index.collation is not None and canonical.collation(index.collation) is not None:
        return "a text index has no collation"
    if index.unique and index.is_hashed:
        return "a hashed index cannot be unique; make a second one unique"
    return _ttl_problem(index, kinds) or _partial_problem(index)


def _ttl_problem(index: Index, kinds: list[Any]) -> str | None:
    if index.ttl is None:
        return None
    if len(kinds) > 1 or kinds[0] not in (1, -1):
        return "a TTL index has exactly one field, ascending or descending, that holds a date"
    if not 0 <= index.ttl <= TTL_OFF:
        return f"ttl={index.ttl}: seconds from 0 to {TTL_OFF}"
    return None


def _partial_problem(index: Index) -> str | None:
    if index.partial is None:
        return None
    if index.sparse:
        return "sparse and partial exclude each other; partial={'field': {'$exists': True}} says both"
    refused = _refused_operator(index.partial)
    return f"MongoDB has no {refused} in a partial index" if refused else None


def _refused_operator(part: Any) -> str | None:
    if isinstance(part, Mapping):
        for key, inner in part.items():
            if key in _PARTIAL_REFUSED:
                return str(key)
            if key == "$exists" and not inner:
                return "{'$exists': False}"
            found = _refused_operator(inner)
            if found:
                return found
    elif isinstance(part, (list, tuple)):
        for inner in part:
            found = _refused_operator(inner)
            if found:
                return found
    return None
