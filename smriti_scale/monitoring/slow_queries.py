"""The slow queries of late, by shape: how often, how long, and which index would serve them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace

from smriti_scale.clock import SYSTEM_CLOCK, Clock
from smriti_scale.events import SlowQuery


@dataclass(frozen=True, slots=True)
class SlowShape:
    """One shape of query that was slow.

    Attributes:
        database: its database.
        collection: its collection.
        shape: the query without values.
        count: how often it was reported slow.
        total_milliseconds: the sum of these.
        worst_milliseconds: the longest of these.
        last_seen: seconds since the epoch.
        wants: the `Index(...)` that would serve it; empty where none can be named.
    """

    database: str
    collection: str
    shape: str
    count: int
    total_milliseconds: float
    worst_milliseconds: float
    last_seen: float
    wants: str


class SlowQueries:
    """Keeps the shapes seen last. Safe in several threads.

    Args:
        limit: shapes to keep.
        clock: the source of time.
    """

    def __init__(self, *, limit: int = 50, clock: Clock = SYSTEM_CLOCK) -> None:
        self._limit = limit
        self._clock = clock
        self._shapes: OrderedDict[tuple[str, str], SlowShape] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, event: SlowQuery) -> None:
        """Count a slow query."""
        key, now = (event.database, event.shape), self._clock.time()
        with self._lock:
            known = self._shapes.pop(key, None)
            self._shapes[key] = (
                SlowShape(
                    event.database, event.collection, event.shape, 1, event.milliseconds, event.milliseconds, now,
                    event.wants,
                )
                if known is None
                else replace(
                    known,
                    count=known.count + 1,
                    total_milliseconds=known.total_milliseconds + event.milliseconds,
                    worst_milliseconds=max(known.worst_milliseconds, event.milliseconds),
                    last_seen=now,
                    wants=event.wants,
                )
            )  # fmt: skip
            while len(self._shapes) > self._limit:
                self._shapes.popitem(last=False)

    def shapes(self) -> tuple[SlowShape, ...]:
        """Those that took the most time first."""
        with self._lock:
            found = list(self._shapes.values())
        return tuple(sorted(found, key=lambda shape: -shape.total_milliseconds))
