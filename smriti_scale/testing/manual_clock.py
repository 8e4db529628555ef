"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import heapq
import itertools

_ROUNDS = 50
"""Turns of the event loop given to woken tasks: enough for a chain of awaits that need no I/O."""


class ManualClock:
    """A `smriti_scale.clock.Clock` moved by hand. Starts at a fixed moment, so that tests repeat exactly.

    Args:
        start: the first value of `time()`, in seconds since the epoch.
    """

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._wall = start
        self._monotonic = 1_000.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def time(self) -> float:
        """Wall time, in seconds since the epoch."""
        return self._wall

    def monotonic(self) -> float:
        """Seconds since a fixed moment; moved by `advance` alone."""
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has been advanced by so much; zero or less gives way to other tasks once."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._monotonic + seconds, next(self._order), woken))
        await woken

    @property
    def sleepers(self) -> int:
        """How many tasks wait for this clock."""
        return sum(not woken.done() for _, _, woken in self._sleepers)

    def advance(self, seconds: float) -> None:
        """Move both times forward and wake whoever is due, in order. The woken run at the caller's next `await`.

        Raises:
            ValueError: a monotonic clock does not go back; `jump` moves wall time either way.
        """
        target = self._target(seconds)
        while self._sleepers and self._sleepers[0][0] <= target:
            self._wake_first()
        self._move_to(target)

    async def run_for(self, seconds: float) -> None:
        """Move forward as `advance` does, stopping at each sleeper's moment to let it run; what falls asleep anew on
        the way is woken too when due. Tasks that wait for I/O are not waited for.
        """
        target = self._target(seconds)
        await _settle()
        while self._sleepers and self._sleepers[0][0] <= target:
            self._move_to(self._sleepers[0][0])
            self._wake_first()
            await _settle()
        self._move_to(target)
        await _settle()

    def jump(self, seconds: float) -> None:
        """Move wall time alone, either way: a clock set anew, or another machine's."""
        self._wall += seconds

    async def until_sleepers(self, count: int = 1) -> None:
        """Let other tasks run until so many wait for this clock."""
        while self.sleepers < count:  # noqa: ASYNC110 - turns of the loop, not time
            await asyncio.sleep(0)

    def _target(self, seconds: float) -> float:
        if seconds < 0:
            raise ValueError(f"time does not go back by {-seconds:g} s; jump() moves wall time alone")
        return self._monotonic + seconds

    def _move_to(self, moment: float) -> None:
        self._wall += moment - self._monotonic
        self._monotonic = moment

    def _wake_first(self) -> None:
        _, _, woken = heapq.heappop(self._sleepers)
        if not woken.done():  # else its task was cancelled
            woken.set_result(None)


async def _settle() -> None:
    for _ in range(_ROUNDS):
        await asyncio.sleep(0)
