"""Names each request, so that an answer, its log lines and its background work can be matched."""

from __future__ import annotations

import re
import secrets

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smriti_scale import context

_HEADER = "X-Request-ID"
_PLAIN = re.compile(rb"[A-Za-z0-9_-]{8,64}")


class RequestIdMiddleware:
    """Takes the caller's `X-Request-ID` if it is plain, else makes one; every answer carries it, errors too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = given.decode() if _PLAIN.fullmatch(given) else secrets.token_hex(16)
        context.request_id.set(request_id)

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[_HEADER] = request_id
            await send(message)

        await self.app(scope, receive, named)
