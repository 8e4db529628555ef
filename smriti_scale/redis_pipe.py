"""One pipelined connection to Redis: what is asked in one turn of the event loop goes out in one write.

A pool hands each command a connection and waits for the answer; here commands follow each other on one connection
and answers are matched in order, as Redis promises. All reads of a turn become one MGET, each key asked once. A
command costs a fraction of what it costs by a pool: the callers of one turn share a write, and mostly a read.

Every command has a deadline, which covers queueing, connecting and the answer. Whose deadline passes is told so, and
the answer is dropped when it comes. A connection that has been silent for as long as the most patient command may
wait is given up, with all that is under way on it: what would arrive later belongs to nobody. A connection that is
lost (a restarted server, a failover) is opened anew for the next command; those under way fail, but for what was sent
with `again`, which is asked once more within its deadline.

redis-py opens the connection (TLS, authentication, Sentinel); the answers are parsed by hiredis as they arrive, which
spares each read two turns of the loop.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Protocol

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError, ReadOnlyError, RedisError

from smriti_scale.cancelling import cancel
from smriti_scale.errors import DeadlineExceeded
from smriti_scale.redis_failures import REDIS_ERRORS, error_of

_MAX_KEYS = 1000  # of one MGET, so that a huge turn does not hold Redis for long
_TOLERANCE = 1e-6  # seconds: sums of floats

Arg = str | int | float | bytes
Readers = list[tuple[list[int], asyncio.Future[Any]]]
"""Who waits for parts of an MGET's answer: the places of theirs, and the future."""


class Transport(Protocol):
    """How commands reach Redis: a pipe to one server, or a cluster."""

    def send(self, *args: Arg, timeout: float | None = None, again: bool = False) -> asyncio.Future[Any]:
        """One command; the future holds the answer (bytes undecoded) or the failure.

        Args:
            args: the command's words.
            timeout: seconds, in place of the transport's own.
            again: ask once more if the connection is lost before the answer. It may then be done twice.
        """
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


class _Command(NamedTuple):
    args: tuple[Arg, ...]
    waiting: asyncio.Future[Any] | Readers
    due: float
    again: bool


_command = tuple.__new__  # a NamedTuple's own constructor costs twice as much


class Pipe:
    """See the module. Belongs to one event loop.

    Args:
        open: opens a connection; it is not reconnected, and belongs to the pipe.
        timeout: deadline of a command that brings none, in seconds.
        on_lost: called with the error when an open connection breaks, though nothing may be under way.
        connect_timeout: how long connecting may go on in the background, in seconds.
    """

    def __init__(
        self,
        open: Callable[[], Awaitable[AbstractConnection]],  # noqa: A002 - that is what it does
        *,
        timeout: float,
        on_lost: Callable[[Exception], None] = lambda error: None,
        connect_timeout: float = 2.0,
    ) -> None:
        self._open = open
        self._timeout = timeout
        self._longest = timeout
        self._on_lost = on_lost
        self._connect_timeout = connect_timeout
        self._loop = asyncio.get_running_loop()
        self._queue: list[_Command] = []
        self._reads: list[tuple[Sequence[str], asyncio.Future[Any]]] = []
        self._reads_due = math.inf
        self._flushing = False
        self._watch: asyncio.TimerHandle | None = None
        self._watch_due = math.inf
        self._line: _Line | None = None
        self._connecting: asyncio.Task[None] | None = None

    def send(self, *args: Arg, timeout: float | None = None, again: bool = False) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        if timeout is None:
            timeout = self._timeout
        elif timeout > self._longest:
            self._longest = timeout
        now = self._loop.time()
        due = now + timeout
        self._queue.append(_command(_Command, (args, future, due, again)))
        if due < self._watch_due:
            self._look_at(due)
        if not self._flushing:
            self._schedule(now)
        return future

    def mget(self, keys: Sequence[str]) -> asyncio.Future[list[bytes | None]]:
        future: asyncio.Future[list[bytes | None]] = self._loop.create_future()
        if not self._reads:
            now = self._loop.time()
            self._reads_due = now + self._timeout
            if self._reads_due < self._watch_due:
                self._look_at(self._reads_due)
            if not self._flushing:
                self._schedule(now)
        self._reads.append((keys, future))
        return future

    async def connect(self, *, timeout: float) -> None:
        future: asyncio.Future[Any] = self._loop.create_future()
        self._queue.append(_Command(("PING",), future, math.inf, False))
        self._schedule(self._loop.time())
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
            for command in line.abort():
                _refuse(command, error)
        self._fail(error)

    async def aclose(self) -> None:
        connecting = self._connecting
        self.reset(RedisConnectionError("the connection to Redis was closed"))
        if self._watch is not None:
            self._watch.cancel()
            self._watch, self._watch_due = None, math.inf
        if connecting is not None:
            await cancel([connecting])
        await asyncio.sleep(0)  # for the socket to be closed before the loop may be

    # --- writing

    def _schedule(self, now: float) -> None:
        if self._line is not None:
            self._flushing = True
            self._loop.call_soon(self._flush, now)
        elif self._connecting is None:
            self._connecting = self._loop.create_task(self._connect(), name="smriti_scale.redis_pipe connect")

    def _flush(self, asked_at: float) -> None:
        """Write all that was asked in this turn, which began `asked_at`."""
        self._flushing = False
        if self._line is None:
            if self._queue or self._reads:  # the line was lost meanwhile
                self._schedule(asked_at)
            return
        if self._reads:
            self._batch_reads()
        queue, self._queue = self._queue, []
        if queue:
            self._line.write(queue, asked_at)

    def _batch_reads(self) -> None:
        """Turn the reads of this turn into MGETs."""
        reads, self._reads = self._reads, []
        places: dict[str, int] = {}
        readers: Readers = []
        for keys, future in reads:
            if len(places) + len(keys) > _MAX_KEYS and places:
                self._queue.append(_Command(("MGET", *places), readers, self._reads_due, False))
                places, readers = {}, []
            readers.append(([places.setdefault(key, len(places)) for key in keys], future))
        if readers:
            self._queue.append(_Command(("MGET", *places), readers, self._reads_due, False))

    # --- connecting

    async def _connect(self) -> None:
        me = asyncio.current_task()
        try:
            async with asyncio.timeout(self._connect_timeout):
                connection = await self._open()
                await connection.connect()  # type: ignore[no-untyped-call]
        except REDIS_ERRORS as error:
            if self._connecting is me:
                self._connecting = None
                self._fail(error)
            return
        if self._connecting is me:
            self._connecting = None
            self._line = _Line(connection, on_lost=self._lost, loop=self._loop)
            self._queue = [command for command in self._queue if not _is_done(command)]
            self._flush(self._loop.time())
        else:
            await connection.disconnect(nowait=True)  # closed meanwhile

    def _lost(self, line: _Line, error: Exception, sent: Sequence[_Command]) -> None:
        """The connection broke: `sent` was under way."""
        if self._line is not line:
            for command in sent:
                _refuse(command, error)
            return
        self._line = None
        once_more = []
        for command in sent:
            if command.again and not _is_done(command):
                once_more.append(command._replace(again=False))
            else:
                _refuse(command, error)
        self._queue = once_more + self._queue
        if (self._queue or self._reads) and not self._flushing:
            self._schedule(self._loop.time())
        self._on_lost(error)

    def _fail(self, error: BaseException) -> None:
        """Fail what was not sent yet."""
        if self._reads:
            self._batch_reads()
        queue, self._queue = self._queue, []
        for command in queue:
            _refuse(command, error)

    # --- deadlines

    def _look_at(self, due: float) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._watch_due = due
        self._watch = self._loop.call_at(due, self._look, True)

    def _look(self, again: bool) -> None:
        """One timer for all commands: tell whose deadline has passed, and look again at the next.

        If the loop itself was held up, the answers may have arrived together with this timer: let them be read first.
        """
        self._watch = None
        now = self._loop.time()
        if self._reads:
            self._batch_reads()
        unanswered = [*self._line.sent, *self._queue] if self._line is not None else self._queue
        waiting = [command for command in unanswered if not _is_done(command)]
        if any(command.due <= now for command in waiting):
            if again:
                self._watch = self._loop.call_later(0, self._look, False)
                return
            self._tell_the_late(waiting, now)
            waiting = [command for command in waiting if not _is_done(command)]
        self._watch_due = min((command.due for command in waiting), default=math.inf)
        if self._watch_due < math.inf:
            self._look_at(self._watch_due)

    def _tell_the_late(self, waiting: Sequence[_Command], now: float) -> None:
        line = self._line
        if line is None:
            # Still connecting: that may need longer than a command (TLS, far away) and goes on.
            late = DeadlineExceeded("redis (connecting)", timeout=self._timeout)
            self._queue = [command for command in self._queue if command.due > now]
        else:
            late = DeadlineExceeded("redis", timeout=self._timeout)
            if now - line.heard_at >= self._longest - _TOLERANCE:
                self.reset(late)
        for command in waiting:
            if command.due <= now:
                _refuse(command, late)


class _Line(asyncio.Protocol):
    """An open connection, and who waits for its answers, in order."""

    def __init__(
        self,
        connection: AbstractConnection,
        *,
        on_lost: Callable[[_Line, Exception, Sequence[_Command]], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.sent: deque[_Command] = deque()
        self.heard_at = 0.0
        """When the server last answered, or was first asked after it had answered all, on the loop's clock."""
        self._on_lost = on_lost
        self._now = loop.time
        self._parser = hiredis.Reader(protocolError=RedisConnectionError, replyError=error_of)
        # redis-py has no public way to hand over a connection that it opened. It must forget it, or it would close it.
        writer = connection._writer
        assert writer is not None  # noqa: S101 - it is connected
        connection._reader = connection._writer = None
        self._writer = writer
        self._transport = self._writer.transport
        self._transport.set_protocol(self)

    def write(self, commands: list[_Command], asked_at: float) -> None:
        if not self.sent:
            self.heard_at = asked_at
        self.sent.extend(commands)
        if len(commands) == 1:
            self._transport.write(hiredis.pack_command(commands[0][0]))  # type: ignore[arg-type]  # its stub means *args
        else:
            packed = [hiredis.pack_command(args) for args, _, _, _ in commands]  # type: ignore[arg-type]
            self._transport.write(b"".join(packed))

    def abort(self) -> Sequence[_Command]:
        """Give it up; returns what was under way."""
        sent, self.sent = self.sent, deque()
        self._transport.abort()
        return sent

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._now()
        parser = self._parser
        parser.feed(data)
        try:
            while (answer := parser.gets()) is not False:
                if isinstance(answer, ReadOnlyError):
                    # A primary that was demoted: whatever is asked of it belongs to its successor.
                    self._lost(answer)
                    return
                if not isinstance(answer, _PUSH):
                    _deliver(self.sent.popleft(), answer)
        except (RedisConnectionError, IndexError) as error:  # not Redis's language, or an answer nobody asked for
            self._lost(error)

    def connection_lost(self, error: Exception | None) -> None:
        self._lost(error or RedisConnectionError("Redis closed the connection"))

    def _lost(self, error: Exception) -> None:
        failure = error if isinstance(error, (RedisError, OSError)) else RedisConnectionError(str(error))
        self._on_lost(self, failure, self.abort())


_PUSH: tuple[type, ...] = (hiredis.PushNotification,) if hasattr(hiredis, "PushNotification") else ()


def _deliver(command: _Command, answer: Any) -> None:
    waiting = command[1]
    if type(waiting) is not list:
        if waiting.done():  # type: ignore[union-attr]
            return
        if isinstance(answer, RedisError):
            _set_error(waiting, answer)  # type: ignore[arg-type]
        else:
            waiting.set_result(answer)  # type: ignore[union-attr]
        return
    for places, future in waiting:
        if future.done():
            continue
        if isinstance(answer, RedisError):
            _set_error(future, answer)
        else:
            future.set_result([answer[place] for place in places])


def _is_done(command: _Command) -> bool:
    waiting = command.waiting
    return all(future.done() for _, future in waiting) if isinstance(waiting, list) else waiting.done()


def _refuse(command: _Command, error: BaseException) -> None:
    waiting = command.waiting
    for future in [future for _, future in waiting] if isinstance(waiting, list) else [waiting]:
        if not future.done():
            _set_error(future, error)


def _set_error(future: asyncio.Future[Any], error: BaseException) -> None:
    future.set_exception(error)
    future.exception()  # a caller that was cancelled will not ask
