"""Handing things to an event loop from another thread.

`call_soon_threadsafe` makes a handle, writes to a socket, and has the loop read that socket until it is empty, which is
most of what a small hand-over costs the loop. Where there are eventfds, one read of eight bytes does.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """What other threads leave for one loop. Make it on the loop's thread.

    Args:
        loop: whose it is.
        deliver: called on the loop with each item, in order; must not raise.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, deliver: Callable[[T], object]) -> None:
        self._deliver = deliver
        self._items: collections.deque[T] = collections.deque()
        self._loop = weakref.ref(loop)
        self._fd: int | None = None
        # Other loops have wake-ups of their own, which are not asyncio's.
        if isinstance(loop, asyncio.SelectorEventLoop) and hasattr(os, "eventfd"):
            self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            # Not when the loop ends but when nobody can post any more: the number may be another file's by then.
            weakref.finalize(self, os.close, self._fd).atexit = False
            loop.add_reader(self._fd, self._arrived)

    def post(self, item: T) -> None:
        """Leave an item, from any thread. A loop that is closed has nobody left who waits for it."""
        self._items.append(item)
        if self._fd is not None:
            os.eventfd_write(self._fd, 1)
        elif (loop := self._loop()) is not None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._empty)

    def close(self) -> None:
        """Deliver what is there, and be done; on the loop's thread."""
        loop = self._loop()
        if loop is not None and self._fd is not None:
            loop.remove_reader(self._fd)
        self._empty()

    def _arrived(self) -> None:
        try:
            os.eventfd_read(self._fd)  # type: ignore[arg-type]  # there is one, else nothing calls this
        except BlockingIOError:
            return  # read already
        self._empty()

    def _empty(self) -> None:
        while self._items:
            self._deliver(self._items.popleft())
