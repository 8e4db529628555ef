"""A client span for each MongoDB command of a traced request: collection and command, no values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.trace import SpanKind
from pymongo import monitoring

from smriti_scale.monitoring.otel.spans import record

if TYPE_CHECKING:
    from smriti_scale.monitoring.otel.telemetry import Telemetry


class CommandSpans(monitoring.CommandListener):
    """The driver calls it synchronously, Motor from its threads, both in the context of the request."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._collections: dict[int, str] = {}

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Only here the driver tells the collection."""
        if self._telemetry.tracer is None or not trace.get_current_span().is_recording():
            return
        name = event.command_name
        self._collections[event.request_id] = _collection(event.command, name)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """The command's span, from its end."""
        self._ended(event, "")

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """The same, with the error's name; its text may hold values."""
        failure: Any = event.failure
        self._ended(event, str(failure.get("codeName") or failure.get("errtype") or "error"))

    def _ended(self, event: Any, error: str) -> None:
        collection = self._collections.pop(event.request_id, None)
        if collection is None:
            return
        address, name = event.connection_id, event.command_name
        attributes: dict[str, str | int] = {
            "db.system.name": "mongodb",
            "db.namespace": event.database_name,
            "db.operation.name": name,
            "server.address": address[0],
        }
        if address[1]:
            attributes["server.port"] = address[1]
        if collection:
            attributes["db.collection.name"] = collection
        record(
            self._telemetry.tracer,
            f"{name} {collection}".rstrip(),
            event.duration_micros / 1e6,
            kind=SpanKind.CLIENT,
            attributes=attributes,
            error=error,
        )


def _collection(command: Any, name: str) -> str:
    found = command.get("collection") if name == "getMore" else command.get(name)
    return found if isinstance(found, str) else ""
