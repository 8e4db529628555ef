"""Bringing notices to one channel: in order, at a bounded rate, tried again, never waited for by anyone else."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, runtime_checkable

from smriti_scale.clock import Clock
from smriti_scale.errors import AlertNotDelivered
from smriti_scale.monitoring.alert_state import Notice

_log = logging.getLogger("smriti_scale.monitoring")

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0


@runtime_checkable
class Channel(Protocol):
    """Where notices go."""

    @property
    def name(self) -> str:
        """For logs and metrics; no secrets."""
        ...

    async def send(self, notice: Notice) -> None:
        """Deliver one notice, without blocking the loop.

        Raises:
            AlertNotDelivered: with `permanent=True` where trying again cannot help. Anything else is tried again.
        """
        ...


class Delivery:
    """The queue of one channel, and the task that empties it.

    Args:
        channel: where to.
        per_hour: new alerts, escalations and reminders an hour; pages and tickets are counted apart, so that no flood
            of tickets keeps back a page. What eases or ends an alert goes to whoever was told of it.
        queue_size: notices that may wait; more are lost, and logged.
        attempts: tries for each notice.
        timeout: seconds for each try.
        clock: the source of time.
        count: called with the outcome of each notice: `sent`, `failed`, `limited` or `lost`.
    """

    def __init__(
        self,
        channel: Channel,
        *,
        per_hour: int,
        queue_size: int,
        attempts: int,
        timeout: float,
        clock: Clock,
        count: Callable[[str], None],
    ) -> None:
        self.channel = channel
        self._per_hour = per_hour
        self._queue_size = queue_size
        self._attempts = attempts
        self._timeout = timeout
        self._clock = clock
        self._count = count
        self._queue: deque[Notice] = deque()
        self._under_way = 0
        self._sent_at: dict[str, deque[float]] = {"page": deque(), "ticket": deque()}
        self._told: set[str] = set()
        self._held_back = 0
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Notices not yet delivered or given up."""
        return len(self._queue) + self._under_way

    def offer(self, notice: Notice) -> None:
        """Take a notice, or not: rate limit, full queue. Never waits."""
        key = notice.alert.key
        if notice.kind in ("resolved", "eased", "reminder") and key not in self._told:
            return  # this channel never heard of it
        if notice.kind not in ("resolved", "eased"):
            if self._over_rate(notice.alert.severity):
                self._held_back += 1
                self._refuse("limited", notice)
                return
            self._told.add(key)
        if notice.kind == "resolved":
            self._told.discard(key)
        if len(self._queue) >= self._queue_size:
            self._refuse("lost", notice)
            return
        self._queue.append(replace(notice, held_back=self._held_back))
        self._held_back = 0
        self._wake.set()

    def begin(self) -> None:
        """To be called before `run`, on its loop."""
        self._wake, self._closing = asyncio.Event(), asyncio.Event()
        self._under_way = 0

    async def run(self) -> None:
        """Deliver until `finish`."""
        while True:
            while self._queue:
                self._under_way = 1  # stays so when cancelled: then it is undelivered
                await self._deliver(self._queue.popleft())
                self._under_way = 0
            if self._closing.is_set():
                return
            self._wake.clear()
            await self._wake.wait()

    def finish(self) -> None:
        """`run` is to deliver what is left, without pauses between tries, and to return."""
        self._closing.set()
        self._wake.set()

    async def _deliver(self, notice: Notice) -> None:
        pause = _FIRST_PAUSE
        for attempt in range(1, self._attempts + 1):
            try:
                async with asyncio.timeout(self._timeout):
                    await self.channel.send(notice)
            except Exception as error:  # noqa: BLE001 - whatever a channel raises, the others go on
                # Of foreign errors the kind alone: their text may hold an address with its password.
                reason = str(error) if isinstance(error, AlertNotDelivered) else type(error).__name__
                if attempt == self._attempts or (isinstance(error, AlertNotDelivered) and error.permanent):
                    self._told.discard(notice.alert.key)
                    self._refuse("failed", notice, reason)
                    return
                asked_for = error.retry_after if isinstance(error, AlertNotDelivered) else None
                await self._pause(min(_LONGEST_PAUSE, asked_for or random.uniform(pause / 2, pause)))
                pause = min(_LONGEST_PAUSE, pause * 2)
            else:
                self._count("sent")
                return

    async def _pause(self, seconds: float) -> None:
        if self._closing.is_set():
            return
        waits = [asyncio.ensure_future(self._clock.sleep(seconds)), asyncio.ensure_future(self._closing.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*waits, return_exceptions=True)

    def _over_rate(self, severity: str) -> bool:
        sent, now = self._sent_at[severity], self._clock.monotonic()
        while sent and now - sent[0] >= 3_600:
            sent.popleft()
        if len(sent) >= self._per_hour:
            return True
        sent.append(now)
        return False

    def _refuse(self, outcome: str, notice: Notice, reason: str = "") -> None:
        self._count(outcome)
        why = {"limited": "too many in an hour", "lost": "too many wait", "failed": reason}[outcome]
        _log.error(
            "an alert did not go to %s (%s): %s %s",
            self.channel.name, why, notice.kind, notice.alert.key,
            extra={"channel": self.channel.name, "alert": notice.alert.key, "outcome": outcome},
        )  # fmt: skip
