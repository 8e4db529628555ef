"""The only source of time, so that a test can move it by hand.

Everything that waits or ages takes a `Clock`; `smriti_scale.testing` has one that stands still until told.
"""

from __future__ import annotations

import asyncio
import time as _time
from typing import Protocol


class Clock(Protocol):
    """What the library asks of time."""

    def time(self) -> float:
        """Seconds since the epoch (wall time; may jump). For what leaves the process: cookies, cursors, keys."""
        ...

    def monotonic(self) -> float:
        """Seconds since some fixed moment (never jumps back). For ages and deadlines inside the process."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds` of this clock."""
        ...


class SystemClock:
    """The machine's clock. The methods are the built-ins themselves: no frame is added on a hot path."""

    time = staticmethod(_time.time)
    monotonic = staticmethod(_time.monotonic)

    @staticmethod
    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds)


SYSTEM_CLOCK: Clock = SystemClock()
