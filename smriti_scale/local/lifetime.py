"""Blocking starts and stops, carried out under an event loop without holding it up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def run_blocking(
    work: Callable[[], None], *, interrupt: Callable[[], None] | None = None, undo: Callable[[], None] | None = None
) -> None:
    """Run `work` in a thread and wait for it. A thread cannot be cancelled: when the caller is, the work is awaited
    all the same, so that no server is half started or half stopped, then undone, and the cancellation goes on.

    Args:
        work: what to do.
        interrupt: makes the work end early, with an error; called when the caller is cancelled.
        undo: called in a thread when the caller is cancelled and the work has succeeded nevertheless.
    """
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        if interrupt is not None:
            interrupt()
        await asyncio.wait([running])
        if not running.cancelled() and running.exception() is None and undo is not None:
            await asyncio.to_thread(undo)
        raise
