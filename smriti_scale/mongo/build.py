"""One `createIndexes`: watched while it runs, and known to be done on every node."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pymongo.errors import OperationFailure, PyMongoError

from smriti_scale.clock import SYSTEM_CLOCK
from smriti_scale.errors import IndexBuildFailed
from smriti_scale.mongo.catalog import lacking_nodes, node_is_away
from smriti_scale.mongo.drivers import rows

if TYPE_CHECKING:
    from smriti_scale.mongo.drivers import Database

_WATCH_EVERY = 0.5
_EVERYWHERE_TIMEOUT = 600.0


async def build(
    db: Database,
    collection: str,
    specs: Sequence[dict[str, Any]],
    *,
    progress: Callable[[float | None, str], None],
) -> None:
    """Build the indexes in one scan. A build of the same index that is already under way is joined.

    MongoDB ends a build when every voting node is ready. With a node away that would be never, so then a majority
    suffices; the node builds when it is back.

    Raises:
        OperationFailure: the server refused.
    """
    watcher = asyncio.create_task(_watch(db, collection, progress), name="smriti-scale-index-progress")
    command: dict[str, Any] = {"createIndexes": collection, "indexes": list(specs)}
    if await node_is_away(db):
        command["commitQuorum"] = "majority"
        progress(None, "a node is away: a majority ends the build")
    try:
        await db.command(command)
    finally:
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watcher


async def _watch(db: Database, collection: str, progress: Callable[[float | None, str], None]) -> None:
    pipeline: list[dict[str, Any]] = [
        {"$currentOp": {"allUsers": True}},
        {"$match": {"ns": f"{db.name}.{collection}", "command.createIndexes": collection, "msg": {"$exists": True}}},
    ]
    while True:
        await SYSTEM_CLOCK.sleep(_WATCH_EVERY)
        try:
            operations = await rows(db.client.admin.aggregate(pipeline))
        except OperationFailure:  # the role lacks inprog: build without a percentage
            return
        except PyMongoError:  # a failover: the build goes on, so does the watch
            continue
        for operation in operations:
            done = operation.get("progress") or {}
            fraction = done["done"] / done["total"] if done.get("total") else None
            # "Index Build: scanning collection Index Build: scanning collection: 88998/400000 22%"
            phase = str(operation["msg"]).removeprefix("Index Build: ").split(" Index Build:")[0]
            progress(fraction, phase)


async def wait_until_built_everywhere(db: Database, collection: str, names: Sequence[str]) -> None:
    """Return when every node that answers has the indexes ready: only then may the old ones be hidden.

    A secondary finishes a build after the primary; hiding the old index there first would leave its reads to scan.

    Raises:
        IndexBuildFailed: a node still lacks one after ten minutes.
    """
    deadline = SYSTEM_CLOCK.monotonic() + _EVERYWHERE_TIMEOUT
    while True:
        lacking = await lacking_nodes(db, collection, names)
        if not lacking:
            return
        if SYSTEM_CLOCK.monotonic() > deadline:
            raise IndexBuildFailed(
                f"{collection}: {', '.join(lacking)} did not finish the new index within 10 minutes. The old one "
                "stays visible; apply again when that node has caught up",
                code=None,
            )
        await SYSTEM_CLOCK.sleep(_WATCH_EVERY)
