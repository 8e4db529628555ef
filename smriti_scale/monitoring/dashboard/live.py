"""Snapshots as server-sent events: bounded in number and in length, and over when the server stops.

A stream is ended on purpose after some seconds, and the browser comes back by itself: so whoever may no longer look
is noticed, proxies with a limit of a minute see nothing special, and a server that waits for open requests before it
stops (as uvicorn does, without a word to the application) need not wait long where nothing tells of the stop.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from starlette.types import Message, Receive, Send

from smriti_scale.clock import Clock
from smriti_scale.monitoring.dashboard.watch import Watch

_RETRY = b"retry: 1000\n\n"
_POLL = 0.5


class Streams:
    """All open streams of one process.

    Args:
        watch: gives the snapshots.
        most: streams at a time.
        interval: seconds between snapshots.
        length: seconds after which a stream ends.
        stopping: true once the server is to stop.
        clock: time.
    """

    def __init__(
        self,
        watch: Watch,
        *,
        most: int,
        interval: float,
        length: float,
        stopping: Callable[[], bool],
        clock: Clock,
    ) -> None:
        self._watch = watch
        self._most = most
        self._interval = interval
        self._length = length
        self._stopping = stopping
        self._clock = clock
        self._open = 0

    @property
    def open(self) -> int:
        """Streams that are open now."""
        return self._open

    @property
    def is_full(self) -> bool:
        """Whether one more would be too many, or the server is to stop."""
        return self._open >= self._most or self._is_over()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    async def send(self, window: str, headers: list[tuple[bytes, bytes]], receive: Receive, send: Send) -> None:
        """Stream snapshots until the client goes, the time is over or the server stops."""
        with self._counted():
            gone = asyncio.ensure_future(_disconnected(receive))
            try:
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send(_piece(_RETRY))
                await self._feed(window, gone, send)
            finally:
                gone.cancel()

    async def _feed(self, window: str, gone: asyncio.Future[None], send: Send) -> None:
        ends = self._clock.monotonic() + self._length
        while not gone.done():
            body = await self._watch.body(window)
            await send(_piece(b"data: " + body + b"\n\n"))
            due = self._clock.monotonic() + self._interval
            while not gone.done() and (now := self._clock.monotonic()) < due:
                if self._is_over() or now >= ends:
                    await send(_piece(b"", more=False))
                    return
                await self._wait(min(_POLL, due - now), gone)

    async def _wait(self, seconds: float, gone: asyncio.Future[None]) -> None:
        tick = asyncio.ensure_future(self._clock.sleep(seconds))
        try:
            await asyncio.wait({tick, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            tick.cancel()

    def _is_over(self) -> bool:
        return self._stopping() or _server_exits()


def _server_exits() -> bool:
    """Whether uvicorn was told to stop: it waits for open requests before it tells the application, so it is asked.

    Its signal handler is a method of the server, which has the answer as `should_exit`.
    """
    server: Any = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return getattr(server, "should_exit", False) is True


def _piece(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
