"""What a cache counts."""

from __future__ import annotations

from dataclasses import dataclass


class Counters:
    """Running counts of one cache; plain integers, bumped in place."""

    __slots__ = (
        "factory_seconds",
        "hits_memory",
        "hits_redis",
        "invalidations",
        "load_errors",
        "loads",
        "misses",
        "rejected",
        "stale_served",
    )

    def __init__(self) -> None:
        self.hits_memory = 0
        self.hits_redis = 0
        self.misses = 0
        self.stale_served = 0
        self.loads = 0
        self.load_errors = 0
        self.factory_seconds = 0.0
        self.rejected = 0
        self.invalidations = 0


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Counts of one named cache in this process since it was made.

    A call is one of: a hit in memory, a hit in Redis, a stale value served, or a miss.
    """

    name: str
    hits_memory: int
    hits_redis: int
    misses: int
    stale_served: int
    """Values past their ttl that were served while, or because, the factory could not be waited for."""
    loads: int
    """Factory calls in this process."""
    load_errors: int
    """Factory calls that raised."""
    factory_seconds: float
    """Time spent in factories, summed."""
    evictions: int
    """Entries that memory dropped to stay within its bounds."""
    rejected: int
    """Values in Redis that were corrupted, foreign or of a changed type: deleted, and counted as misses."""
    invalidations: int
    """Keys, tags and clears invalidated by this process."""
    memory_entries: int
    memory_bytes: int
    breaker: str
    """`closed`, `open` or `half_open`; `off` without Redis."""
    channel: str
    """The invalidation channel: `live`, `lost`, or `off` without Redis."""

    @property
    def hits(self) -> int:
        """Calls answered without waiting for a factory."""
        return self.hits_memory + self.hits_redis + self.stale_served

    @property
    def hit_ratio(self) -> float:
        """Hits in all calls; 0 before the first."""
        calls = self.hits + self.misses
        return self.hits / calls if calls else 0.0
