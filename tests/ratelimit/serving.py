"""Asking applications in tests, over ASGI."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
from starlette.types import ASGIApp, Message


def client_of(app: ASGIApp, *, address: str = "198.51.100.7", **headers: str) -> httpx.AsyncClient:
    """A client at an address."""
    transport = httpx.ASGITransport(app, client=(address, 50_000), raise_app_exceptions=True)
    return httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers)


async def statuses(app: ASGIApp, path: str, times: int, *, method: str = "GET", **client: Any) -> list[int]:
    """The status of each of some requests in a row."""
    async with client_of(app, **client) as asking:
        return [(await asking.request(method, path)).status_code for _ in range(times)]


async def handshake(app: ASGIApp, path: str, *, denial: bool = False, address: str = "198.51.100.7") -> list[Message]:
    """What a WebSocket handshake is answered with, message by message; an accepted one is closed by the client."""
    sent: list[Message] = []
    incoming: Iterator[Message] = iter([{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}])

    async def receive() -> Message:
        return next(incoming)

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "websocket",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "scheme": "ws",
        "query_string": b"",
        "headers": [],
        "subprotocols": [],
        "client": (address, 50_000),
        "server": ("test", 80),
        "state": {},
        "extensions": {"websocket.http.response": {}} if denial else {},
    }
    await app(scope, receive, send)
    return sent
