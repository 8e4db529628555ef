"""One event loop for each worker process, where the bodies of `async def` tasks run.

The loop lives in a thread of its own, so that Celery's time limits, which arrive as signals in the main thread, can
end a body cleanly: it is cancelled, may tidy up, and only then does the process go on. Clients are opened once, by
the application's `lifespan`, and shared by all tasks of the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Generic, TypeAlias, TypeVar

T = TypeVar("T")
Lifespan: TypeAlias = Callable[[], AbstractAsyncContextManager[Any]]

_log = logging.getLogger("smriti_scale.tasks")
_CLEANUP_GRACE = 5.0


class WorkerLoop:
    """Runs coroutines for the threads of one process; starts on first use, and anew in a forked child.

    Args:
        lifespan: makes the async context manager that is entered before the first coroutine and left at shutdown;
            what it yields is `state`.
    """

    def __init__(self, lifespan: Lifespan | None = None) -> None:
        self._lifespan = lifespan
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._stack: AsyncExitStack | None = None
        self._opening = asyncio.Lock()
        self.state: Any = None

    def run(self, body: Coroutine[Any, Any, T]) -> T:
        """Run `body` on the loop and wait for it, in the caller's context.

        If the wait is broken off (a time limit, a shutdown), the body is cancelled and given 5 s to tidy up.
        """
        loop = self._started()
        future = _Outcome[T]()
        context = contextvars.copy_context()
        loop.call_soon_threadsafe(self._begin, body, future, context)
        try:
            future.finished.wait()
        except BaseException:
            loop.call_soon_threadsafe(future.cancel)
            future.finished.wait(_CLEANUP_GRACE)
            raise
        return future.result()

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[Any]:
        """The lifespan on the running loop in place of the worker's own: for eager tests and for the web process."""
        if self._lifespan is None:
            yield None
            return
        async with self._lifespan() as state:
            before, self.state = self.state, state
            try:
                yield state
            finally:
                self.state = before

    def close(self) -> None:
        """Leave the lifespan and stop the loop. A process that never used it has nothing to close."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
            if loop is None or thread is None or self._pid != os.getpid():
                return
            leaving = asyncio.run_coroutine_threadsafe(self._leave(), loop)
            try:
                leaving.result(_CLEANUP_GRACE)
            except Exception:  # noqa: BLE001 - the process ends either way; say why it did not end well
                _log.exception("the tasks' lifespan did not close cleanly")
            loop.call_soon_threadsafe(loop.stop)
            thread.join(_CLEANUP_GRACE)

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._loop is not None and self._pid == os.getpid():
            return self._loop
        with self._lock:
            if self._loop is None or self._pid != os.getpid():  # a fork copies the loop, but not its thread
                self._pid = os.getpid()
                self._stack, self.state = None, None
                self._opening = asyncio.Lock()
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._serve, args=(self._loop,), name="smriti-scale-tasks-loop", daemon=True
                )
                self._thread.start()
            return self._loop

    @staticmethod
    def _serve(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            loop.close()

    def _begin(self, body: Coroutine[Any, Any, T], future: _Outcome[T], context: contextvars.Context) -> None:
        future.task = asyncio.get_running_loop().create_task(self._with_lifespan(body), context=context)
        future.task.add_done_callback(lambda _: future.finished.set())

    async def _with_lifespan(self, body: Coroutine[Any, Any, T]) -> T:
        try:
            await self._enter()
        except BaseException:
            body.close()
            raise
        return await body

    async def _enter(self) -> None:
        if self._stack is not None or self._lifespan is None:
            return
        async with self._opening:
            if self._stack is None:
                stack = AsyncExitStack()
                self.state = await stack.enter_async_context(self._lifespan())
                self._stack = stack

    async def _leave(self) -> None:
        if self._stack is not None:
            await self._stack.aclose()
            self._stack = None
        await asyncio.get_running_loop().shutdown_asyncgens()


class _Outcome(Generic[T]):
    """What the waiting thread and the loop share."""

    def __init__(self) -> None:
        self.finished = threading.Event()
        self.task: asyncio.Task[T]

    def cancel(self) -> None:
        self.task.cancel()

    def result(self) -> T:
        return self.task.result()
