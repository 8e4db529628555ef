"""MongoDB clients of an application: writes to the primary, reads from replicas, never behind one's own writes."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import pymongo
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from smriti_scale.clock import SYSTEM_CLOCK, Clock
from smriti_scale.errors import ConfigurationError, DatabaseUnavailable, InvalidCausalToken
from smriti_scale.events import CausalTokenIgnored, Events
from smriti_scale.mongo.causal_driver import check_driver
from smriti_scale.mongo.causal_scope import CausalScope, scope_of_context
from smriti_scale.mongo.causal_token import CausalToken, cluster_label
from smriti_scale.mongo.client_options import ClientOptions
from smriti_scale.mongo.connection import Connection
from smriti_scale.mongo.status import MongoStatus
from smriti_scale.mongo.transaction import IN_TRANSACTION, run_transaction
from smriti_scale.mongo.uri import MongoURI, redacted

T = TypeVar("T")
Driver = Literal["motor", "pymongo"]

MAX_AHEAD = 300.0
"""Seconds that a token may be ahead of this machine's clock; cluster time runs ahead of none by so much."""

_log = logging.getLogger("smriti_scale.mongo")


class MongoClients:
    """One application's way to MongoDB. Make it once; it opens a client for every event loop that uses it, lazily.

    ```python
    mongo = MongoClients(uri, database="app")
    async with mongo:
        await mongo.write.posts.insert_one(post)     # the primary, acknowledged by a majority
        await mongo.read.posts.find_one({"_id": 1})  # a secondary, never behind this caller's own writes
    ```

    `write` and `read` are the driver's own database objects. When both URIs name one cluster with the same
    credentials and options, they share one client and its connections. What the URI says about an option wins over
    the defaults here; write concern is always this object's.

    Args:
        write_uri: where writes go; a replica set or a sharded cluster.
        read_uri: where reads go, when that needs other options, credentials or hosts **of the same cluster**.
        database: the database's name.
        driver: `"motor"` or `"pymongo"` (PyMongo Async).
        max_pool_size: connections to each node at most. 50 serve thousands of requests a second; the sum over all
            instances must stay below what the nodes take.
        min_pool_size: connections to each node kept open, so that a burst does not wait for handshakes.
        read_preference: a mode's name, or one of PyMongo's read preference objects with tag sets, `max_staleness`
            or `hedge`.
        read_concern: a level such as `"majority"`; None leaves it to the server (`local`).
        write_concern: `"majority"` (what an acknowledged write needs to survive a failover), a number of nodes, or a
            `WriteConcern`. It always gets a `wtimeout`, without which a write hangs while secondaries are stalled.
        write_timeout: seconds a write waits for a primary to appear (an election takes 1 to 12), and then for its
            write concern.
        operation_timeout: seconds that an answer may take on the wire before the connection counts as dead.
        wait_queue_timeout: seconds that a command waits for a free connection.
        connect_timeout: seconds that opening a connection, or a health check of a node, may take.
        probe_timeout: seconds to wait at most for a secondary to reach a caller's position, before the primary
            is asked.
        cluster: a name for the cluster, the same in all instances, told apart from other clusters. By default the
            hosts of `write_uri`, so name it when instances use different addresses for the same cluster.
        comment: whether commands carry `context.request_id` as their `comment`, so that the server's log, profiler and
            `currentOp` name the request that sent them. A comment given by the caller stays.
        client_options: further keyword arguments of the driver's client (TLS, compressors, `tz_aware`, …).
        clock: the source of time.
        events: where `PrimaryChanged`, `ReadFellBackToPrimary`, `CausalWait`, `CausalTokenIgnored`, `PoolExhausted`
            and `BreakerChanged` go.

    Raises:
        ConfigurationError: an argument cannot work.
    """

    def __init__(
        self,
        write_uri: str,
        read_uri: str | None = None,
        *,
        database: str,
        driver: Driver = "motor",
        max_pool_size: int = 50,
        min_pool_size: int = 10,
        read_preference: Any = "secondaryPreferred",
        read_concern: str | ReadConcern | None = None,
        write_concern: str | int | WriteConcern = "majority",
        write_timeout: float = 15.0,
        operation_timeout: float = 30.0,
        wait_queue_timeout: float = 5.0,
        connect_timeout: float = 5.0,
        probe_timeout: float = 0.03,
        cluster: str | None = None,
        comment: bool = False,
        client_options: Mapping[str, Any] | None = None,
        clock: Clock = SYSTEM_CLOCK,
        events: Events | None = None,
    ) -> None:
        if driver not in ("motor", "pymongo"):
            raise ConfigurationError(f'driver is "motor" or "pymongo", not {driver!r}')
        if not 0 <= min_pool_size <= max_pool_size or max_pool_size < 1:
            raise ConfigurationError(
                f"need 0 <= min_pool_size <= max_pool_size and a connection at least, not {min_pool_size} and "
                f"{max_pool_size}"
            )
        for name, seconds in (
            ("write_timeout", write_timeout),
            ("operation_timeout", operation_timeout),
            ("wait_queue_timeout", wait_queue_timeout),
            ("connect_timeout", connect_timeout),
            ("probe_timeout", probe_timeout),
        ):
            if not 0.001 <= seconds < 86_400:
                raise ConfigurationError(f"{name} is a number of seconds from 0.001 to a day, not {seconds!r}")
        if not database:
            raise ConfigurationError("database must be a name")
        check_driver()
        self._options = ClientOptions(
            database=database,
            driver=driver,
            max_pool_size=max_pool_size,
            min_pool_size=min_pool_size,
            read_preference=read_preference,
            read_concern=ReadConcern(read_concern) if isinstance(read_concern, str) else read_concern,
            write_concern=_with_timeout(write_concern, write_timeout),
            write_timeout=write_timeout,
            operation_timeout=operation_timeout,
            wait_queue_timeout=wait_queue_timeout,
            connect_timeout=connect_timeout,
            probe_timeout=probe_timeout,
            extra=dict(client_options or {}),
            comment=comment,
        )
        self._write_uri, self._read_uri = write_uri, read_uri
        parsed = MongoURI.parse(write_uri)
        self._split = read_uri is not None and not parsed.same_client(MongoURI.parse(read_uri))
        self._options.check_read_preference(read_uri or write_uri)
        self.cluster = cluster_label(cluster if cluster is not None else parsed.cluster)
        self.database = database
        self.driver = driver
        self._clock = clock
        self._events = events if events is not None else Events()
        self._own_scope = CausalScope(self.cluster)
        self._opened: dict[asyncio.AbstractEventLoop, _Opened] = {}
        self._last: _Opened | None = None

    def __repr__(self) -> str:
        reading = f", {redacted(self._read_uri)!r}" if self._read_uri else ""
        return f"MongoClients({redacted(self._write_uri)!r}{reading}, database={self.database!r}, {self.driver})"

    async def __aenter__(self) -> Self:
        await self.warm_up()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def write(self) -> Any:
        """The database, by the primary, with the write concern. Its reads are as new as can be."""
        opened = self._here()
        return opened.transacted if IN_TRANSACTION.get() else opened.write

    @property
    def read(self) -> Any:
        """The database, by the read preference. Its reads never fall behind the caller's own writes."""
        opened = self._here()
        return opened.transacted if IN_TRANSACTION.get() else opened.read

    def client(self, purpose: Literal["write", "read"] = "write") -> Any:
        """The driver's client behind `write` or `read`; often they are one. Closing it is this object's task."""
        opened = self._here()
        return (opened.writing if purpose == "write" else opened.reading).client

    @property
    def position(self) -> CausalToken | None:
        """Where the caller stands: the latest of its own writes and of what it brought along; None is nowhere."""
        return self.scope().token

    def scope(self) -> CausalScope:
        """The causal scope that the current context is in."""
        return scope_of_context(self.cluster, self._own_scope)

    async def warm_up(self, *, timeout: float = 5.0) -> bool:
        """Connect and open `min_pool_size` connections to the nodes, so that the first requests do not wait.

        A server that is down is logged and does not raise: the application comes up and recovers with it.

        Args:
            timeout: seconds after which to go on without.

        Returns:
            Whether the servers answered.

        Raises:
            OperationFailure: the server refuses the credentials.
        """
        opened = self._here()
        try:
            async with asyncio.timeout(timeout):
                for connection in opened.connections:
                    await connection.warm_up()
        except (DatabaseUnavailable, TimeoutError) as error:
            _log.warning("MongoDB does not answer yet: %s", error, extra={"uri": redacted(self._write_uri)})
            return False
        return True

    async def ping(self) -> None:
        """One round trip to the primary, and one to a node that reads go to.

        Raises:
            DatabaseUnavailable: one of them does not answer.
        """
        opened = self._here()
        await opened.write.command("ping")
        await opened.read.command("ping", read_preference=opened.reading.read_preference)

    async def availability(self, *, timeout: float = 0.8) -> Literal["writable", "read-only"]:
        """What MongoDB can do right now; for health checks.

        Args:
            timeout: seconds for a round trip to the primary and one to a node that reads go to, at the same time. The
                driver keeps to it itself, so nothing goes on behind this call.

        Returns:
            `"read-only"` where no primary answers and another node does.

        Raises:
            DatabaseUnavailable: reads are not served.
        """
        opened = self._here()
        with pymongo.timeout(timeout):
            answers: Any = await asyncio.gather(
                opened.write.command("ping"),
                opened.read.command("ping", read_preference=opened.reading.read_preference),
                return_exceptions=True,
            )
        writing, reading = answers
        if isinstance(reading, BaseException):
            raise reading
        if isinstance(writing, DatabaseUnavailable):
            return "read-only"
        if isinstance(writing, BaseException):
            raise writing
        return "writable"

    async def aclose(self) -> None:
        """Close the running loop's clients. The object can be used again; it then opens new ones."""
        self._last = None
        opened = self._opened.pop(asyncio.get_running_loop(), None)
        if opened is not None:
            for connection in opened.connections:
                await connection.aclose()

    @asynccontextmanager
    async def consistent(self, position: CausalToken | str | None = None) -> AsyncIterator[CausalScope]:
        """Inside the block, reads never fall behind `position`, nor behind writes made in the block.

        For what is no request, or outlives one: a task's body, a cache's refresh, a script. The block has a scope of
        its own, so nothing done inside moves the position of the request around it.

        Args:
            position: a token, or its text (`context.causal_position`, a task's baggage). None begins where the
                caller stands now. One that cannot be used is ignored, with a `CausalTokenIgnored` event.

        Returns:
            The scope; its `token` is the position reached so far.
        """
        scope = CausalScope(self.cluster)
        try:
            token = CausalToken.decode(position) if isinstance(position, str) else position or self.position
            if token is not None:
                self.accept(scope, token)
        except InvalidCausalToken as error:
            self.ignored(error)
        with scope.entered():
            await self.settle(scope)
            yield scope

    def accept(self, scope: CausalScope, token: CausalToken) -> None:
        """Move a scope to a token that came from elsewhere.

        Raises:
            InvalidCausalToken: it is of another cluster, or of a time that is yet to come.
        """
        if token.cluster_time >> 32 > self._clock.time() + MAX_AHEAD:
            raise InvalidCausalToken("future")
        scope.merge(token)

    def ignored(self, error: InvalidCausalToken) -> None:
        """Tell listeners that a token was not used."""
        if self._events:
            self._events.emit(CausalTokenIgnored(reason=error.reason))

    async def settle(self, scope: CausalScope) -> None:
        """Find a secondary that has reached the scope's position, or none; called once a scope is entered.

        Costs nothing when a secondary is known to be so far; else one probe of `probe_timeout` at most.
        """
        if not scope.at:
            return
        try:
            await self._here().reading.settle(scope)
        except InvalidCausalToken as error:
            scope.forget()
            self.ignored(error)

    async def transaction(self, work: Callable[[], Awaitable[T]], *, timeout: float = 30.0) -> T:
        """Run `work` in a transaction: all of its commands, or none.

        Its commands need no `session=`, they find the transaction's by the context. It is run again when the server
        asks for it (a conflict, an election), so it must not do anything else that counts. One command at a time, on
        collections taken from `write` or `read` inside of it (those taken before carry concerns that a transaction
        refuses).

        Args:
            work: an async function without arguments that uses `write` or `read`.
            timeout: seconds for all of it, tries and commit included.

        Returns:
            What `work` returned, once committed by a majority.

        Raises:
            DatabaseUnavailable: there is no primary, or the time is over.
        """
        return await run_transaction(
            self._here().writing.client,
            work,
            scope=self.scope(),
            write_concern=self._options.write_concern,
            timeout=timeout,
            clock=self._clock,
        )

    async def status(self) -> MongoStatus:
        """Nodes, their lag and pools, as this process sees them; for monitoring. Asks each node once.

        A node that does not answer is listed as `"unknown"`.
        """
        return MongoStatus.of(*[await connection.nodes() for connection in self._here().connections])

    def _here(self) -> _Opened:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise ConfigurationError(
                "MongoClients is used outside of a running event loop; take .write and .read inside async functions"
            ) from None
        opened = self._last
        # A forked child has the parent's objects, but must not use its sockets.
        if opened is not None and opened.loop is loop and opened.pid == os.getpid():
            return opened
        opened = self._opened.get(loop)
        if opened is None or opened.pid != os.getpid():
            opened = self._opened[loop] = self._open(loop)
        self._last = opened
        return opened

    def _open(self, loop: asyncio.AbstractEventLoop) -> _Opened:
        # A loop that was closed without `aclose` leaves its clients behind (serverless hosts, `asyncio.run` twice).
        for gone in [known for known in self._opened if known.is_closed()]:
            for connection in self._opened.pop(gone).connections:
                connection.abandon()

        def connect(uri: str, reads: str) -> Connection:
            return Connection(
                uri, reads, self._options, loop=loop, scope=self.scope, clock=self._clock, events=self._events
            )

        if self._read_uri is not None and self._split:
            return _Opened(loop, connect(self._write_uri, self._write_uri), connect(self._read_uri, self._read_uri))
        one = connect(self._write_uri, self._read_uri or self._write_uri)
        return _Opened(loop, one, one)


class _Opened:
    """The connections of one event loop."""

    __slots__ = ("connections", "loop", "pid", "read", "reading", "transacted", "write", "writing")

    def __init__(self, loop: asyncio.AbstractEventLoop, writing: Connection, reading: Connection) -> None:
        self.loop = loop
        self.pid = os.getpid()
        self.writing, self.reading = writing, reading
        self.write, self.read, self.transacted = writing.write, reading.read, writing.transacted
        self.connections = [writing] if writing is reading else [writing, reading]


def _with_timeout(concern: str | int | WriteConcern, timeout: float) -> WriteConcern:
    if isinstance(concern, WriteConcern):
        given: dict[str, Any] = dict(concern.document)
    else:
        given = {"w": concern}
    if given.get("w") != 0:  # unacknowledged writes take none
        given.setdefault("wtimeout", round(timeout * 1000))
    return WriteConcern(**given)
