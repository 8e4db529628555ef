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
    """Hands events to listeners. False when nobody listens, so that emitting can be skipped: `if events: …`.

    Attributes:
        listeners: who is told, in this order.
    """

    __slots__ = ("listeners",)

    def __init__(self, *listeners: Listener) -> None:
        self.listeners: tuple[Listener, ...] = listeners

    def __bool__(self) -> bool:
        return bool(self.listeners)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Add a listener; call what is returned to remove it again."""
        self.listeners = (*self.listeners, listener)

        def unsubscribe() -> None:
            self.listeners = tuple(kept for kept in self.listeners if kept is not listener)

        return unsubscribe

    def emit(self, event: Event) -> None:
        """Give the event to every listener. One that raises is logged and harms neither caller nor the others."""
        for listener in self.listeners:
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


@dataclass(frozen=True, slots=True)
class GuardedCall(Event):
    """A call to Redis under a circuit breaker was answered, failed or came too late, after `seconds`."""

    breaker: str
    seconds: float
    error: str = ""
    """The exception's class name, if it failed."""


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


# --- HTTP cache


@dataclass(frozen=True, slots=True)
class HTTPCacheAnswered(Event):
    """A cacheable route was asked. `outcome`: `hit`, `stale`, `miss` or `bypass` (this request may not be shared)."""

    outcome: str
    route: str


@dataclass(frozen=True, slots=True)
class CDNPurged(Event):
    """A CDN was told to forget so many keys."""

    cdn: str
    keys: int


@dataclass(frozen=True, slots=True)
class CDNPurgeFailed(Event):
    """A CDN could not be told, after all attempts: it serves old answers until they expire."""

    cdn: str
    keys: int
    reason: str


# --- pagination


@dataclass(frozen=True, slots=True)
class CursorRejected(Event):
    """A page cursor was refused: `malformed`, `version`, `signature`, `sort`, `filter`, `scope` or `expired`."""

    reason: str


# --- mongo


@dataclass(frozen=True, slots=True)
class IndexStepDone(Event):
    """A step of an index plan ran: `kind` as in the plan (`create`, `set_ttl`, …), and its duration in seconds."""

    kind: str
    collection: str
    index: str
    seconds: float


@dataclass(frozen=True, slots=True)
class SlowQuery(Event):
    """A MongoDB command took long. `shape` has no values; `wants` is the `Index(...)` line that would serve it."""

    database: str
    collection: str
    shape: str
    milliseconds: float
    returned: int | None
    wants: str


@dataclass(frozen=True, slots=True)
class RepeatedQuery(Event):
    """One request sent the same shape of read many times (N+1)."""

    database: str
    collection: str
    shape: str
    count: int


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


@dataclass(frozen=True, slots=True)
class LimitAllowed(Event):
    """A request passed a limit. `limit` is its text (`5 per 1 minute`), `route` a template or shared scope."""

    limit: str
    route: str
    tier: str = ""


@dataclass(frozen=True, slots=True)
class LimitExceeded(Event):
    """A request was refused; `reason` is `limit`, `banned`, `denied` or `unavailable` (Redis down, fail closed)."""

    limit: str
    route: str
    reason: str = "limit"
    tier: str = ""


@dataclass(frozen=True, slots=True)
class LimitShadowExceeded(Event):
    """A limit in shadow mode would have refused the request."""

    limit: str
    route: str
    tier: str = ""


@dataclass(frozen=True, slots=True)
class LimitFellBack(Event):
    """Redis could not be asked; `policy` says what was done instead: `memory`, `deny` or `allow`."""

    limit: str
    route: str
    policy: str


# --- compression


@dataclass(frozen=True, slots=True)
class ResponseCompressed(Event):
    """A whole body was coded (streams are not counted): its coding, and its bytes before and after."""

    encoding: str
    bytes_before: int
    bytes_after: int


# --- monitoring

# --- tasks and storage


@dataclass(frozen=True, slots=True)
class TaskPublished(Event):
    """A task was handed to the broker, `seconds` after it was asked for."""

    task: str
    seconds: float


@dataclass(frozen=True, slots=True)
class TaskPublishFailed(Event):
    """The broker did not take a task."""

    task: str
    error: str


@dataclass(frozen=True, slots=True)
class TaskFinished(Event):
    """A worker is done with one delivery of a task.

    `outcome` is `succeeded`, `failed` (now a dead letter), `retried` or `requeued` (its process died).
    `waited` is the time from publishing to the start, `ran` from there to the end, both in seconds.
    """

    task: str
    queue: str
    outcome: str
    waited: float
    ran: float
    retries: int


@dataclass(frozen=True, slots=True)
class TaskDead(Event):
    """A task will not be tried again: its message is among the dead letters.

    `reason` is `failed`, `timed_out`, `lost` (its worker died too often), `unknown` (no such task here) or
    `unreadable` (the message cannot be decoded).
    """

    task: str
    queue: str
    reason: str


@dataclass(frozen=True, slots=True)
class QueueMeasured(Event):
    """One look at a queue: `depth` tasks wait, the oldest for `age` seconds."""

    queue: str
    depth: int
    age: float


@dataclass(frozen=True, slots=True)
class TasksMeasured(Event):
    """One look at the broker: tasks in workers' hands, and dead letters."""

    running: int
    dead: int


@dataclass(frozen=True, slots=True)
class OutboxMeasured(Event):
    """One look at the outbox: `pending` tasks wait to be handed to the broker, the oldest for `age` seconds."""

    pending: int
    age: float


@dataclass(frozen=True, slots=True)
class ObjectStored(Event):
    """A file was stored: `size` bytes in `seconds`."""

    store: str
    size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class StorageFailed(Event):
    """A storage operation failed after its retries."""

    store: str
    operation: str
    error: str
