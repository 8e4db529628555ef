"""Counts and times what an app answers, by route template; plain ASGI, a few microseconds a request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smriti_scale.clock import SYSTEM_CLOCK, Clock
from smriti_scale.monitoring.labels import OTHER
from smriti_scale.monitoring.metrics import Metrics
from smriti_scale.routing import METHODS, resolve_route

CLIENT_GONE = 499
"""The client left before the answer began: nginx's number for it."""

_KNOWN_LIMIT = 20_000


class MonitoringMiddleware:
    """Measures HTTP requests and WebSockets. It belongs outside of all else: add it last.

    Args:
        app: the next ASGI app.
        metrics: where to count.
        ignore: route templates that are not counted, for instance probes.
        clock: the source of time.
    """

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, ignore: Collection[str] = (), clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self.app = app
        self._metrics = metrics
        self._ignored = frozenset(ignore)
        self._now = clock.monotonic
        self._known: dict[tuple[str, str, int], _Outcome] = {}
        self._begin = metrics.http_in_progress.inc
        self._end = metrics.http_in_progress.dec

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            exchange = _Exchange(self, scope, receive, send)
            self._begin()
            try:
                await self.app(scope, exchange.receive, exchange.send)
            except BaseException as error:
                exchange.broke(error)
                raise
            finally:
                exchange.end()
        elif kind == "websocket":
            conversation = _Conversation(self._metrics, self._now, scope, receive, send)
            try:
                await self.app(scope, conversation.receive, conversation.send)
            except BaseException as error:
                conversation.broke(error)
                raise
            finally:
                conversation.end()
        else:
            await self.app(scope, receive, send)

    def outcome(self, method: str, template: str, status: int) -> _Outcome | None:
        """Where to count a request; None when it is ignored."""
        known = self._known.get((method, template, status))
        if known is None:
            if template in self._ignored:
                return None
            known = _outcome_of(self._metrics, method, template, status)
            if len(self._known) < _KNOWN_LIMIT:  # templates come from code, but whose?
                self._known[method, template, status] = known
        return known


class _Outcome(NamedTuple):
    """The instruments of one method, template and status."""

    add: Callable[[], None]
    took: Callable[[float], None]
    size_in: Callable[[float], None]
    size_out: Callable[[float], None]


def _outcome_of(metrics: Metrics, method: str, template: str, status: int) -> _Outcome:
    code = str(status) if 100 <= status <= 599 else OTHER
    return _Outcome(
        metrics.http_requests[method, template, code].inc,
        metrics.http_duration[method, template].observe,
        metrics.http_request_size[method, template].observe,
        metrics.http_response_size[method, template].observe,
    )


class _Exchange:
    """One request and its answer."""

    __slots__ = (
        "_began", "_complete", "_ended", "_error", "_first", "_gone", "_middleware", "_read", "_receive", "_scope",
        "_send", "_sent", "_status", "_streamed",
    )  # fmt: skip

    def __init__(self, middleware: MonitoringMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        self._middleware = middleware
        self._scope = scope
        self._receive = receive
        self._send = send
        self._status = 0
        self._read = 0
        self._sent = 0
        self._first: float | None = None
        self._streamed = False
        self._complete = False
        self._ended = False
        self._gone = False
        self._error: BaseException | None = None
        self._began = middleware._now()

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            body = message.get("body")
            if body:
                self._read += len(body)
        elif not self._complete:
            self._gone = True
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.body":
            if self._first is None:
                self._first = self._middleware._now()
            body = message.get("body")
            if body:
                self._sent += len(body)
            if message.get("more_body"):
                self._streamed = True
            else:
                self._complete = True
        elif kind == "http.response.start":
            self._status = message["status"]
        elif kind == "http.response.pathsend":
            self._first = self._middleware._now()
            self._complete = True
        try:
            await self._send(message)
        except OSError:  # what servers raise once the client is gone
            self._complete = False
            self._gone = True
            raise
        if self._complete:
            self.end()  # what runs after the answer (background tasks) is not the request

    def broke(self, error: BaseException) -> None:
        """The app raised, before or after its answer was complete."""
        self._error = error
        if isinstance(error, asyncio.CancelledError) and not self._complete:
            self._gone = True
        if self._gone or not isinstance(error, Exception):
            return
        template = resolve_route(self._scope).template
        if template not in self._middleware._ignored:
            self._middleware._metrics.http_exceptions[_method(self._scope), template, type(error).__name__].inc()

    def end(self) -> None:
        """Count it, once."""
        if self._ended:
            return
        self._ended = True
        middleware, scope = self._middleware, self._scope
        middleware._end()
        method = scope["method"]
        if method not in METHODS:
            method = "OTHER"
        template = resolve_route(scope).template
        status = self._status
        if not self._complete:
            # It raised, or returned without an answer: the server says 500, or breaks the answer off.
            status = (status or CLIENT_GONE) if self._gone else 500
        outcome = middleware.outcome(method, template, status)
        if outcome is None:
            return
        outcome.add()
        outcome.took((middleware._now() if self._first is None else self._first) - self._began)
        outcome.size_in(self._read)
        outcome.size_out(self._sent)
        metrics = middleware._metrics
        if self._streamed:
            metrics.http_stream_duration[method, template].observe(middleware._now() - self._began)
        if self._gone:
            metrics.http_disconnects[method, template].inc()


class _Conversation:
    """One WebSocket: its handshake counts as a request, its life as a stream."""

    __slots__ = ("_began", "_handshaken", "_metrics", "_now", "_open", "_receive", "_scope", "_send")

    def __init__(self, metrics: Metrics, now: Callable[[], float], scope: Scope, receive: Receive, send: Send) -> None:
        self._metrics = metrics
        self._now = now
        self._scope = scope
        self._receive = receive
        self._send = send
        self._handshaken = False
        self._open = False
        self._began = now()

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self._handshake(CLIENT_GONE)  # unless it has been
            self._closed()
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            self._handshake(101)
        elif kind == "websocket.http.response.start":
            self._handshake(message["status"])
        elif kind == "websocket.close":
            self._handshake(403)
            self._closed()
        await self._send(message)

    def broke(self, error: BaseException) -> None:
        """The app raised."""
        self._handshake(500)
        if isinstance(error, Exception) and not isinstance(error, OSError):
            template = resolve_route(self._scope).template
            self._metrics.http_exceptions["WEBSOCKET", template, type(error).__name__].inc()

    def end(self) -> None:
        """The app has returned."""
        self._handshake(500)
        self._closed()

    def _handshake(self, status: int) -> None:
        if self._handshaken:
            return
        self._handshaken = True
        template = resolve_route(self._scope).template
        code = str(status) if 100 <= status <= 599 else OTHER
        self._metrics.http_requests["WEBSOCKET", template, code].inc()
        self._metrics.http_duration["WEBSOCKET", template].observe(self._now() - self._began)
        if status == 101:
            self._open = True
            self._metrics.websockets_open.inc()

    def _closed(self) -> None:
        if not self._open:
            return
        self._open = False
        self._metrics.websockets_open.dec()
        template = resolve_route(self._scope).template
        self._metrics.http_stream_duration["WEBSOCKET", template].observe(self._now() - self._began)


def _method(scope: Scope) -> str:
    method: str = scope["method"]
    return method if method in METHODS else "OTHER"
