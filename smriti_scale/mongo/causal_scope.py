"""Whose writes must a read see: the causal scope of a request, a task, or a process, and how it is found.

The scope of the current context lives in the cell of `context.causal_position`, so that child tasks and the driver's
threads see and move the same one. Outside of any, the clients themselves are the caller.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bson.timestamp import Timestamp

from smriti_scale.context import causal_position
from smriti_scale.errors import InvalidCausalToken
from smriti_scale.mongo.causal_token import CausalToken, packed


class CausalScope:
    """A position that only moves forward, shared by everything done on behalf of one caller.

    Args:
        cluster: `cluster_label` of the cluster whose clock this is.
        token: where to begin.
    """

    __slots__ = ("_lock", "_token", "at", "cluster", "gossip", "identity", "timestamp", "wrote")

    def __init__(self, cluster: bytes, token: CausalToken | None = None) -> None:
        self.cluster = cluster
        self.at = 0
        """The position, `packed`; 0 is none."""
        self.timestamp: Timestamp | None = None
        self.gossip: Mapping[str, Any] | None = None
        self.wrote = False
        """Whether a write was acknowledged in this scope."""
        self.identity: Any = None
        """What the middleware knows about the caller; see `consistency`."""
        self._token: CausalToken | None = None
        self._lock = threading.Lock()  # Motor runs commands in threads
        if token is not None:
            self.merge(token)

    def note_write(self, operation_time: Timestamp, gossip: Mapping[str, Any] | None) -> None:
        """A write was acknowledged at this moment."""
        at = packed(operation_time)
        with self._lock:
            self.wrote = True
            if at > self.at:
                self.at, self.timestamp, self.gossip, self._token = at, operation_time, gossip, None

    def merge(self, token: CausalToken) -> None:
        """Take in a position from elsewhere.

        Raises:
            InvalidCausalToken: it is of another cluster.
        """
        if token.cluster != self.cluster:
            raise InvalidCausalToken("foreign")
        with self._lock:
            if token.operation_time > self.at:
                self.at, self.timestamp, self.gossip = token.operation_time, token.timestamp, token.gossip
                self._token = token

    def forget(self) -> None:
        """Drop a position that the server refuses, unless a write has made a good one since."""
        with self._lock:
            if not self.wrote:
                self.at, self.timestamp, self.gossip, self._token = 0, None, None, None

    @property
    def token(self) -> CausalToken | None:
        """The position as a value; None when there is none."""
        with self._lock:
            if self._token is None and self.timestamp is not None:
                self._token = CausalToken.from_reply(self.timestamp, self.gossip, cluster=self.cluster)
            return self._token

    def __call__(self) -> str | None:
        """The position as `context.causal_position` gives it."""
        token = self.token
        return None if token is None else token.encode()

    @contextmanager
    def entered(self) -> Iterator[CausalScope]:
        """Inside the block, this is the scope of the context."""
        before = causal_position.set(self)
        try:
            yield self
        finally:
            causal_position.reset(before)


def scope_of_context(cluster: bytes, otherwise: CausalScope) -> CausalScope:
    """The scope that the current context is in, or `otherwise`.

    A position restored as text (in a task, in a cache refresh) becomes a scope in its cell on first use. One of
    another cluster is not ours to read or move.
    """
    cell = causal_position.cell()
    if cell is None:
        return otherwise
    held = cell.held
    if type(held) is CausalScope:
        return held if held.cluster == cluster else otherwise
    scope = CausalScope(cluster)
    if isinstance(held, str):
        try:
            scope.merge(CausalToken.decode(held))
        except InvalidCausalToken:
            return otherwise
    cell.held = scope
    return scope


def advance(session: Any, scope: CausalScope) -> None:
    """Let a driver's session begin at the scope's position."""
    if scope.gossip is not None:
        session.advance_cluster_time(scope.gossip)
    if scope.timestamp is not None:
        session.advance_operation_time(scope.timestamp)
