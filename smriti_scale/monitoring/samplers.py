"""Figures that are looked up from time to time: pools and lag, caches, queues.

The primitives do not know each other, so what they hand over is described here by its shape: `MongoStatus`,
`CacheStats` and `BrokerState` fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from smriti_scale.errors import ConfigurationError
from smriti_scale.monitoring.metrics import Metrics


class PoolLike(Protocol):
    """Connections to one node."""

    @property
    def limit(self) -> int: ...
    @property
    def open(self) -> int: ...
    @property
    def busy(self) -> int: ...
    @property
    def waiting(self) -> int: ...


class NodeLike(Protocol):
    """One MongoDB node."""

    @property
    def address(self) -> str: ...
    @property
    def lag_seconds(self) -> float | None: ...
    @property
    def pool(self) -> PoolLike: ...


@runtime_checkable
class NodesSeen(Protocol):
    """What `MongoClients.status` returns."""

    @property
    def nodes(self) -> Sequence[NodeLike]: ...


@runtime_checkable
class CacheCounts(Protocol):
    """What `Cache.stats` returns."""

    @property
    def name(self) -> str: ...
    @property
    def hits_memory(self) -> int: ...
    @property
    def evictions(self) -> int: ...
    @property
    def memory_entries(self) -> int: ...
    @property
    def memory_bytes(self) -> int: ...


class QueueLike(Protocol):
    """One queue."""

    @property
    def name(self) -> str: ...
    @property
    def depth(self) -> int: ...
    @property
    def age(self) -> float: ...


@runtime_checkable
class QueuesSeen(Protocol):
    """What `QueueMonitor.measure` returns."""

    @property
    def queues(self) -> Sequence[QueueLike]: ...
    @property
    def running(self) -> int: ...
    @property
    def dead(self) -> int: ...


class Samples:
    """Writes what was looked up into the metrics.

    Args:
        metrics: where to write.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._nodes: dict[str, set[str]] = {}
        self._counted: dict[tuple[str, str, str], int] = {}

    def record(self, sample: str, seen: Any) -> None:
        """Write one look.

        Args:
            sample: its name; two looks at caches of one name are told apart by it.
            seen: what a sampled function returned; None when it has recorded by itself.

        Raises:
            ConfigurationError: nothing that is known.
        """
        if seen is None:
            return
        if isinstance(seen, NodesSeen):
            self._pools(sample, seen)
        elif isinstance(seen, CacheCounts):
            self._cache(sample, seen)
        elif isinstance(seen, QueuesSeen):
            self._queues(seen)
        else:
            raise ConfigurationError(
                f"the sample {sample!r} returned a {type(seen).__name__}; known are the results of "
                "MongoClients.status, Cache.stats and QueueMonitor.measure, and None"
            )

    def _pools(self, sample: str, seen: NodesSeen) -> None:
        metrics = self._metrics
        for node in seen.nodes:
            address, pool = node.address, node.pool
            metrics.mongo_pool[address, "in_use"].set(pool.busy)
            metrics.mongo_pool[address, "idle"].set(max(0, pool.open - pool.busy))
            metrics.mongo_pool_waiting[(address,)].set(pool.waiting)
            metrics.mongo_pool_limit[(address,)].set(pool.limit)
            if node.lag_seconds is not None:
                metrics.mongo_lag[(address,)].set(node.lag_seconds)
            elif (address,) in metrics.mongo_lag:  # it is the primary now, or gone
                metrics.mongo_lag[(address,)].set(0)
        here = {node.address for node in seen.nodes}
        for gone in self._nodes.get(sample, set()) - here:
            for state in ("in_use", "idle"):
                metrics.mongo_pool[gone, state].set(0)
            for gauge in (metrics.mongo_pool_waiting, metrics.mongo_pool_limit):
                gauge[(gone,)].set(0)
            if (gone,) in metrics.mongo_lag:
                metrics.mongo_lag[(gone,)].set(0)
        self._nodes[sample] = here

    def _cache(self, sample: str, seen: CacheCounts) -> None:
        metrics, name = self._metrics, seen.name
        metrics.cache_requests[name, "", "hit_memory"].inc(self._since(sample, name, "hits", seen.hits_memory))
        metrics.cache_evictions[(name,)].inc(self._since(sample, name, "evictions", seen.evictions))
        metrics.cache_entries[(name,)].set(seen.memory_entries)
        metrics.cache_bytes[(name,)].set(seen.memory_bytes)

    def _queues(self, seen: QueuesSeen) -> None:
        for queue in seen.queues:
            self._metrics.queue_depth[(queue.name,)].set(queue.depth)
            self._metrics.queue_age[(queue.name,)].set(queue.age)
        self._metrics.tasks_running.set(seen.running)
        self._metrics.tasks_dead.set(seen.dead)

    def _since(self, sample: str, name: str, what: str, count: int) -> int:
        """How much was added since the last look; a count that went back began anew."""
        before = self._counted.get((sample, name, what), 0)
        self._counted[sample, name, what] = count
        return count - before if count >= before else count
