"""`Server-Timing` in answers: how long the app took, and how much of it in MongoDB and in cache loads.

For development and staging: browsers show it beside each request. It tells strangers how long things take, which is
enough to guess at what exists, so production leaves it off.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from pymongo import monitoring
from starlette.applications import Starlette
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smriti_scale.clock import SYSTEM_CLOCK, Clock
from smriti_scale.events import CacheHit, CacheLoaded, CacheMiss, Event, Events

if TYPE_CHECKING:
    from collections.abc import Callable


class _Spent:
    """What one request has spent so far; child tasks and the driver's threads share it."""

    __slots__ = ("commands", "database", "hits", "loading", "loads", "misses")

    def __init__(self) -> None:
        self.database = 0.0
        self.commands = 0
        self.loading = 0.0
        self.loads = self.hits = self.misses = 0


class ServerTiming:
    """Adds up times by request. Give its parts to whom they belong:

    ```python
    timing = ServerTiming(events=events)
    mongo = MongoClients(uri, database="shop", client_options={"event_listeners": [timing.command_listener]})
    timing.install(app)
    # Server-Timing: app;dur=12.4, db;dur=7.1;desc="3 commands", cache;dur=0.9;desc="2 hits, 1 miss"
    ```

    Times of work that ran at once are added, so `db` may exceed `app`. Hits in the cache's memory are not told apart
    from no question at all.

    Args:
        events: where the cache reports.
        clock: the source of time.
    """

    def __init__(self, *, events: Events | None = None, clock: Clock = SYSTEM_CLOCK) -> None:
        self.spent: ContextVar[_Spent | None] = ContextVar("smriti_scale.server_timing", default=None)
        self.clock = clock
        self.command_listener: monitoring.CommandListener = _Commands(self.spent)
        self._stop: Callable[[], None] | None = events.subscribe(self._heard) if events is not None else None

    def install(self, app: Starlette) -> None:
        """Let the app's answers tell; what is added later is not timed."""
        app.add_middleware(ServerTimingMiddleware, timing=self)

    def close(self) -> None:
        """Stop listening to events."""
        if self._stop is not None:
            self._stop()

    def _heard(self, event: Event) -> None:
        spent = self.spent.get()
        if spent is None:
            return
        if isinstance(event, CacheLoaded):
            spent.loads += 1
            spent.loading += event.seconds
        elif isinstance(event, CacheHit):
            spent.hits += 1
        elif isinstance(event, CacheMiss):
            spent.misses += 1


class ServerTimingMiddleware:
    """Times each request and tells it in the answer.

    Args:
        app: the app.
        timing: whose times.
    """

    def __init__(self, app: ASGIApp, *, timing: ServerTiming) -> None:
        self.app = app
        self._spent = timing.spent
        self._now = timing.clock.monotonic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        spent = _Spent()
        token = self._spent.set(spent)
        started = self._now()

        async def telling(message: Message) -> None:
            if message["type"] == "http.response.start":
                line = _line(self._now() - started, spent)
                message["headers"] = [*(message.get("headers") or ()), (b"server-timing", line.encode())]
            await send(message)

        try:
            await self.app(scope, receive, telling)
        finally:
            self._spent.reset(token)


class _Commands(monitoring.CommandListener):
    """Adds each command's time to its request; the driver calls it synchronously, Motor from its threads."""

    def __init__(self, spent: ContextVar[_Spent | None]) -> None:
        self._spent = spent

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        pass

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        self._add(event)

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        self._add(event)

    def _add(self, event: Any) -> None:
        spent = self._spent.get()
        if spent is not None:
            spent.commands += 1
            spent.database += event.duration_micros / 1_000_000


def _line(total: float, spent: _Spent) -> str:
    parts = [f"app;dur={total * 1000:.1f}"]
    if spent.commands:
        parts.append(f'db;dur={spent.database * 1000:.1f};desc="{_count(spent.commands, "command")}"')
    if spent.hits or spent.misses or spent.loads:
        counted = f"{_count(spent.hits, 'hit')}, {_count(spent.misses, 'miss', 'misses')}"
        parts.append(f'cache;dur={spent.loading * 1000:.1f};desc="{counted}"')
    return ", ".join(parts)


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
