"""MongoDB commands by collection and name: a listener for either driver.

The driver calls it synchronously with each command, Motor from its threads: it looks up, counts and returns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from smriti_scale.monitoring.metrics import Metrics

UNCOUNTED = frozenset({"hello", "ismaster", "isMaster", "ping", "endSessions"})
"""What no application asks for: they are quick and many, and would make every average look good."""

MOST_RUNNING = 10_000
"""Commands that are remembered until they end. Older PyMongo Async does not tell of a cancelled one's end."""

_WRITE_ERRORS = {11000: "DuplicateKey", 11001: "DuplicateKey", 121: "DocumentValidationFailure"}


class MongoCommands(CommandListener):
    """Give it to the client: `event_listeners=[monitoring.command_listener]`.

    Args:
        metrics: where to count.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._durations = metrics.mongo_duration
        self._errors = metrics.mongo_errors
        self._running: dict[int, str] = {}

    def started(self, event: CommandStartedEvent) -> None:
        """Called by the driver."""
        name = event.command_name
        if name in UNCOUNTED:
            return
        collection = event.command.get("collection" if name == "getMore" else name)
        if len(self._running) >= MOST_RUNNING:
            self._running.clear()  # nearly all were cancelled; those that do run go uncounted
        self._running[event.request_id] = collection if type(collection) is str else ""

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """Called by the driver."""
        collection = self._running.pop(event.request_id, None)
        if collection is None:
            return
        name = event.command_name
        self._durations[collection, name].observe(event.duration_micros / 1e6)
        reply: Mapping[str, Any] = event.reply
        if "writeErrors" in reply:
            for code in {error.get("code") for error in reply["writeErrors"]}:
                self._errors[collection, name, _WRITE_ERRORS.get(code, f"WriteError {code}")].inc()
        if "writeConcernError" in reply:
            error = reply["writeConcernError"]
            self._errors[collection, name, str(error.get("codeName") or error.get("code"))].inc()

    def failed(self, event: CommandFailedEvent) -> None:
        """Called by the driver."""
        collection = self._running.pop(event.request_id, None)
        if collection is None:
            return
        name, failure = event.command_name, event.failure
        self._durations[collection, name].observe(event.duration_micros / 1e6)
        error = failure.get("codeName") or failure.get("errtype") or failure.get("code") or "unknown"
        self._errors[collection, name, str(error)].inc()
