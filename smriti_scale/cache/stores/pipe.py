"""One pipelined connection to Redis: what is asked in one turn of the event loop goes out in one write.

A pool hands each command a connection and waits for the answer; here commands follow each other on one connection
and answers are matched in order, as Redis promises. All reads of a turn become one MGET, each key asked once.
A deadline covers queueing, connecting and the answer; when it passes, everything under way fails at once and the
connection is given up, since what would arrive on it later belongs to nobody.

redis-py opens the connection (TLS, authentication, Sentinel); the answers are parsed by hiredis as they arrive, which
spares each read two turns of the loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import (
    BusyLoadingError,
    ConnectionError as RedisConnectionError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from smriti_scale.cache.cancelling import cancel
from smriti_scale.errors import DeadlineExceeded
from smriti_scale.redis_link import REDIS_ERRORS, RedisLink

_MAX_KEYS = 1000  # of one MGET, so that a huge turn does not hold Redis for long

_SHARE = 0.95  # of the deadline; the rest is for the caller to go on without Redis within it

Arg = str | int | float | bytes
Readers = list[tuple[list[int] | None, asyncio.Future[Any]]]
"""Who waits for an answer: the places of theirs in an MGET's, or None for the whole, and the future."""


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


class Pipe:
    """See the module. Belongs to one event loop.

    Args:
        link: where Redis is.
        timeout: deadline of every command, in seconds.
        on_lost: called with the error when an open connection breaks, though nothing may be under way.
        connect_timeout: how long connecting may go on in the background.
    """

    def __init__(
        self,
        link: RedisLink,
        *,
        timeout: float,
        on_lost: Callable[[Exception], None],
        connect_timeout: float = 2.0,
    ) -> None:
        self._link = link
        self._timeout = timeout * _SHARE
        self._on_lost = on_lost
        self._connect_timeout = connect_timeout
        self._loop = asyncio.get_running_loop()
        self._queue: list[tuple[tuple[Arg, ...], Readers]] = []
        self._reads: list[tuple[Sequence[str], asyncio.Future[Any]]] = []
        self._flushing = False
        self._deadlines: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._watch: asyncio.TimerHandle | None = None
        self._line: _Line | None = None
        self._connecting: asyncio.Task[None] | None = None

    def send(self, *args: Arg) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        self._queue.append((args, [(None, future)]))
        self._enqueued(future)
        return future

    def mget(self, keys: Sequence[str]) -> asyncio.Future[list[bytes | None]]:
        future: asyncio.Future[list[bytes | None]] = self._loop.create_future()
        self._reads.append((keys, future))
        self._enqueued(future)
        return future

    async def connect(self, *, timeout: float) -> None:
        future: asyncio.Future[Any] = self._loop.create_future()
        self._queue.append((("PING",), [(None, future)]))
        self._schedule()
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            late = DeadlineExceeded("redis PING", timeout=timeout)
            self.reset(late)
            raise late from None

    def reset(self, error: BaseException) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        line, self._line = self._line, None
        if line is not None:
            line.abort(error)
        self._fail(error)

    async def aclose(self) -> None:
        connecting = self._connecting
        self.reset(RedisConnectionError("the cache was closed"))
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if connecting is not None:
            await cancel([connecting])
        await asyncio.sleep(0)  # for the socket to be closed before the loop may be

    # --- writing

    def _enqueued(self, future: asyncio.Future[Any]) -> None:
        deadline = self._loop.time() + self._timeout
        self._deadlines.append((deadline, future))
        if self._watch is None:
            self._watch = self._loop.call_at(deadline, self._check_deadlines, True)
        if not self._flushing:
            self._schedule()

    def _schedule(self) -> None:
        if self._line is not None:
            self._flushing = True
            self._loop.call_soon(self._flush)
        elif self._connecting is None:
            self._connecting = self._loop.create_task(self._connect(), name="smriti_scale.cache redis")

    def _flush(self) -> None:
        """Write all that was asked in this turn."""
        self._flushing = False
        if self._line is None:
            return  # it was lost meanwhile, and with it those who waited
        self._batch_reads()
        queue, self._queue = self._queue, []
        if queue:
            self._line.write(queue)

    def _batch_reads(self) -> None:
        """Turn the reads of this turn into MGETs."""
        reads, self._reads = self._reads, []
        places: dict[str, int] = {}
        readers: Readers = []
        for keys, future in reads:
            if len(places) + len(keys) > _MAX_KEYS and places:
                self._queue.append((("MGET", *places), readers))
                places, readers = {}, []
            readers.append(([places.setdefault(key, len(places)) for key in keys], future))
        if readers:
            self._queue.append((("MGET", *places), readers))

    # --- connecting

    async def _connect(self) -> None:
        me = asyncio.current_task()
        connection: AbstractConnection | None = None
        try:
            async with asyncio.timeout(self._connect_timeout):
                connection = await self._link.connection()
                await connection.connect()  # type: ignore[no-untyped-call]
        except REDIS_ERRORS as error:
            if self._connecting is me:
                self._connecting = None
                self._fail(error)
            return
        if self._connecting is me:
            self._connecting = None
            self._line = _Line(connection, on_lost=self._lost)
            self._flush()

    def _lost(self, line: _Line, error: Exception) -> None:
        if self._line is line:
            self._line = None
            self._fail(error)
            self._on_lost(error)

    def _fail(self, error: BaseException) -> None:
        """Fail what was not sent yet."""
        self._batch_reads()
        queue, self._queue = self._queue, []
        self._deadlines.clear()
        for _, readers in queue:
            _refuse(readers, error)

    # --- deadlines

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
        elif self._line is None:
            # Still connecting: that may need longer than a command (TLS, far away) and goes on.
            self._fail(DeadlineExceeded("redis (connecting)", timeout=self._timeout))
        else:
            self.reset(DeadlineExceeded("redis", timeout=self._timeout))


class _Line(asyncio.Protocol):
    """An open connection, and who waits for its answers, in order."""

    def __init__(self, connection: AbstractConnection, *, on_lost: Callable[[_Line, Exception], None]) -> None:
        self._on_lost = on_lost
        self._sent: deque[Readers] = deque()
        self._parser = hiredis.Reader(protocolError=RedisConnectionError, replyError=_reply_error)
        # redis-py has no public way to hand over a connection that it opened. It must forget it, or it would close it.
        writer = connection._writer
        assert writer is not None  # noqa: S101 - it is connected
        connection._reader = connection._writer = None
        self._writer = writer
        self._transport = self._writer.transport
        self._transport.set_protocol(self)

    def write(self, commands: list[tuple[tuple[Arg, ...], Readers]]) -> None:
        self._sent.extend([readers for _, readers in commands])
        packed = [hiredis.pack_command(args) for args, _ in commands]  # type: ignore[arg-type]  # its stub means *args
        self._transport.write(b"".join(packed))

    def abort(self, error: BaseException) -> None:
        """Give it up; who waits fails with `error`."""
        sent, self._sent = self._sent, deque()
        self._transport.abort()
        for readers in sent:
            _refuse(readers, error)

    def data_received(self, data: bytes) -> None:
        self._parser.feed(data)
        try:
            while (answer := self._parser.gets()) is not False:
                if not isinstance(answer, _PUSH):
                    self._deliver(answer)
        except (RedisConnectionError, IndexError) as error:  # not Redis's language, or an answer nobody asked for
            self._lost(error)

    def connection_lost(self, error: Exception | None) -> None:
        self._lost(error or RedisConnectionError("Redis closed the connection"))

    def _lost(self, error: Exception) -> None:
        failure = error if isinstance(error, (RedisError, OSError)) else RedisConnectionError(str(error))
        self.abort(failure)
        self._on_lost(self, failure)

    def _deliver(self, answer: Any) -> None:
        for places, future in self._sent.popleft():
            if future.done():
                continue
            if isinstance(answer, RedisError):
                future.set_exception(answer)
                future.exception()  # a caller that was cancelled will not ask
            else:
                future.set_result(answer if places is None else [answer[place] for place in places])


_PUSH: tuple[type, ...] = (hiredis.PushNotification,) if hasattr(hiredis, "PushNotification") else ()

_REPLY_ERRORS: dict[str, type[RedisError]] = {
    "NOSCRIPT": NoScriptError,
    "READONLY": ReadOnlyError,
    "LOADING": BusyLoadingError,
    "MASTERDOWN": RedisConnectionError,
}


def _reply_error(text: str) -> RedisError:
    return _REPLY_ERRORS.get(text.partition(" ")[0], ResponseError)(text)


def _refuse(readers: Readers, error: BaseException) -> None:
    for _, future in readers:
        if not future.done():
            future.set_exception(error)
            future.exception()  # a caller that was cancelled will not ask
