"""Bounds what one request may send, while it is being read."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimitMiddleware:
    """Refuses a body over `limit` bytes with 400 as soon as that is known: by its announced length, or on the way.

    Args:
        app: the app.
        limit: bytes.
    """

    def __init__(self, app: ASGIApp, *, limit: int) -> None:
        self.app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "DELETE", "OPTIONS"):
            await self.app(scope, receive, send)
            return
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
        too_large = announced.isdigit() and int(announced) > self._limit
        received = 0

        async def counted() -> Message:
            nonlocal received
            if too_large:
                raise HTTPException(400, f"A request may have {self._limit:,} bytes")
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                raise HTTPException(400, f"A request may have {self._limit:,} bytes")
            return message

        await self.app(scope, counted, send)
