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


@dataclass(frozen=True, slots=True)
class CacheHit(Event):
    """A call was answered from Redis, or with a stale value.

    A hit in memory emits nothing, since the event would cost more than the hit: `CacheStats` counts those.
    """

    cache: str
    function: str
    """The function's qualified name, or `get` and the like for direct use."""
    source: str
    """`redis` or `stale`."""


@dataclass(frozen=True, slots=True)
class CacheMiss(Event):
    """A call had to wait for a factory, its own or another caller's."""

    cache: str
    function: str


@dataclass(frozen=True, slots=True)
class CacheLoaded(Event):
    """A factory finished."""

    cache: str
    function: str
    seconds: float
    error: str = ""
    """The exception's class name, if it raised."""


@dataclass(frozen=True, slots=True)
class CacheInvalidated(Event):
    """This process invalidated entries."""

    cache: str
    keys: int
    tags: int
    everything: bool
    delivered: bool
    """False: Redis did not take it; it will be told when it is back."""


@dataclass(frozen=True, slots=True)
class CacheRejected(Event):
    """A value in Redis could not be used and was deleted."""

    cache: str
    function: str
    reason: str
    """`foreign` (corrupted, or not ours), `type` (of another or a changed type) or `decode`."""


@dataclass(frozen=True, slots=True)
class CacheChannelChanged(Event):
    """The invalidation channel went `live` or was `lost`."""

    cache: str
    state: str

# --- pagination

# --- mongo

# --- ratelimit

# --- compression

# --- monitoring

# --- tasks and storage
