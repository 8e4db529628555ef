"""A shard key: declared beside the indexes, and what it means for indexes and queries. Pure.

`shard_review.py` measures one on real data; `shard_plan.py` finds and runs the commands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from smriti_scale.errors import ConfigurationError
from smriti_scale.mongo import canonical
from smriti_scale.mongo.index import Index
from smriti_scale.mongo.queries import Query

ShardField: TypeAlias = str | tuple[str, Literal[1, "hashed"]]
Reach: TypeAlias = Literal["one shard", "some shards", "all shards"]


@dataclass(frozen=True, slots=True)
class Zone:
    """A range of the shard key that lives on certain shards (https://www.mongodb.com/docs/manual/core/zone-sharding/).

    Args:
        name: the zone's.
        shards: names of the shards it may live on.
        min: the first key, by field; `bson.MinKey()` for no bound.
        max: the first key after it, by field; `bson.MaxKey()` for no bound.
    """

    name: str
    shards: tuple[str, ...]
    min: Mapping[str, Any]
    max: Mapping[str, Any]


@dataclass(frozen=True, slots=True, init=False, repr=False)
class ShardKey:
    """How a collection is to be spread over shards: `ShardKey("user_id", hashed=True)`, in the list of its indexes.

    Args:
        fields: `"user_id"`, or `("user_id", "hashed")` in a compound key; at most one is hashed.
        hashed: of a single field: spread by its hash.
        unique: the whole key is unique; not for hashed keys.
        zones: ranges bound to shards.

    Raises:
        ConfigurationError: MongoDB would refuse this key.
    """

    keys: tuple[tuple[str, Literal[1, "hashed"]], ...]
    unique: bool
    zones: tuple[Zone, ...]

    def __init__(
        self, *fields: ShardField, hashed: bool = False, unique: bool = False, zones: Sequence[Zone] = ()
    ) -> None:
        if hashed and (len(fields) != 1 or not isinstance(fields[0], str)):
            raise ConfigurationError('hashed=True is for one field; in a compound key write ("user_id", "hashed")')
        keys = tuple(_key(field, hashed=hashed) for field in fields)
        if not keys or len({path for path, _ in keys}) < len(keys):
            raise ConfigurationError(f"a shard key needs one field or more, each once: {fields!r}")
        if sum(kind == "hashed" for _, kind in keys) > 1:
            raise ConfigurationError(f"only one field of a shard key can be hashed: {fields!r}")
        if unique and any(kind == "hashed" for _, kind in keys):
            raise ConfigurationError(f"a hashed shard key cannot be unique: {fields!r}")
        for zone in zones:
            for bound in (zone.min, zone.max):
                if [*bound] != [path for path, _ in keys[: len(bound)]] or not bound:
                    raise ConfigurationError(f"zone {zone.name!r}: {dict(bound)!r} must name the shard key's fields")
        object.__setattr__(self, "keys", keys)
        object.__setattr__(self, "unique", unique)
        object.__setattr__(self, "zones", tuple(zones))

    def __repr__(self) -> str:
        if len(self.keys) == 1 and self.keys[0][1] == "hashed":
            parts = [repr(self.keys[0][0]), "hashed=True"]
        else:
            parts = [repr(path) if kind == 1 else repr((path, kind)) for path, kind in self.keys]
        if self.unique:
            parts.append("unique=True")
        if self.zones:
            parts.append(f"zones={list(self.zones)!r}")
        return f"ShardKey({', '.join(parts)})"

    @property
    def fields(self) -> tuple[str, ...]:
        """The paths, in order."""
        return tuple(path for path, _ in self.keys)

    @property
    def is_hashed(self) -> bool:
        return any(kind == "hashed" for _, kind in self.keys)

    def to_server(self) -> dict[str, Any]:
        """The key as `shardCollection` takes it."""
        return dict(self.keys)

    def index(self) -> Index:
        """The smallest index that supports the key."""
        return Index(*self.keys, unique=self.unique)

    def supported_by(self, index: Index) -> bool:
        """Whether the index begins with the shard key and holds every document, as `shardCollection` demands."""
        return (
            index.keys[: len(self.keys)] == self.keys
            and index.partial is None
            and not index.sparse
            and canonical.collation(index.collation) is None
        )

    def allows_unique(self, index: Index) -> bool:
        """Whether an index may be unique on the sharded collection: its fields must begin with the whole key.

        Each shard can only see to its own documents, so equal values must live on one shard.
        """
        return not self.is_hashed and index.fields[: len(self.keys)] == self.fields

    def reach(self, query: Query) -> Reach:
        """How many shards a query goes to."""
        fixed = 0
        while fixed < len(self.keys) and self.fields[fixed] in query.equality:
            fixed += 1
        if fixed == len(self.keys):
            return "one shard"
        if fixed and any(kind == "hashed" for _, kind in self.keys[:fixed]):
            return "some shards"
        path, kind = self.keys[0]
        ranged = kind != "hashed" and path in query.range
        return "some shards" if (fixed and self.keys[0][1] != "hashed") or ranged else "all shards"


def _key(field: ShardField, *, hashed: bool) -> tuple[str, Literal[1, "hashed"]]:
    path, kind = (field, "hashed" if hashed else 1) if isinstance(field, str) else field
    if kind not in (1, "hashed") or isinstance(kind, bool):
        raise ConfigurationError(f"{kind!r} is no kind of shard key field: use 1 or 'hashed' for {path!r}")
    if not path or any(not part or part.startswith("$") for part in path.split(".")):
        raise ConfigurationError(f"{path!r} is no field path")
    return (path, kind)  # type: ignore[return-value]
