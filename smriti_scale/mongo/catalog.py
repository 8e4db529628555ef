"""What a database has: each collection's kind, size and indexes, and how much every node uses them."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pymongo.errors import OperationFailure, PyMongoError
from pymongo.read_preferences import Nearest, Primary

from smriti_scale.clock import SYSTEM_CLOCK
from smriti_scale.mongo.drivers import rows
from smriti_scale.mongo.index import Index

if TYPE_CHECKING:
    from smriti_scale.mongo.drivers import Database

BOOKKEEPING = "smriti_scale_indexes"
"""The collection that holds the builder's lease and what was built, replaced and hidden."""

_NODE_TIMEOUT = 5.0
_AT_ONCE = 8
_STATS_ATTEMPTS = 20
_STATS_PAUSE = 0.1
INDEX_NOT_FOUND = 27
_UNAUTHORIZED = 13

Kind = Literal["collection", "timeseries", "view", "absent"]


@dataclass(frozen=True, slots=True)
class NodeUsage:
    """How often one node has used an index since its counter began (its start, or the index's build or unhiding)."""

    node: str
    operations: int
    since: datetime.datetime


@dataclass(frozen=True, slots=True)
class ExistingIndex:
    """An index as the database has it.

    Attributes:
        size: bytes on disk; 0 where the server did not say.
        building: it is being built.
        prepared: `prepareUnique` is set: new duplicates are refused, old ones may remain.
        usage: per node; None when it was not asked for or a node did not answer.
    """

    index: Index
    size: int = 0
    building: bool = False
    prepared: bool = False
    usage: tuple[NodeUsage, ...] | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """What the bookkeeping knows of an index: that it was applied, and since when something else replaces it."""

    superseded_by: str | None = None
    hidden_at: datetime.datetime | None = None


@dataclass(frozen=True, slots=True)
class CollectionState:
    """One collection as the database has it.

    Attributes:
        documents: estimated from metadata.
        data_bytes: uncompressed size of the documents.
        collation: the collection's default, which indexes inherit.
        records: bookkeeping by index name.
    """

    name: str
    kind: Kind = "absent"
    documents: int = 0
    data_bytes: int = 0
    collation: Mapping[str, Any] | None = None
    indexes: tuple[ExistingIndex, ...] = ()
    records: Mapping[str, Record] | None = None

    def find(self, name: str) -> ExistingIndex | None:
        """The index of that name."""
        return next((existing for existing in self.indexes if existing.index.name == name), None)


async def read_catalog(
    db: Database, collections: Iterable[str], *, usage_of: Container[str] = ()
) -> dict[str, CollectionState]:
    """The state of each collection, from the primary.

    Args:
        usage_of: collections of which to know how often every node uses each index. This asks each node.
    """
    names = list(collections)
    db = db.with_options(read_preference=Primary())  # a lagging secondary would show the past
    listed = {found["name"]: found for found in await rows(db.list_collections(filter={"name": {"$in": names}}))}
    records = await _records(db)
    few = asyncio.Semaphore(_AT_ONCE)

    async def state_of(name: str) -> CollectionState:
        if name not in listed:
            return CollectionState(name, records={})
        options = listed[name].get("options", {})
        kind: Kind = listed[name].get("type", "collection")
        if kind == "view":
            return CollectionState(name, kind)
        async with few:
            sizes = await _sizes(db, name)
            usage = await usage_by_index(db, name) if name in usage_of else None
            indexes = await _indexes(db, name, sizes["indexes"], usage=usage)
        return CollectionState(
            name,
            kind,
            documents=sizes["documents"],
            data_bytes=sizes["data_bytes"],
            collation=options.get("collation"),
            indexes=indexes,
            records=records.get(name, {}),
        )

    return dict(zip(names, await asyncio.gather(*map(state_of, names)), strict=True))


async def _indexes(
    db: Database, collection: str, sizes: Mapping[str, int], *, usage: Mapping[str, tuple[NodeUsage, ...]] | None
) -> tuple[ExistingIndex, ...]:
    building: set[str] = set()
    with _allowed_to_fail():  # without indexStats a build under way looks finished
        building = {found["name"] for found in await index_stats(db, collection) if found.get("building")}
    found = []
    for listed in await rows(db[collection].list_indexes()):
        name = listed["name"]
        if name == "_id_" or listed.get("clustered"):
            continue
        found.append(
            ExistingIndex(
                Index.from_server(listed),
                size=sizes.get(name, 0),
                building=name in building,
                prepared=bool(listed.get("prepareUnique")),
                usage=None if usage is None else usage.get(name),
            )
        )
    return tuple(found)


async def _sizes(db: Database, collection: str) -> dict[str, Any]:
    pipeline: list[dict[str, Any]] = [{"$collStats": {"storageStats": {}}}]
    total: dict[str, Any] = {"documents": 0, "data_bytes": 0, "indexes": {}}
    answers: list[dict[str, Any]] = []
    with _allowed_to_fail():  # without collStats a plan has no sizes
        answers = await rows(db[collection].aggregate(pipeline))
    for answer in answers:  # one a shard
        stats = answer["storageStats"]
        total["documents"] += stats.get("count", 0)
        total["data_bytes"] += stats.get("size", 0)
        for name, size in stats.get("indexSizes", {}).items():
            total["indexes"][name] = total["indexes"].get(name, 0) + size
    return total


async def _records(db: Database) -> dict[str, dict[str, Record]]:
    found: dict[str, dict[str, Record]] = {}
    documents: list[dict[str, Any]] = []
    with _allowed_to_fail():  # without the bookkeeping it is unknown what was applied before
        documents = await rows(db[BOOKKEEPING].find({"collection": {"$type": "string"}}))
    for document in documents:
        hidden_at = document.get("hidden_at")
        found.setdefault(document["collection"], {})[document["index"]] = Record(
            superseded_by=document.get("superseded_by"), hidden_at=_utc(hidden_at) if hidden_at else None
        )
    return found


class _Node(Nearest):
    """Reads from one node, with the client's own credentials, TLS and pool.

    A read preference is what the driver calls to choose among servers, so one that lets a single address through
    needs no second client.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__()
        self._address = address

    def __call__(self, selection: Any) -> Any:
        return selection.with_server_descriptions(
            [server for server in selection.server_descriptions if server.address == self._address]
        )


async def index_stats(db: Database, collection: str) -> list[dict[str, Any]]:
    """`$indexStats` of one node. Asked while a build begins or ends, the server may stumble over it: then again."""
    for attempt in range(_STATS_ATTEMPTS):
        try:
            return await rows(db[collection].aggregate([{"$indexStats": {}}]))
        except OperationFailure as error:
            if error.code != INDEX_NOT_FOUND or attempt == _STATS_ATTEMPTS - 1:
                raise
            await SYSTEM_CLOCK.sleep(_STATS_PAUSE)
    raise AssertionError  # the last attempt returned or raised


async def usage_by_index(db: Database, collection: str) -> dict[str, tuple[NodeUsage, ...]] | None:
    """How often each node used each index, or None when one does not answer: its use is then unknown.

    Hidden members of a replica set are not announced to clients, so they are not asked.
    """
    found: dict[str, tuple[NodeUsage, ...]] = {}
    for answers in (await _stats_by_node(db, collection)).values():
        if answers is None:
            return None
        for answer in answers:
            accesses = answer["accesses"]
            usage = NodeUsage(answer["host"], int(accesses["ops"]), _utc(accesses["since"]))
            found[answer["name"]] = (*found.get(answer["name"], ()), usage)
    return found


async def lacking_nodes(db: Database, collection: str, names: Iterable[str]) -> list[str]:
    """The nodes that answer and have not all of these indexes ready. One that is down catches up when it is back."""
    wanted = set(names)
    lacking = []
    for (host, port), answers in (await _stats_by_node(db, collection)).items():
        ready = {answer["name"] for answer in answers or () if not answer.get("building")}
        if answers is not None and not wanted <= ready:
            lacking.append(f"{host}:{port}")
    return lacking


async def node_is_away(db: Database) -> bool:
    """Whether a node of a replica set is known to be down."""
    kinds = {server.server_type_name for server in (await _servers(db)).values()}
    return "RSPrimary" in kinds and "Unknown" in kinds


async def _servers(db: Database) -> Mapping[tuple[str, int], Any]:
    await db.client.admin.command("ping")  # a client that has not connected yet knows nobody
    topology: Any = db.client.topology_description  # Motor's stubs take the property for a method
    servers: Mapping[tuple[str, int], Any] = topology.server_descriptions()
    return servers


async def _stats_by_node(db: Database, collection: str) -> dict[tuple[str, int], list[dict[str, Any]] | None]:
    """`$indexStats` of every node that holds data; None for one that does not answer in time."""
    servers = await _servers(db)
    nodes: list[tuple[str, int]] = sorted(
        address for address, server in servers.items() if server.server_type_name != "RSArbiter"
    )

    async def ask(address: tuple[str, int]) -> list[dict[str, Any]] | None:
        there = db.with_options(read_preference=_Node(address))
        try:
            async with asyncio.timeout(_NODE_TIMEOUT):
                return await index_stats(there, collection)
        except (PyMongoError, TimeoutError):
            return None

    return dict(zip(nodes, await asyncio.gather(*map(ask, nodes)), strict=True))


@contextlib.contextmanager
def _allowed_to_fail() -> Iterator[None]:
    """A role that may not ask this can still plan, knowing less."""
    try:
        yield
    except OperationFailure as error:
        if error.code != _UNAUTHORIZED:
            raise


def _utc(moment: datetime.datetime) -> datetime.datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
