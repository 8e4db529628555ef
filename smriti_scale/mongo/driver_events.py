"""What the driver tells by its listeners: how far each node has come, which commands wrote, who is primary.

The driver calls listeners synchronously, Motor's from its threads: they only compare and note.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pymongo import monitoring
from pymongo.server_type import SERVER_TYPE

from smriti_scale.events import Event, PrimaryChanged
from smriti_scale.mongo.causal_scope import CausalScope
from smriti_scale.mongo.causal_token import packed
from smriti_scale.mongo.replicas import Address, Replicas

Emit = Callable[[Event], None]

_WRITES = frozenset(
    {
        "insert",
        "update",
        "delete",
        "findAndModify",
        "bulkWrite",
        "commitTransaction",
        "create",
        "createIndexes",
        "collMod",
        "drop",
        "dropIndexes",
        "dropDatabase",
        "renameCollection",
    }
)


def shown(address: Address | None) -> str | None:
    """`host:port`, as events and figures give it."""
    return None if address is None else f"{address[0]}:{address[1]}"


class CommandWatch(monitoring.CommandListener):
    """Learns from each reply how far its node has come, and moves the caller's scope at each write."""

    def __init__(self, replicas: Replicas, scope: Callable[[], CausalScope]) -> None:
        self._replicas = replicas
        self._scope = scope
        self._writing_aggregates: set[int] = set()

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if event.command_name == "aggregate":
            pipeline = event.command.get("pipeline")
            if pipeline and ("$merge" in pipeline[-1] or "$out" in pipeline[-1]):
                self._writing_aggregates.add(event.request_id)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        reply: Any = event.reply
        moment = reply.get("operationTime")
        if moment is None:
            return
        self._replicas.saw(event.connection_id, packed(moment))
        name = event.command_name
        if name in _WRITES or (self._writing_aggregates and event.request_id in self._writing_aggregates):
            self._writing_aggregates.discard(event.request_id)
            self._scope().note_write(moment, reply.get("$clusterTime"))

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        self._writing_aggregates.discard(event.request_id)


class TopologyWatch(monitoring.TopologyListener):
    """Tells of a new primary, and of nodes that are gone. The driver delivers this about a second late."""

    def __init__(self, replicas: Replicas, emit: Emit) -> None:
        self._replicas = replicas
        self._emit = emit
        self._primary: Address | None = None

    def opened(self, event: monitoring.TopologyOpenedEvent) -> None:
        pass

    def description_changed(self, event: monitoring.TopologyDescriptionChangedEvent) -> None:
        primary: Address | None = None
        for address, node in event.new_description.server_descriptions().items():
            if node.server_type == SERVER_TYPE.RSPrimary:
                primary = address
            elif not node.is_server_type_known:
                self._replicas.lost(address)
        if primary != self._primary:
            previous, self._primary = self._primary, primary
            self._emit(PrimaryChanged(previous=shown(previous), current=shown(primary)))

    def closed(self, event: monitoring.TopologyClosedEvent) -> None:
        pass
