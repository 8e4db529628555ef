"""Names each request, so that an answer, its log lines, its background work and its database commands can be matched.

The id is `context.request_id`: `setup_logging` writes it into every line, `tasks.publish` sends it along, and
`MongoClients(comment=True)` puts it into each command's `comment`.
"""

from __future__ import annotations

import random
import re
from typing import Any

from starlette.applications import Starlette
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smriti_scale import context
from smriti_scale.errors import ConfigurationError

_HEADER = b"x-request-id"
_PLAIN = re.compile(rb"[A-Za-z0-9_-]{8,64}")
_TRACEPARENT = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_SCOPE_KEY = "smriti_scale.request_id"
_STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})


class RequestIdMiddleware:
    """Takes the caller's `X-Request-ID` if it is plain, else makes one; every answer carries it, errors too.

    Plain is 8 to 64 letters, digits, `_` or `-`: nothing that could forge a log line or a header. The id says nothing
    about who asks, and two requests may bring the same one: match by it, never authorise by it. WebSockets are named
    too, in the answer to their handshake.

    Args:
        app: the app.
        accept: whether callers may name their requests; False makes every id here.
        trust_traceparent: whether `context.trace` is taken from the caller's W3C `traceparent`. Switch it on only
            behind a proxy that sets or removes the header: whoever sets it decides what is traced, and under which id.
    """

    def __init__(self, app: ASGIApp, *, accept: bool = True, trust_traceparent: bool = False) -> None:
        self.app = app
        self._accept = accept
        self._trust = trust_traceparent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan" or _SCOPE_KEY in scope:  # named already, by an outer one
            await self.app(scope, receive, send)
            return
        given = b""
        trace: str | None = None
        for name, value in scope["headers"]:
            if name == _HEADER and self._accept:
                given = given or value
            elif name == b"traceparent" and self._trust and _TRACEPARENT.fullmatch(value):
                trace = value.decode()
        request_id = given.decode() if given and _PLAIN.fullmatch(given) else f"{random.getrandbits(128):032x}"
        header = (_HEADER, request_id.encode())
        scope[_SCOPE_KEY] = request_id
        # Never reset: the server logs a crash after this has returned, in the same task, which then ends.
        context.request_id.set(request_id)
        context.trace.set(trace)

        async def named(message: Message) -> None:
            if message["type"] in _STARTS:
                message["headers"] = [pair for pair in message.get("headers") or () if pair[0] != _HEADER]
                message["headers"].append(header)
            await send(message)

        await self.app(scope, receive, named)


def setup_request_ids(app: Starlette, *, accept: bool = True, trust_traceparent: bool = False) -> None:
    """Put `RequestIdMiddleware` around the whole app, outside of Starlette's own handler of crashes.

    `app.add_middleware` could only put it inside of that, and a plain 500 would go out without its id. Whatever
    middleware is added later is inside, too.

    Args:
        app: a Starlette or FastAPI app that has not served yet.
        accept: see `RequestIdMiddleware`.
        trust_traceparent: see `RequestIdMiddleware`.

    Raises:
        ConfigurationError: the app has begun to serve.
    """
    if app.middleware_stack is not None:
        raise ConfigurationError("setup_request_ids comes before the app's first request")
    build = app.build_middleware_stack

    def named() -> ASGIApp:
        return RequestIdMiddleware(build(), accept=accept, trust_traceparent=trust_traceparent)

    outer: Any = app
    outer.build_middleware_stack = named
