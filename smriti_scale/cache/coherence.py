"""The invalidation channel: how other processes' memory learns of a change within milliseconds.

A connection of its own listens to Redis pub/sub. Pub/sub forgets whoever is not connected, so the channel is only as
good as its last sign of life: it is asked for one several times within `max_stale`, and memory may be believed until
`trusted_until`, `max_stale` after the last question that was answered. Redis that went silent is found out by that,
Redis that hung up at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import time
from collections.abc import Callable
from typing import Any, Literal

from redis.asyncio.connection import AbstractConnection

from smriti_scale.cancelling import cancel
from smriti_scale.errors import DeadlineExceeded
from smriti_scale.redis_failures import REDIS_ERRORS
from smriti_scale.redis_link import RedisLink

_log = logging.getLogger("smriti_scale.cache")

_RECONNECT_FIRST, _RECONNECT_MOST = 0.05, 2.0


class Channel:
    """Listens to one channel, reconnecting for ever. Belongs to one event loop.

    Args:
        link: where Redis is.
        name: the channel.
        max_stale: seconds that memory may be believed without a sign of life.
        on_message: called with each message.
        on_live: called when listening starts (again): all that was published before has been missed.
        on_lost: called when the connection is lost.
    """

    def __init__(
        self,
        link: RedisLink,
        name: str,
        *,
        max_stale: float,
        on_message: Callable[[bytes], None],
        on_live: Callable[[], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._link = link
        self._name = name
        self._max_stale = max_stale
        # Two questions may go unanswered well before memory must not be believed any more.
        self._interval = min(1.0, max(0.05, max_stale / 5))
        self._on_message = on_message
        self._on_live = on_live
        self._on_lost = on_lost
        self.trusted_until = 0.0
        """On `time.monotonic`."""
        self.live = False
        self._asked_at = 0.0
        self._answered = True
        self._first = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._listen(), name="smriti_scale.cache channel")

    @property
    def state(self) -> Literal["live", "lost"]:
        return "live" if self.live else "lost"

    @property
    def settled(self) -> bool:
        """Whether the channel is live or has failed to be, once."""
        return self._first.is_set()

    async def ready(self, *, timeout: float) -> None:
        """Wait until the channel is live or has failed to be, at most `timeout` seconds."""
        if not self._first.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._first.wait()

    async def aclose(self) -> None:
        """Stop listening."""
        await cancel([self._task])
        self.live = False
        self.trusted_until = 0.0

    async def _listen(self) -> None:
        wait = _RECONNECT_FIRST
        while True:
            connection: AbstractConnection | None = None
            was_live = False
            try:
                async with asyncio.timeout(_RECONNECT_MOST):
                    connection = await self._link.connection()
                    self._asked_at = time.monotonic()
                    await connection.connect()  # type: ignore[no-untyped-call]
                    self._asked_at = time.monotonic()
                    await connection.send_command("SUBSCRIBE", self._name, check_health=False)
                    await self._receive(connection)
                self._answer()
                self.live = was_live = True
                wait = _RECONNECT_FIRST
                self._on_live()
                self._first.set()
                await self._serve(connection)
            except REDIS_ERRORS as error:
                log = _log.warning if was_live else _log.debug
                log("the cache's invalidation channel is lost: %s", error, extra={"channel": self._name})
            finally:
                self.live = False
                if was_live:
                    self._on_lost()
                if connection is not None:
                    with contextlib.suppress(*REDIS_ERRORS):
                        await connection.disconnect(nowait=True)
            self._first.set()
            await asyncio.sleep(wait * (0.5 + random.random() / 2))
            wait = min(wait * 2, _RECONNECT_MOST)

    async def _serve(self, connection: AbstractConnection) -> None:
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(self._read(connection)), loop.create_task(self._pulse(connection))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task
        finally:
            await cancel(tasks)
            for task in tasks:
                if not task.cancelled():
                    task.exception()  # seen: one of them is being raised, the other came with it

    async def _read(self, connection: AbstractConnection) -> None:
        while True:
            answer = await self._receive(connection)
            if isinstance(answer, list) and answer and answer[0] == b"message":
                self._on_message(answer[2])
            else:
                self._answer()

    async def _pulse(self, connection: AbstractConnection) -> None:
        """Ask for signs of life and fail when one does not come."""
        while True:
            await asyncio.sleep(self._interval)
            if not self._answered:
                raise DeadlineExceeded("a sign of life from redis", timeout=self._interval)
            self._answered = False
            self._asked_at = time.monotonic()
            await connection.send_command("PING", check_health=False)

    @staticmethod
    async def _receive(connection: AbstractConnection) -> Any:
        return await connection.read_response(
            disable_decoding=True, timeout=math.inf, disconnect_on_error=False, push_request=True
        )

    def _answer(self) -> None:
        self._answered = True
        self.trusted_until = self._asked_at + self._max_stale


class Waiters:
    """Who waits in this process for a load in another one."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}

    def expect(self, key: str) -> asyncio.Future[None]:
        """A future that is done when news of the key comes; to be taken before asking Redis, so that none is missed."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, set()).add(future)

        def forget(done: asyncio.Future[None]) -> None:
            waiting = self._waiting.get(key)
            if waiting is not None:
                waiting.discard(done)
                if not waiting:
                    self._waiting.pop(key, None)

        future.add_done_callback(forget)
        return future

    def news(self, key: str) -> None:
        """Something happened to the key."""
        for future in list(self._waiting.get(key, ())):
            if not future.done():
                future.set_result(None)
