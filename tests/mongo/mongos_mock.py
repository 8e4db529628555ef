"""A `mongos` on the wire, for tests: no wheel carries one.

`mockupdb` answers as a router of MongoDB 6.0 would (`isdbgrid`, wire version 17) and remembers what it was told. It
proves that the right commands are sent in the right order to the right database; not that a cluster would like them.
"""

from __future__ import annotations

from typing import Any, Self

from bson import Int64
from mockupdb import MockupDB


class MongosMock:
    """Answers on `server` while entered as a context manager; the server itself takes a second to stop, so share it.

    Attributes:
        told: the commands that change something: `(database, command)`.
        sharded: shard key by namespace, as `config.collections` has it.
        zones: names by shard.
        ranges: documents of `config.tags`.
        documents: count by collection.
        indexes: by collection, as `listIndexes` gives them.
        fail: error code and text by command name, given once.
    """

    def __init__(self, server: MockupDB, *, wire_version: int = 17) -> None:
        self._server = server
        self._greeting = {
            "msg": "isdbgrid",
            "maxWireVersion": wire_version,
            "minWireVersion": 0,
            "isWritablePrimary": True,
        }
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.sharded: dict[str, dict[str, Any]] = {}
        self.zones: dict[str, list[str]] = {"shard0": [], "shard1": []}
        self.ranges: list[dict[str, Any]] = []
        self.documents: dict[str, int] = {}
        self.indexes: dict[str, list[dict[str, Any]]] = {}
        self.analysis: dict[str, Any] | None = None
        self.fail: dict[str, tuple[int, str]] = {}

    def __enter__(self) -> Self:
        self._responder = self._server.autoresponds(self._answer)
        return self

    def __exit__(self, *error: object) -> None:
        self._responder.cancel()

    @property
    def uri(self) -> str:
        return f"{self._server.uri}"

    def _answer(self, request: Any) -> bool:
        command = dict(request.doc)
        name = next(iter(command))
        database = command.pop("$db", "admin")
        for envelope in ("lsid", "$clusterTime", "$readPreference", "txnNumber"):
            command.pop(envelope, None)
        if name in self.fail:
            code, text = self.fail.pop(name)
            return bool(request.command_err(code, text))
        answer = getattr(self, f"_{name}", None)
        if answer is not None:
            try:
                return bool(request.ok(**answer(database, command)))
            except Exception as error:  # noqa: BLE001 - a fault of the mock must fail its test, not hang it
                return bool(request.command_err(8, f"the mock broke: {error!r}"))
        if name in ("hello", "ismaster", "isMaster"):
            return bool(request.ok(**self._greeting))
        return bool(request.ok())

    def _find(self, database: str, command: dict[str, Any]) -> dict[str, Any]:
        found: list[dict[str, Any]] = []
        if database == "config":
            found = {
                "collections": [{"_id": namespace, "key": key} for namespace, key in self.sharded.items()],
                "tags": self.ranges,
                "shards": [{"_id": shard, "tags": tags} for shard, tags in self.zones.items()],
                "databases": [{"_id": "shop", "partitioned": True}] if self.sharded else [],
            }[command["find"]]
        return _cursor(f"{database}.{command['find']}", found)

    def _listCollections(self, database: str, command: dict[str, Any]) -> dict[str, Any]:  # noqa: N802 - the command
        there = [{"name": name, "type": "collection", "options": {}} for name in self.documents]
        return _cursor(f"{database}.$cmd.listCollections", there)

    def _listIndexes(self, database: str, command: dict[str, Any]) -> dict[str, Any]:  # noqa: N802 - the command
        collection = command["listIndexes"]
        listed = [{"v": 2, "key": {"_id": 1}, "name": "_id_"}, *self.indexes.get(collection, [])]
        return _cursor(f"{database}.{collection}", listed)

    def _aggregate(self, database: str, command: dict[str, Any]) -> dict[str, Any]:
        collection = command["aggregate"]
        stage = next(iter(command["pipeline"][0]))
        found: list[dict[str, Any]] = []
        if stage == "$collStats":  # one a shard
            half = self.documents[collection] // 2
            found = [{"storageStats": {"count": count, "size": count * 100}} for count in (half, half)]
        elif stage == "$sample":
            found = [{"_id": n, "k0": n % 50} for n in sorted(range(200), key=lambda n: n % 50)]
        return _cursor(f"{database}.{collection}", found)

    def _analyzeShardKey(self, database: str, command: dict[str, Any]) -> dict[str, Any]:  # noqa: N802 - the command
        return {"keyCharacteristics": self.analysis or {}}

    def _shardCollection(self, database: str, command: dict[str, Any]) -> dict[str, Any]:  # noqa: N802 - the command
        self.told.append((database, command))
        self.sharded[command["shardCollection"]] = command["key"]
        return {"collectionsharded": command["shardCollection"]}

    def _reshardCollection(self, database: str, command: dict[str, Any]) -> dict[str, Any]:  # noqa: N802 - the command
        self.told.append((database, command))
        self.sharded[command["reshardCollection"]] = command["key"]
        return {}

    def _refineCollectionShardKey(self, database: str, command: dict[str, Any]) -> dict[str, Any]:  # noqa: N802 - the command
        self.told.append((database, command))
        self.sharded[command["refineCollectionShardKey"]] = command["key"]
        return {}

    def _enableSharding(self, database: str, command: dict[str, Any]) -> dict[str, Any]:  # noqa: N802 - the command
        self.told.append((database, command))
        return {}

    def _createIndexes(self, database: str, command: dict[str, Any]) -> dict[str, Any]:  # noqa: N802 - the command
        self.told.append((database, command))
        self.indexes.setdefault(command["createIndexes"], []).extend(command["indexes"])
        return {}

    def _addShardToZone(self, database: str, command: dict[str, Any]) -> dict[str, Any]:  # noqa: N802 - the command
        self.told.append((database, command))
        self.zones[command["addShardToZone"]].append(command["zone"])
        return {}

    def _updateZoneKeyRange(self, database: str, command: dict[str, Any]) -> dict[str, Any]:  # noqa: N802 - the command
        self.told.append((database, command))
        self.ranges.append(
            {
                "ns": command["updateZoneKeyRange"],
                "tag": command["zone"],
                "min": command["min"],
                "max": command["max"],
            }
        )
        return {}


def _cursor(namespace: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    return {"cursor": {"id": Int64(0), "ns": namespace, "firstBatch": found}}
