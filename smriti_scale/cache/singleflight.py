"""Single-flight within a process: one load a key, many waiters, none of whom can harm the others.

The load runs in a task of its own. A waiter that is cancelled leaves; the load is cancelled when the last one has
left, unless it was also started for the background (a refresh), which then finishes alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine
from typing import Any, Generic, TypeVar

from smriti_scale.cancelling import cancel
from smriti_scale.errors import ScaleError

T = TypeVar("T")

Slot = tuple[str, str | None]
"""What may be joined: a key, and for a caller who must not be answered from before their own write, its position."""


class StillLoading(Exception):
    """A waiter's own patience is over. Never leaves the cache."""


class Flight(Generic[T]):
    """One load under way."""

    __slots__ = ("_waiters", "abandoned", "background", "key", "tags", "task")

    def __init__(self, task: asyncio.Task[T], *, key: str, tags: frozenset[str]) -> None:
        self.task = task
        self.key = key
        self.tags = tags
        self.background = False
        """Finish even if nobody waits."""
        self.abandoned = False
        """The last waiter left; the task is being cancelled."""
        self._waiters: set[asyncio.Future[None]] = set()

    async def join(self, timeout: float | None = None) -> T:
        """Wait for the result, or its exception.

        Raises:
            StillLoading: not within `timeout` seconds; the load goes on in the background.
        """
        if not self.task.done():
            loop = asyncio.get_running_loop()
            waiter: asyncio.Future[None] = loop.create_future()
            timer = loop.call_later(timeout, _late, waiter) if timeout is not None else None
            self._waiters.add(waiter)
            try:
                await waiter
            except StillLoading:
                self.background = True
                raise
            finally:
                if timer is not None:
                    timer.cancel()
                self._waiters.discard(waiter)
                if not self._waiters and not self.background and not self.task.done():
                    self.abandoned = True
                    self.task.cancel()
        if self.task.cancelled():
            # Not this waiter was cancelled, and a CancelledError would say so.
            raise ScaleError("the load was cancelled: its factory cancelled itself, or the cache was closed")
        return self.task.result()

    def land(self, task: asyncio.Task[T]) -> None:
        """The task is done: wake everyone."""
        if not task.cancelled():
            task.exception()  # seen: with no waiter left, nobody else would ask
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


def _late(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_exception(StillLoading())


class Flights(Generic[T]):
    """The loads under way, by key."""

    def __init__(self) -> None:
        self._flights: dict[Slot, Flight[T]] = {}
        self._tasks: set[asyncio.Task[T]] = set()

    def get(self, slot: Slot) -> Flight[T] | None:
        """The load that may be joined."""
        flight = self._flights.get(slot)
        return None if flight is None or flight.abandoned else flight

    def start(self, slot: Slot, load: Coroutine[Any, Any, T], *, tags: Collection[str]) -> Flight[T]:
        """Start a load in place of any other of this slot."""
        task = asyncio.get_running_loop().create_task(load, name="smriti_scale.cache load")
        flight = Flight(task, key=slot[0], tags=frozenset(tags))
        self._flights[slot] = flight
        self._tasks.add(task)

        def landed(task: asyncio.Task[T]) -> None:
            self._tasks.discard(task)
            if self._flights.get(slot) is flight:
                del self._flights[slot]
            flight.land(task)

        task.add_done_callback(landed)
        return flight

    def detach(self, keys: Collection[str], tags: Collection[str]) -> None:
        """The keys and tags change: who comes from now on starts anew; who waits already gets what is on its way."""
        for slot, flight in list(self._flights.items()):
            if flight.key in keys or not flight.tags.isdisjoint(tags):
                del self._flights[slot]

    def detach_all(self) -> None:
        """`detach` every load."""
        self._flights.clear()

    async def aclose(self) -> None:
        """Cancel every load and wait for its end."""
        await cancel(list(self._tasks))
