"""Leaving a load balancer before leaving: readiness turns false first, and the server goes on serving for a while.

At SIGTERM a server stops accepting at once, while load balancers learn of it only by their next probes: what they send
in between is refused. So the signal is kept back here. From its arrival `/readyz` answers 503, requests are served as
ever, and `delay` seconds later the server gets its signal and stops as it always does.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from smriti_scale.errors import ConfigurationError

_log = logging.getLogger("smriti_scale.monitoring")

Handler = Callable[[int, FrameType | None], Any]


class Draining:
    """Whether this instance is about to leave; give it to `health_routes` and enter `watching` in the lifespan.

    It keeps SIGTERM back from servers that take it by `signal.signal`: uvicorn, also under gunicorn and with
    `--workers`. `smriti-scale serve --drain-delay` does the same for all of its workers by way of `file`. Other servers
    get their signal at once: there let the platform wait before it (a `preStop` hook that creates `file` and sleeps).
    A second SIGTERM, and Ctrl-C, are never kept back, but end readiness
    too: whatever streams on and on can look at this object and stop, so that the server need not wait for it.

    Args:
        delay: seconds from SIGTERM until the server gets it. Take two or three of the load balancer's probes, and
            leave the platform's grace period longer than this and the longest request together. 0 keeps nothing back.
        file: a path that means "draining" as soon as it exists.

    Raises:
        ConfigurationError: `delay` is negative, or more than an hour.
    """

    def __init__(self, *, delay: float = 0.0, file: str | os.PathLike[str] | None = None) -> None:
        if not 0 <= delay <= 3600:
            raise ConfigurationError(f"the drain delay is 0 to 3600 seconds, not {delay!r}")
        self.delay = delay
        self._file = file
        self._begun = False

    def __call__(self) -> bool:
        """Whether readiness is over."""
        return self._begun or (self._file is not None and os.path.exists(self._file))  # noqa: PTH110 - 1 µs, not 8

    def begin(self) -> None:
        """Readiness is over from now on."""
        if not self._begun:
            self._begun = True
            _log.info("draining: not ready from now on", extra={"delay": self.delay})

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside the block, SIGTERM and Ctrl-C end readiness at once; SIGTERM reaches the server `delay` seconds later.

        At the block's end readiness is over in any case.
        """
        self._begun = False
        watches = dict(self._watches())
        for number, watch in watches.items():
            signal.signal(number, watch)
        try:
            yield
        finally:
            self._begun = True
            for number, watch in watches.items():
                server = watch.server
                if signal.getsignal(number) is watch:
                    signal.signal(number, server)

    def _watches(self) -> Iterator[tuple[signal.Signals, _Watch]]:
        if threading.current_thread() is not threading.main_thread():
            return
        loop = asyncio.get_running_loop()
        for number, delay in ((signal.SIGTERM, self.delay), (signal.SIGINT, 0.0)):
            found = signal.getsignal(number)
            # A handler of the event loop is no Python function that one could call: asyncio's own is a placeholder.
            ours = callable(found) and getattr(found, "__self__", None) is not loop
            if ours and getattr(found, "__module__", "") not in ("asyncio.unix_events", "asyncio.runners", "_signal"):
                server: Any = found
                yield number, _Watch(self, server, loop, delay)


class _Watch:
    """A signal handler: the first signal may wait, the second does not."""

    def __init__(self, draining: Draining, server: Handler, loop: asyncio.AbstractEventLoop, delay: float) -> None:
        self.server = server
        self._draining = draining
        self._loop = loop
        self._delay = delay
        self._heard = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        first, self._heard = not self._heard, True
        if first:
            # Not here: what the signal has interrupted may hold a lock that logging needs.
            self._loop.call_soon_threadsafe(self._begin, number)
        if not first or self._delay == 0:
            self.server(number, frame)

    def _begin(self, number: int) -> None:
        self._draining.begin()
        if self._delay > 0:
            self._loop.call_later(self._delay, self.server, number, None)
