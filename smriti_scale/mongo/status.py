"""Figures for monitoring: who is primary, how far secondaries lag, how full the pools are."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from pymongo.server_description import ServerDescription
from pymongo.server_type import SERVER_TYPE

from smriti_scale.mongo.driver_events import shown
from smriti_scale.mongo.replicas import Address

Role = Literal["primary", "secondary", "mongos", "arbiter", "other", "unknown"]

_ROLES: dict[int, Role] = {
    SERVER_TYPE.RSPrimary: "primary",
    SERVER_TYPE.Standalone: "primary",
    SERVER_TYPE.RSSecondary: "secondary",
    SERVER_TYPE.Mongos: "mongos",
    SERVER_TYPE.RSArbiter: "arbiter",
    SERVER_TYPE.Unknown: "unknown",
}


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """Connections from this process to one node.

    Attributes:
        limit: `max_pool_size`.
        open: connections there are.
        busy: of these, in use.
        waiting: commands that wait for one.
    """

    limit: int
    open: int
    busy: int
    waiting: int

    def __add__(self, other: PoolStatus) -> PoolStatus:
        return PoolStatus(
            self.limit + other.limit,
            self.open + other.open,
            self.busy + other.busy,
            self.waiting + other.waiting,
        )


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One node.

    Attributes:
        address: `host:port`.
        role: its role; `unknown` when it does not answer.
        lag_seconds: how far it is behind the primary; None for a primary, and when there is none to compare with.
        round_trip_seconds: of health checks, smoothed.
        avoided: reads that need a fresh node do not go there for now, since it was too far behind.
        pool: connections to it.
    """

    address: str
    role: Role
    lag_seconds: float | None
    round_trip_seconds: float | None
    avoided: bool
    pool: PoolStatus


@dataclass(frozen=True, slots=True)
class MongoStatus:
    """All of it.

    Attributes:
        primary: `host:port`; None while there is none.
        nodes: by address.
    """

    primary: str | None
    nodes: tuple[NodeStatus, ...]

    @property
    def lag_seconds(self) -> float | None:
        """The largest lag of a secondary; None when none is known."""
        return max((node.lag_seconds for node in self.nodes if node.lag_seconds is not None), default=None)

    @classmethod
    def of(cls, *views: Sequence[NodeStatus]) -> Self:
        """One picture from what each client sees; pools of one node at two clients are added up."""
        nodes: dict[str, NodeStatus] = {}
        for node in (node for view in views for node in view):
            known = nodes.get(node.address)
            nodes[node.address] = node if known is None else replace(known, pool=known.pool + node.pool)
        primary = next((node.address for node in nodes.values() if node.role == "primary"), None)
        return cls(primary, tuple(nodes[address] for address in sorted(nodes)))


def node_statuses(
    nodes: Sequence[ServerDescription],
    answers: Sequence[Mapping[str, Any] | None],
    *,
    pools: Sequence[PoolStatus],
    avoided: Collection[Address],
) -> list[NodeStatus]:
    """Put together what the driver knows and what each node answered to `hello` (None: nothing).

    The lag is the difference of the last writes' times, as whole seconds (that is all the oplog has).
    """
    writes = {
        node.address: int(answer["lastWrite"]["opTime"]["ts"].time)
        for node, answer in zip(nodes, answers, strict=True)
        if answer and "lastWrite" in answer
    }
    newest = next((writes.get(node.address) for node in nodes if node.server_type == SERVER_TYPE.RSPrimary), None)
    statuses = []
    for node, answer, pool in zip(nodes, answers, pools, strict=True):
        role: Role = _ROLES.get(node.server_type, "other") if answer else "unknown"
        behind = role == "secondary" and newest is not None and node.address in writes
        statuses.append(
            NodeStatus(
                address=shown(node.address) or "",
                role=role,
                lag_seconds=float(max(0, newest - writes[node.address])) if behind and newest is not None else None,
                round_trip_seconds=node.round_trip_time,
                avoided=node.address in avoided,
                pool=pool,
            )
        )
    return statuses
