"""How late the event loop is: a timer that should fire now fires when whatever blocks the loop has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def watch_loop_lag(observe: Callable[[float], object], *, interval: float = 0.25) -> None:
    """Set a timer again and again and tell how late it came, until cancelled.

    Args:
        observe: gets seconds.
        interval: seconds between timers.
    """
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + interval
        await asyncio.sleep(interval)
        observe(max(0.0, loop.time() - due))
