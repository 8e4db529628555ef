"""Typed events that primitives emit, and how to listen.

One event states one fact. A primitive emits; monitoring, tests or an application listen; neither knows the other.
Events hold no personal data: rules, templates and names, never identities or values.

```python
events = Events()
stop = events.subscribe(lambda event: print(event))
cache = Cache(..., events=events)
```
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

_log = logging.getLogger("smriti_scale.events")


@dataclass(frozen=True, slots=True)
class Event:
    """The base of all events."""


Listener = Callable[[Event], None]
"""Called in the emitting task, synchronously: it must be quick and do no I/O."""


class Events:
    """Hands events to listeners. False when nobody listens, so that emitting can be skipped: `if events: …`."""

    __slots__ = ("_listeners",)

    def __init__(self, *listeners: Listener) -> None:
        self._listeners: tuple[Listener, ...] = listeners

    def __bool__(self) -> bool:
        return bool(self._listeners)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Add a listener; call what is returned to remove it again."""
        self._listeners = (*self._listeners, listener)

        def unsubscribe() -> None:
            self._listeners = tuple(kept for kept in self._listeners if kept is not listener)

        return unsubscribe

    def emit(self, event: Event) -> None:
        """Give the event to every listener. One that raises is logged and harms neither caller nor the others."""
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:  # noqa: BLE001 - a listener's fault must not become the request's
                _log.exception("an event listener failed", extra={"event": type(event).__name__})


# --- breaker


@dataclass(frozen=True, slots=True)
class BreakerChanged(Event):
    """A circuit breaker moved: `closed` (calls pass), `open` (refused) or `half_open` (one trial call passes)."""

    breaker: str
    state: str
    reason: str = ""


# --- cache

# --- pagination

# --- mongo


@dataclass(frozen=True, slots=True)
class IndexStepDone(Event):
    """A step of an index plan ran: `kind` as in the plan (`create`, `set_ttl`, …), and its duration in seconds."""

    kind: str
    collection: str
    index: str
    seconds: float


@dataclass(frozen=True, slots=True)
class PrimaryChanged(Event):
    """The driver saw another primary, or none (`current` is None), as `host:port`."""

    previous: str | None
    current: str | None


@dataclass(frozen=True, slots=True)
class ReadFellBackToPrimary(Event):
    """A read for a caller with a causal position went to the primary: no secondary was known to be that far."""


@dataclass(frozen=True, slots=True)
class CausalWait(Event):
    """A secondary was asked whether it has reached a position: how long that took, and whether it had."""

    milliseconds: float
    reached: bool


@dataclass(frozen=True, slots=True)
class CausalTokenIgnored(Event):
    """A consistency token was not used: `malformed`, `signature`, `expired`, `foreign`, `future` or `refused`."""

    reason: str


@dataclass(frozen=True, slots=True)
class PoolExhausted(Event):
    """A command found no free connection within `wait_queue_timeout`."""


# --- ratelimit

# --- compression


@dataclass(frozen=True, slots=True)
class ResponseCompressed(Event):
    """A whole body was coded (streams are not counted): its coding, and its bytes before and after."""

    encoding: str
    bytes_before: int
    bytes_after: int


# --- monitoring

# --- tasks and storage
