"""An application with a dashboard over real HTTP, in this process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import uvicorn
from starlette.types import ASGIApp

TOKEN = "a-token-for-the-tests-only"


class Served:
    """A running server.

    Attributes:
        url: where it is.
        server: uvicorn's.
        ended: done once it has stopped.
    """

    def __init__(self, port: int, server: uvicorn.Server, ended: asyncio.Task[None]) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.server = server
        self.ended = ended


@contextlib.asynccontextmanager
async def served(app: ASGIApp, *, port: int = 0) -> AsyncIterator[Served]:
    """Serve the app on a port of loopback, a free one by default, until the block ends."""
    with contextlib.closing(socket.socket()) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on"))
        ended = asyncio.create_task(server.serve([listening]))
        while not server.started:
            assert not ended.done(), "the server ended at once"
            await asyncio.sleep(0.01)
        try:
            yield Served(listening.getsockname()[1], server, ended)
        finally:
            server.should_exit = True
            await ended
