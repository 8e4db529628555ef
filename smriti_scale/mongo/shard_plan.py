"""The commands that shard collections as declared: printed as one would type them, run on a `mongos` only."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bson import MaxKey, MinKey, ObjectId
from pymongo.errors import OperationFailure

from smriti_scale.errors import IndexBuildFailed, IndexPlanRefused, NotMongos
from smriti_scale.mongo import canonical
from smriti_scale.mongo.catalog import CollectionState, read_catalog
from smriti_scale.mongo.drivers import rows
from smriti_scale.mongo.index import Index
from smriti_scale.mongo.sharding import ShardKey

if TYPE_CHECKING:
    from smriti_scale.mongo.drivers import Database

_RESHARD_WIRE_VERSION = 13  # MongoDB 5.0


@dataclass(frozen=True, slots=True)
class ShardCommand:
    """One command, the database it is run on, why, and why it may not run."""

    database: str
    command: Mapping[str, Any]
    reason: str
    refused: str | None = None

    def __str__(self) -> str:
        where = (
            "db.adminCommand"
            if self.database == "admin"
            else f"db.getSiblingDB({json.dumps(self.database)}).runCommand"
        )
        return f"{where}({shell(self.command)})"


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """The commands between a cluster and the declared shard keys. `print(plan)` shows them for `mongosh`."""

    commands: tuple[ShardCommand, ...]
    on_mongos: bool
    notes: tuple[str, ...] = ()
    db: Database | None = field(default=None, repr=False, compare=False)

    @property
    def is_empty(self) -> bool:
        return not self.commands

    def to_dict(self) -> dict[str, Any]:
        """For `--json`; the commands as text for `mongosh`."""
        return {
            "in_sync": self.is_empty,
            "on_mongos": self.on_mongos,
            "notes": list(self.notes),
            "commands": [{"command": str(one), "reason": one.reason, "refused": one.refused} for one in self.commands],
        }

    def __str__(self) -> str:
        lines = [f"// {note}" for note in self.notes]
        for command in self.commands:
            lines += [f"// {command.reason}", *([f"// REFUSED: {command.refused}"] if command.refused else [])]
            lines.append(str(command) if not command.refused else f"// {command}")
        return "\n".join(lines or ["// In sync: nothing to do."])

    async def apply(self, *, progress: Callable[[ShardCommand, int, int], None] | None = None) -> int:
        """Run the commands in order; returns how many. Each is safe to run again.

        Args:
            progress: called before each with the command, its place from 1, and how many there are.

        Raises:
            NotMongos: the server is not a `mongos`.
            IndexPlanRefused: a command may not run; nothing was done.
            IndexBuildFailed: the server refused.
        """
        if self.db is None or not self.on_mongos:
            raise NotMongos(
                "shard commands run on a mongos, and this server is none: connect to a mongos of the sharded cluster "
                "(or give the printed commands to who runs it). A replica set is sharded by adding it as a shard"
            )
        refused = [command for command in self.commands if command.refused]
        if refused:
            raise IndexPlanRefused(
                "nothing was changed:\n" + "\n".join(f"  {command}: {command.refused}" for command in refused)
            )
        for place, command in enumerate(self.commands, 1):
            if progress:
                progress(command, place, len(self.commands))
            try:
                await self.db.client[command.database].command(dict(command.command))
            except OperationFailure as error:
                told = (error.details or {}).get("errmsg", str(error))
                raise IndexBuildFailed(
                    f"{command}: MongoDB says {told!r} (code {error.code})", code=error.code
                ) from error
        return len(self.commands)


async def make_shard_plan(db: Database, shard_keys: Mapping[str, ShardKey]) -> ShardPlan:
    """Compare a cluster with the declared shard keys; change nothing."""
    hello = await db.client.admin.command("hello")
    on_mongos = hello.get("msg") == "isdbgrid"
    notes = [] if on_mongos else ["not connected to a mongos: the commands are those for collections not yet sharded"]
    states = await read_catalog(db, shard_keys)
    sharded: dict[str, Mapping[str, Any]] = {}
    tags: list[dict[str, Any]] = []
    shards: list[dict[str, Any]] = []
    partitioned = False
    if on_mongos:
        config = db.client.config
        listed = await rows(config.collections.find({"_id": {"$in": [f"{db.name}.{name}" for name in shard_keys]}}))
        sharded = {found["_id"]: found["key"] for found in listed if found.get("key") and not found.get("dropped")}
        tags = await rows(config.tags.find({"ns": {"$in": [f"{db.name}.{name}" for name in shard_keys]}}))
        shards = await rows(config.shards.find({}))
        partitioned = any(found.get("partitioned") for found in await rows(config.databases.find({"_id": db.name})))
    commands: list[ShardCommand] = []
    for name, key in shard_keys.items():
        namespace = f"{db.name}.{name}"
        current = sharded.get(namespace)
        if current is None and not partitioned:
            reason = "servers before 6.0 ask for it, later ones do not mind"
            commands.append(ShardCommand("admin", {"enableSharding": db.name}, reason))
            partitioned = True
        commands.extend(key_commands(db.name, states[name], key, current, wire_version=hello["maxWireVersion"]))
        commands.extend(zone_commands(namespace, key, tags=tags, shards=shards))
    return ShardPlan(tuple(commands), on_mongos, tuple(notes), db)


def key_commands(
    database: str,
    state: CollectionState,
    key: ShardKey,
    current: Mapping[str, Any] | None,
    *,
    wire_version: int,
) -> list[ShardCommand]:
    """What brings one collection to its key. Pure."""
    namespace = f"{database}.{state.name}"
    wanted = list(key.keys)
    now = [(path, canonical.direction(kind)) for path, kind in (current or {}).items()]
    if now == wanted:
        return []
    commands = []
    refused = _conflict(key, [existing.index for existing in state.indexes], state)
    if state.documents and not any(key.supported_by(existing.index) for existing in state.indexes):
        create = {"createIndexes": state.name, "indexes": [key.index().to_server()]}
        commands.append(ShardCommand(database, create, "a collection with documents needs the supporting index first"))
    if current is None:
        command: dict[str, Any] = {"shardCollection": namespace, "key": key.to_server()}
        if key.unique:
            command["unique"] = True
        commands.append(ShardCommand("admin", command, f"shard {state.name} as declared", refused))
    elif wanted[: len(now)] == now:
        command = {"refineCollectionShardKey": namespace, "key": key.to_server()}
        commands.append(ShardCommand("admin", command, "the declared key goes on from the present one", refused))
    else:
        if wire_version < _RESHARD_WIRE_VERSION:
            refused = "resharding needs MongoDB 5.0 or newer"
        command = {"reshardCollection": namespace, "key": key.to_server()}
        reason = "another key: rewrites the collection; needs room for a second copy, and writes pause for up to 2 s"
        commands.append(ShardCommand("admin", command, reason, refused))
    return commands


def _conflict(key: ShardKey, indexes: Sequence[Index], state: CollectionState) -> str | None:
    if state.kind == "view":
        return f"{state.name!r} is a view"
    rivals = [index.name for index in indexes if index.unique and not key.allows_unique(index)]
    if rivals:
        return f"unique indexes that do not begin with the key: {', '.join(rivals)}; each shard sees only its own part"
    return None


def zone_commands(
    namespace: str, key: ShardKey, *, tags: Sequence[Mapping[str, Any]], shards: Sequence[Mapping[str, Any]]
) -> list[ShardCommand]:
    """What is missing of the declared zones. Pure. Zones that are not declared are left alone."""
    commands = []
    of_shard = {shard["_id"]: set(shard.get("tags") or ()) for shard in shards}
    ranges = {
        (tag["tag"], canonical.value(tag["min"]), canonical.value(tag["max"])) for tag in tags if tag["ns"] == namespace
    }
    for zone in key.zones:
        for shard in zone.shards:
            if zone.name not in of_shard.setdefault(shard, set()):
                of_shard[shard].add(zone.name)
                commands.append(
                    ShardCommand("admin", {"addShardToZone": shard, "zone": zone.name}, f"zone {zone.name}")
                )
        if (zone.name, canonical.value(zone.min), canonical.value(zone.max)) not in ranges:
            command = {
                "updateZoneKeyRange": namespace,
                "min": dict(zone.min),
                "max": dict(zone.max),
                "zone": zone.name,
            }
            commands.append(ShardCommand("admin", command, f"zone {zone.name}"))
    return commands


def shell(value: Any) -> str:
    """A value as one types it in `mongosh`."""
    match value:
        case Mapping():
            return "{ " + ", ".join(f"{_name(key)}: {shell(inner)}" for key, inner in value.items()) + " }"
        case list() | tuple():
            return f"[{', '.join(map(shell, value))}]"
        case MinKey():
            return "MinKey()"
        case MaxKey():
            return "MaxKey()"
        case ObjectId():
            return f'ObjectId("{value}")'
        case datetime.datetime():
            return f'ISODate("{value.isoformat()}")'
        case _:
            return json.dumps(value, default=str)


def _name(key: str) -> str:
    return key if key.isidentifier() else json.dumps(key)
