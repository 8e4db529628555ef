"""One driver client of one event loop: made with the options, its two database handles, warm-up, probes."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from pymongo import AsyncMongoClient
from pymongo.errors import (
    ConnectionFailure,
    OperationFailure,
    PyMongoError,
    WaitQueueTimeoutError,
)
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import Primary, PrimaryPreferred
from pymongo.server_selectors import Selection
from pymongo.server_type import SERVER_TYPE
from pymongo.write_concern import WriteConcern

from smriti_scale.clock import Clock
from smriti_scale.errors import DatabaseUnavailable, InvalidCausalToken
from smriti_scale.events import CausalWait, Event, Events, PoolExhausted, ReadFellBackToPrimary
from smriti_scale.mongo.causal_driver import CausalAsyncMongoClient, CausalMotorClient, Owner
from smriti_scale.mongo.causal_scope import CausalScope
from smriti_scale.mongo.causal_token import packed
from smriti_scale.mongo.client_options import ClientOptions
from smriti_scale.mongo.driver_events import TopologyWatch
from smriti_scale.mongo.replicas import (
    PRIMARY,
    PROBING,
    Address,
    At,
    Replicas,
)
from smriti_scale.mongo.status import NodeStatus, PoolStatus, node_statuses
from smriti_scale.mongo.unavailable import translated
from smriti_scale.mongo.uri import MongoURI

Document = dict[str, Any]
T = TypeVar("T")

_PROBED = "smriti_scale.probe"
"""A collection that nobody makes: to read it is to wait for the position and find nothing."""
_GRACE = 0.1
"""Seconds beyond the probe's own deadline (which the server keeps) until the node counts as silent."""
_HELLO_TIMEOUT = 1.0
_UNAUTHORIZED = 13
_REFUSALS = frozenset(
    {
        "InvalidOptions",  # 72: afterClusterTime is ahead of the cluster's clock
        "KeyNotFound",
        "TimeProofMismatch",
        "ClusterTimeFailsRateLimiter",
        "CannotVerifyAndSignLogicalTime",
    }
)
_MOTOR_THREADS_MAX = 256

_DATA = (SERVER_TYPE.RSPrimary, SERVER_TYPE.RSSecondary, SERVER_TYPE.Mongos, SERVER_TYPE.Standalone)

_log = logging.getLogger("smriti_scale.mongo")


class Connection:
    """A client and its handles.

    Args:
        uri: what to connect to.
        read_uri: whose read options the read handle takes; often the same.
        options: what `MongoClients` was given.
        loop: the event loop it belongs to.
        scope: finds the causal scope of the current context.
        clock: the source of time.
        events: where events go.
    """

    def __init__(
        self,
        uri: str,
        read_uri: str,
        options: ClientOptions,
        *,
        loop: asyncio.AbstractEventLoop,
        scope: Callable[[], CausalScope],
        clock: Clock,
        events: Events,
    ) -> None:
        self._options = options
        self._loop = loop
        self._thread = threading.get_ident()
        self._clock = clock
        self._events = events
        self.scope = scope
        self.patience = options.write_timeout
        self.commenting = options.comment
        self._refreshing: asyncio.Task[None] | None = None
        self._late: set[asyncio.Future[Any]] = set()
        self._may_probe = True
        self.replicas = Replicas(position=lambda: scope().at, fell_back=self._fell_back, clock=clock, events=events)
        parsed, parsed_read = MongoURI.parse(uri), MongoURI.parse(read_uri)
        arguments = options.for_driver(parsed)
        listeners = [
            *arguments.pop("event_listeners", ()),
            TopologyWatch(self.replicas, self._emit),
        ]
        self.client: Any = (
            _motor(uri, loop, options, arguments | {"event_listeners": listeners}, self)
            if options.driver == "motor"
            else _pymongo(uri, arguments | {"event_listeners": listeners}, self)
        )
        self.read_preference = options.read_preference_for(parsed_read, self.replicas)
        level = parsed_read.option("readConcernLevel")
        concern = options.read_concern or (ReadConcern(level) if level else None)
        common: dict[str, Any] = {"write_concern": options.write_concern, "read_concern": concern}
        self.write = self.client.get_database(options.database, read_preference=Primary(), **common)
        self.read = self.client.get_database(options.database, read_preference=self.read_preference, **common)
        # With a bound session the driver sends a collection's own concerns, which a transaction refuses.
        self.transacted = self.client.get_database(
            options.database, read_preference=Primary(), write_concern=WriteConcern(), read_concern=ReadConcern()
        )

    async def warm_up(self) -> None:
        """Connect, and wait until each data-bearing node has `min_pool_size` connections (the driver opens them)."""
        await self.write.command("ping")
        await self.read.command("ping", read_preference=self.read_preference)
        while not self._warm():  # noqa: ASYNC110 - counted in the driver's threads; a poll needs no signal across them
            await asyncio.sleep(0.02)

    def _warm(self) -> bool:
        nodes = self._all_nodes()
        if any(node.server_type == SERVER_TYPE.Unknown and node.error is None for node in nodes):
            return False  # not looked at yet
        needed = self._options.min_pool_size
        return all(self._pool(node.address).open >= needed for node in nodes if node.server_type in _DATA)

    def _pool(self, address: Address) -> PoolStatus:
        # The pool's own counters: the driver's events about pools would cost each command more than all else here.
        client = self.client if isinstance(self.client, AsyncMongoClient) else self.client.delegate
        server = client._topology._servers.get(address)
        limit = self._options.max_pool_size
        if server is None:
            return PoolStatus(limit, 0, 0, 0)
        pool = server.pool
        busy = pool.active_sockets
        return PoolStatus(limit, len(pool.conns) + busy, busy, max(0, pool.operation_count - pool.requests))

    async def aclose(self) -> None:
        """Close the client."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
        if self._late:
            await asyncio.wait(self._late, timeout=self._options.probe_timeout + _GRACE)
        if isinstance(self.client, AsyncMongoClient):
            await self.client.close()
        else:
            await asyncio.to_thread(self.client.delegate.close)  # it tells the server goodbye, and joins threads

    def abandon(self) -> None:
        """Let go of a client whose loop is closed."""
        if not isinstance(self.client, AsyncMongoClient):
            threading.Thread(target=self.client.delegate.close, daemon=True).start()

    async def settle(self, scope: CausalScope) -> None:
        """See `MongoClients.settle`.

        Raises:
            InvalidCausalToken: the cluster refuses the position.
        """
        position, replicas = scope.at, self.replicas
        if not self._may_probe or type(self.read_preference) in (Primary, PrimaryPreferred):
            # The primary serves. It is asked before whether a position that nobody here has heard of is good at all:
            # one that it refuses would fail every command of the caller.
            if position > replicas.newest:
                await self._probe(scope, None)
            return
        secondaries = self._secondaries()
        if any(replicas.reached.get(node.address, 0) >= position for node in secondaries):
            return
        address = replicas.pick(secondaries)
        # Nobody to ask: the primary will serve. One thing it is asked before: whether the position is good at all.
        if address is not None or position > replicas.newest:
            await self._probe(scope, address)

    async def _probe(self, scope: CausalScope, address: Address | None) -> None:
        """Ask a node to reach the scope's position within `probe_timeout`; what it answers is remembered."""
        timeout = self._options.probe_timeout
        failure: Exception | None = None
        before = PROBING.set(address or PRIMARY)
        started = self._clock.monotonic()
        try:
            with scope.entered():
                probe = self.read[_PROBED].find_one({"_id": 0}, max_time_ms=max(1, round(timeout * 1000)))
                await self._within(probe, timeout + _GRACE)
        except OperationFailure as error:
            failure = error
            if (error.details or {}).get("codeName") in _REFUSALS:
                raise InvalidCausalToken("refused") from error
            if error.code == _UNAUTHORIZED and self._may_probe:
                self._may_probe = False
                _log.warning("may not ask secondaries how far they are, so the primary serves instead: %s", error)
        except (ConnectionFailure, TimeoutError) as error:
            failure = error
        finally:
            PROBING.reset(before)
        if address is None:
            return
        if failure is None:
            self.replicas.breaker(address).succeeded()
            self.replicas.saw(address, scope.at)
        else:
            self.replicas.breaker(address).failed(failure)
        if self._events:
            taken = (self._clock.monotonic() - started) * 1000
            self._events.emit(CausalWait(milliseconds=taken, reached=failure is None))

    async def nodes(self) -> list[NodeStatus]:
        """Each node as seen from here."""
        nodes = self._all_nodes()
        answers = await asyncio.gather(*(self._hello(node) for node in nodes))
        return node_statuses(
            nodes,
            answers,
            pools=[self._pool(node.address) for node in nodes],
            avoided={node.address for node in nodes if self.replicas.lagging(node.address)},
        )

    async def _hello(self, node: Any) -> Document | None:
        if not node.is_server_type_known:
            return None
        try:
            asked = self.client.admin.command("hello", read_preference=At(node.address))
            answer: Document = await self._within(asked, _HELLO_TIMEOUT)
        except (PyMongoError, TimeoutError):
            return None
        return answer

    async def _within(self, operation: Awaitable[T], timeout: float) -> T:
        """Wait so long for a driver's operation; a late one ends by itself.

        To cancel it would cost its connection: the driver closes that, and leaks it if it is being opened.
        """
        task = asyncio.ensure_future(operation)
        self._late.add(task)
        task.add_done_callback(self._ended)
        await asyncio.wait({task}, timeout=timeout)
        if not task.done():
            raise TimeoutError
        return task.result()

    def _ended(self, task: asyncio.Future[Any]) -> None:
        self._late.discard(task)
        if not task.cancelled():
            task.exception()  # seen, so that asyncio does not complain of it

    def _all_nodes(self) -> list[Any]:
        return list(self.client.topology_description.server_descriptions().values())

    def _secondaries(self) -> list[Any]:
        """The nodes that the read preference would take, the primary aside."""
        selection = Selection.from_topology_description(self.client.topology_description)
        if not selection:
            return []
        eligible = self.read_preference.eligible(selection)
        return [node for node in eligible.server_descriptions if node.server_type == SERVER_TYPE.RSSecondary]

    def heard(self, reply: Mapping[str, Any], address: Address | None, *, wrote: bool) -> None:
        """A node has answered a command: so far it has come, and a write moves the caller's scope."""
        moment = reply.get("operationTime")
        if moment is None or reply.get("ok") != 1:
            return
        if address is not None:
            self.replicas.saw(address, packed(moment))
        if wrote:
            self.scope().note_write(moment, reply.get("$clusterTime"))

    def unavailable(self, error: ConnectionFailure) -> DatabaseUnavailable:
        """The error to raise in place of the driver's."""
        if isinstance(error, WaitQueueTimeoutError):
            self._emit(PoolExhausted())
        return translated(error, retry_after=self._options.retry_after)

    def _emit(self, event: Event) -> None:
        if not self._events:
            return
        if threading.get_ident() == self._thread:
            self._events.emit(event)
        else:
            self._soon(self._events.emit, event)

    def _soon(self, call: Any, *arguments: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(call, *arguments)

    def _fell_back(self) -> None:
        """A read goes to the primary. Meanwhile ask whether a secondary has caught up, for the reads to come."""
        self._emit(ReadFellBackToPrimary())
        if self._refreshing is None and self._may_probe:
            token = self.scope().token
            if token is not None:
                scope = CausalScope(token.cluster, token)
                if threading.get_ident() == self._thread:
                    self._refresh(scope)
                else:
                    self._soon(self._refresh, scope)

    def _refresh(self, scope: CausalScope) -> None:
        if self._refreshing is None:
            # A context of its own: the request's ends before this does.
            self._refreshing = self._loop.create_task(self._refreshed(scope), context=contextvars.Context())

    async def _refreshed(self, scope: CausalScope) -> None:
        try:
            await self.settle(scope)
        except InvalidCausalToken:
            pass  # the request whose token it is finds out itself
        finally:
            self._refreshing = None


def _pymongo(uri: str, arguments: dict[str, Any], owner: Owner) -> Any:
    client = CausalAsyncMongoClient(uri, **arguments)
    client.owner = owner
    return client


def _motor(
    uri: str, loop: asyncio.AbstractEventLoop, options: ClientOptions, arguments: dict[str, Any], owner: Owner
) -> Any:
    from motor.frameworks import asyncio as framework

    # Motor runs commands in the threads of one executor, five for each core: far fewer than the pool's connections.
    # Threads beyond the pool's size wait in the pool's queue, which is fair and has a deadline; the executor's has
    # none.
    wanted = min(4 * options.max_pool_size, _MOTOR_THREADS_MAX)
    framework._EXECUTOR._max_workers = max(framework._EXECUTOR._max_workers, wanted)
    client: Any = CausalMotorClient(uri, io_loop=loop, **arguments)
    client.delegate.owner = owner
    return client
