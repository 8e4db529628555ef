"""One pipelined connection to Redis: what is asked in one turn of the event loop goes out in one write.

A pool hands each command a connection and waits for the answer; here commands follow each other on one connection
and answers are matched in order, as Redis promises. All reads of a turn become one MGET, each key asked once.
A deadline covers queueing, connecting and the answer; when it passes, everything under way fails at once and the
connection is given up, since what would arrive on it later belongs to nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError, RedisError, ResponseError

from smriti_scale.errors import DeadlineExceeded
from smriti_scale.redis_link import RedisLink

_MAX_KEYS = 1000  # of one MGET, so that a huge turn does not hold Redis for long

Arg = str | bytes | int | float


class Transport(Protocol):
    """How commands reach Redis: a pipe to one server, or a cluster."""

    def send(self, *args: Arg) -> asyncio.Future[Any]:
        """One command; the future holds the answer (bytes undecoded) or the failure."""
        ...

    def mget(self, keys: Sequence[str]) -> asyncio.Future[list[bytes | None]]:
        """The values of some keys, in order."""
        ...

    async def connect(self, *, timeout: float) -> None:
        """Make sure that there is a server that answers, within `timeout` seconds."""
        ...

    def reset(self, error: BaseException) -> None:
        """Give the connection up; all that is under way fails with `error`."""
        ...

    async def aclose(self) -> None:
        """Close for good."""
        ...


class _Command:
    """What was sent and who waits for it."""

    __slots__ = ("args", "readers")

    def __init__(self, args: tuple[Arg, ...], readers: list[tuple[list[int] | None, asyncio.Future[Any]]]) -> None:
        self.args = args
        self.readers = readers  # (places in an MGET's answer, or None for the whole answer; future)


class Pipe:
    """See the module. Belongs to one event loop.

    Args:
        link: where Redis is.
        timeout: deadline of every command, in seconds.
        connect_timeout: how long connecting may go on in the background.
    """

    def __init__(self, link: RedisLink, *, timeout: float, connect_timeout: float = 2.0) -> None:
        self._link = link
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._loop = asyncio.get_running_loop()
        self._queue: list[_Command] = []
        self._reads: list[tuple[Sequence[str], asyncio.Future[Any]]] = []
        self._sent: deque[_Command] = deque()
        self._deadlines: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._watch: asyncio.TimerHandle | None = None
        self._wake: asyncio.Future[None] | None = None
        self._runner: asyncio.Task[None] | None = None

    def send(self, *args: Arg) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        self._queue.append(_Command(args, [(None, future)]))
        self._enqueued(future)
        return future

    def mget(self, keys: Sequence[str]) -> asyncio.Future[list[bytes | None]]:
        future: asyncio.Future[list[bytes | None]] = self._loop.create_future()
        self._reads.append((keys, future))
        self._enqueued(future)
        return future

    async def connect(self, *, timeout: float) -> None:
        future: asyncio.Future[Any] = self._loop.create_future()
        self._queue.append(_Command(("PING",), [(None, future)]))
        self._start()
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            late = DeadlineExceeded("redis PING", timeout=timeout)
            self.reset(late)
            raise late from None

    def reset(self, error: BaseException) -> None:
        runner, self._runner, self._wake = self._runner, None, None
        if runner is not None:
            runner.cancel()
        self._fail(error)

    async def aclose(self) -> None:
        runner = self._runner
        self.reset(RedisConnectionError("the cache was closed"))
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if runner is not None:
            await asyncio.wait([runner])

    def _enqueued(self, future: asyncio.Future[Any]) -> None:
        deadline = self._loop.time() + self._timeout
        self._deadlines.append((deadline, future))
        if self._watch is None:
            self._watch = self._loop.call_at(deadline, self._check_deadlines, True)
        self._start()

    def _start(self) -> None:
        if self._runner is None:
            self._runner = self._loop.create_task(self._run(), name="smriti_scale.cache redis")
        elif self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _check_deadlines(self, again: bool) -> None:
        """One timer for all commands: at the deadline of the oldest that is not answered."""
        self._watch = None
        while self._deadlines and self._deadlines[0][1].done():
            self._deadlines.popleft()
        if not self._deadlines:
            return
        deadline = self._deadlines[0][0]
        if deadline > self._loop.time():
            self._watch = self._loop.call_at(deadline, self._check_deadlines, True)
        elif again:
            # If the loop itself was held up, the answer may have arrived together with this timer: let it be read.
            self._watch = self._loop.call_later(0, self._check_deadlines, False)
        elif self._wake is None:
            # Still connecting: that may need longer than a command (TLS, far away) and goes on.
            self._fail(DeadlineExceeded("redis (connecting)", timeout=self._timeout))
        else:
            self.reset(DeadlineExceeded("redis", timeout=self._timeout))

    def _fail(self, error: BaseException) -> None:
        self._batch_reads()
        commands = [*self._sent, *self._queue]
        self._sent = deque()
        self._queue = []
        self._deadlines.clear()
        for command in commands:
            for _, future in command.readers:
                if not future.done():
                    future.set_exception(error)
                    future.exception()  # a caller that was cancelled will not ask

    async def _run(self) -> None:
        connection: AbstractConnection | None = None
        reader: asyncio.Task[None] | None = None
        me = asyncio.current_task()
        try:
            async with asyncio.timeout(self._connect_timeout):
                connection = await self._link.connection()
                await connection.connect()  # type: ignore[no-untyped-call]
            sent = self._sent = deque()
            reader = self._loop.create_task(self._read(connection, sent), name="smriti_scale.cache redis answers")
            reader.add_done_callback(lambda _: self._start() if self._runner is me else None)
            while not reader.done():
                self._wake = self._loop.create_future()
                if not self._queue and not self._reads:
                    await self._wake
                    continue
                self._batch_reads()
                commands, self._queue = self._queue, []
                sent.extend(commands)
                await connection.send_packed_command(
                    connection.pack_commands([command.args for command in commands]), check_health=False
                )
            await reader
        except (RedisError, OSError, TimeoutError) as error:
            if self._runner is me:
                self._runner = self._wake = None
                self._fail(error)
        finally:
            if reader is not None:
                reader.cancel()
                await asyncio.wait([reader])
                if not reader.cancelled():
                    reader.exception()
            if connection is not None:
                with contextlib.suppress(RedisError, OSError):
                    await connection.disconnect(nowait=True)

    def _batch_reads(self) -> None:
        """Turn the reads of this turn into MGETs."""
        reads, self._reads = self._reads, []
        places: dict[str, int] = {}
        readers: list[tuple[list[int] | None, asyncio.Future[Any]]] = []
        for keys, future in reads:
            if len(places) + len(keys) > _MAX_KEYS and places:
                self._queue.append(_Command(("MGET", *places), readers))
                places, readers = {}, []
            readers.append(([places.setdefault(key, len(places)) for key in keys], future))
        if readers:
            self._queue.append(_Command(("MGET", *places), readers))

    @staticmethod
    async def _read(connection: AbstractConnection, sent: deque[_Command]) -> None:
        while True:
            answer: Any
            try:
                answer = await connection.read_response(
                    disable_decoding=True, timeout=math.inf, disconnect_on_error=False
                )
            except ResponseError as error:
                answer = error
            for places, future in sent.popleft().readers:
                if future.done():
                    continue
                if isinstance(answer, ResponseError):
                    future.set_exception(answer)
                else:
                    future.set_result(answer if places is None else [answer[place] for place in places])
