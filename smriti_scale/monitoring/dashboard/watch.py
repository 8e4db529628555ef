"""Looking at the registry, once for all who watch."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import orjson

from smriti_scale.clock import Clock
from smriti_scale.monitoring.dashboard.picture import Watched, compose, said_by
from smriti_scale.monitoring.dashboard.readings import Readings

IDLE_INTERVAL = 30.0
"""Seconds between looks while nobody watches, so that the first who does sees more than this moment."""


class Watch:
    """Readings of one process, and the snapshots made of them.

    Args:
        monitoring: what is looked at.
        title: the service's name.
        interval: seconds for which a look is good enough for everybody.
        clock: time.
    """

    def __init__(self, monitoring: Watched, *, title: str, interval: float, clock: Clock) -> None:
        self._monitoring = monitoring
        self._title = title
        self._interval = interval
        self._clock = clock
        self._readings = Readings(started=clock.time())
        self._bodies: dict[str, bytes] = {}
        self._lock = asyncio.Lock()
        self._using_readings = threading.Lock()  # a caller may be cancelled while its thread goes on

    async def look(self) -> None:
        """Take a look if the last is old: what background sampling calls."""
        async with self._lock:
            await self._look(IDLE_INTERVAL)

    async def body(self, window: str) -> bytes:
        """The snapshot for a window (a key of `WINDOWS`) as JSON."""
        async with self._lock:
            await self._look(self._interval)
            body = self._bodies.get(window)
            if body is None:
                said = said_by(self._monitoring)
                body = self._bodies[window] = await asyncio.to_thread(self._compose, window, said)
            return body

    async def _look(self, good_for: float) -> None:
        latest = self._readings.latest
        if latest is not None and 0 <= self._clock.time() - latest < good_for:
            return
        # In a thread: with thousands of series, or the files of many processes, it takes a while.
        await asyncio.to_thread(self._read)
        self._bodies.clear()

    def _read(self) -> None:
        with self._using_readings:
            self._readings.add(self._monitoring.metrics.gathered().collect(), at=self._clock.time())

    def _compose(self, window: str, said: dict[str, Any]) -> bytes:
        with self._using_readings:
            return orjson.dumps(compose(self._readings, window=window, title=self._title, **said))
