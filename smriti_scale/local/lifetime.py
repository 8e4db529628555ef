"""Blocking starts and stops, carried out under an event loop without holding it up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def run_blocking(work: Callable[[], None], *, undo: Callable[[], None] | None = None) -> None:
    """Run `work` in a thread and wait for it. A thread cannot be cancelled: when the caller is, the work is awaited
    all the same, so that no server is half started or half stopped, then undone, and the cancellation goes on.
    """
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        if undo is not None and running.exception() is None:
            await asyncio.to_thread(undo)
        elif not running.cancelled():
            running.exception()  # seen, so that the loop does not report it as never retrieved
        raise
