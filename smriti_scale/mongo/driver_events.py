"""What the driver tells by its listeners: who is primary, and which nodes are gone."""

from __future__ import annotations

from collections.abc import Callable

from pymongo import monitoring
from pymongo.server_type import SERVER_TYPE

from smriti_scale.events import Event, PrimaryChanged
from smriti_scale.mongo.replicas import Address, Replicas

Emit = Callable[[Event], None]


def shown(address: Address | None) -> str | None:
    """`host:port`, as events and figures give it."""
    return None if address is None else f"{address[0]}:{address[1]}"


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
