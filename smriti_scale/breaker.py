"""A circuit breaker with a deadline: what stands between a primitive and a server that may be down.

Closed, every call passes under a deadline. After `threshold` failures in a row it opens: calls are refused at once
(`CircuitOpen`), so a dead server costs nothing. After `reset_after` seconds one trial call passes; it closes the
breaker or opens it again, each time for longer, up to `reset_max`. (Nygard, *Release It!*, ch. 5.)
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from typing import Any, Literal, TypeVar
from weakref import WeakKeyDictionary, ref

from smriti_scale.clock import SYSTEM_CLOCK, Clock
from smriti_scale.errors import CircuitOpen, ConfigurationError, DeadlineExceeded
from smriti_scale.events import BreakerChanged, Events, GuardedCall

T = TypeVar("T")
State = Literal["closed", "open", "half_open"]


class CircuitBreaker:
    """Counts failures and decides who may call.

    Args:
        name: for errors and events.
        failures: the exceptions that count as the server's failure; others pass through and count as an answer.
        threshold: failures in a row that open the breaker.
        reset_after: seconds until the first trial call.
        reset_max: upper bound of that wait, which doubles with each failed trial.
        timeout: deadline of a call made through `call`, seconds.
        clock: the source of time.
        events: where `BreakerChanged`, and `GuardedCall` for each `call`, go.
    """

    def __init__(
        self,
        name: str,
        *,
        failures: tuple[type[BaseException], ...] = (OSError, TimeoutError),
        threshold: int = 1,
        reset_after: float = 1.0,
        reset_max: float = 30.0,
        timeout: float = 0.1,
        clock: Clock = SYSTEM_CLOCK,
        events: Events | None = None,
    ) -> None:
        if threshold < 1:
            raise ConfigurationError(f"threshold must be at least 1, not {threshold}")
        if not 0 < reset_after <= reset_max:
            raise ConfigurationError(f"need 0 < reset_after <= reset_max, not {reset_after} and {reset_max}")
        if timeout <= 0:
            raise ConfigurationError(f"timeout must be positive, not {timeout}")
        self.name = name
        self.failures = failures
        self.timeout = timeout
        self._failures: tuple[type[BaseException], ...] = (TimeoutError, *failures)
        self._threshold = threshold
        self._reset_after = reset_after
        self._reset_max = reset_max
        self._now = clock.monotonic
        self._events = events
        self._state: State = "closed"
        self._failed = 0
        self._wait = reset_after
        self._trial_at = 0.0
        self._watches: WeakKeyDictionary[asyncio.AbstractEventLoop, _Watch] = WeakKeyDictionary()

    @property
    def state(self) -> State:
        """`closed`, `open` or `half_open` (a trial call is under way)."""
        return self._state

    def allows(self) -> bool:
        """Whether a call may go out now. True in the open state makes this caller the one trial."""
        if self._state == "closed":
            return True
        # A trial that never reports back (its task was cancelled) must not hold the breaker open for ever,
        # so a trial that is overdue gives way to the next.
        if self._now() < self._trial_at:
            return False
        self._trial_at = self._now() + max(self._wait, self.timeout)
        self._move("half_open")
        return True

    def check(self) -> None:
        """Like `allows`, but raises.

        Raises:
            CircuitOpen: the call is refused.
        """
        if not self.allows():
            raise CircuitOpen(self.name, retry_after=max(0.0, self._trial_at - self._now()))

    def succeeded(self) -> None:
        """Report an answer from the server."""
        if self._state != "closed":
            self._wait = self._reset_after
            self._move("closed")
        self._failed = 0

    def failed(self, error: BaseException) -> None:
        """Report that the server failed."""
        self._failed += 1
        if self._state == "half_open":
            self._wait = min(self._wait * 2, self._reset_max)
        elif self._state == "open" or self._failed < self._threshold:
            return  # a call that left before the breaker opened tells nothing new
        self._trial_at = self._now() + self._wait
        self._move("open", reason=f"{type(error).__name__}: {error}")

    async def call(self, operation: Awaitable[T], *, timeout: float | None = None) -> T:
        """Await `operation` under the deadline and report how it went.

        Args:
            operation: what to await; closed unawaited when the breaker refuses.
            timeout: deadline in seconds for this call, in place of the breaker's own.

        Raises:
            CircuitOpen: refused; nothing was sent.
            DeadlineExceeded: no answer in time.
        """
        try:
            self.check()
        except CircuitOpen:
            if asyncio.iscoroutine(operation):
                operation.close()
            raise
        began = self.began()
        if timeout is None:
            watch = self._watches.get(loop := asyncio.get_running_loop())
            if watch is None:
                watch = self._watches[loop] = _Watch(loop, self.timeout)
            guarded = watch.within(operation)
        else:
            guarded = _within(operation, timeout)
        try:
            result = await guarded
        except _Late:
            late = DeadlineExceeded(self.name, timeout=self.timeout if timeout is None else timeout)
            self.failed(late)
            self.tell(began, late)
            raise late from None
        except self._failures as error:
            self.failed(error)
            self.tell(began, error)
            raise
        self.succeeded()
        self.tell(began)
        return result

    def began(self) -> float | None:
        """The moment, for `tell`, of a call that is not made through `call`; None when nobody listens."""
        return self._now() if self._events else None

    def tell(self, began: float | None, error: BaseException | None = None) -> None:
        """Emit `GuardedCall` for a call that is over."""
        if began is not None and self._events:
            kind = "" if error is None else type(error).__name__
            self._events.emit(GuardedCall(self.name, self._now() - began, kind))

    def _move(self, state: State, *, reason: str = "") -> None:
        if state == self._state:
            return
        self._state = state
        if self._events:
            self._events.emit(BreakerChanged(breaker=self.name, state=state, reason=reason))


class _Late(Exception):
    """The deadline has passed."""


async def _within(operation: Awaitable[T], timeout: float) -> T:
    scope = asyncio.timeout(timeout)
    try:
        async with scope:
            return await operation
    except TimeoutError:
        if scope.expired():
            raise _Late from None
        raise


class _Watch:
    """One deadline for many calls of one event loop, with one timer.

    `asyncio.timeout` sets and cancels a timer for every call, which costs as much as all else that a call does here.
    Since all calls have the same deadline, they fall due in the order in which they began: one timer, for the oldest,
    is enough. The dance with `cancelling` and `uncancel` is that of `asyncio.timeout`.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout: float) -> None:
        self._loop = ref(loop)
        self._timeout = timeout
        self._calls: deque[_Call] = deque()
        self._armed = False

    async def within(self, operation: Awaitable[T]) -> T:
        loop, task = self._loop(), asyncio.current_task()
        if loop is None or task is None:
            return await _within(operation, self._timeout)
        call = _Call(loop.time() + self._timeout, task)
        self._calls.append(call)
        if not self._armed:
            self._armed = True
            loop.call_at(call.due, self._look)
        cancelling = task.cancelling()
        try:
            return await operation
        except asyncio.CancelledError:
            if call.late and task.uncancel() <= cancelling:
                raise _Late from None
            raise
        finally:
            call.task = None

    def _look(self) -> None:
        """Cancel what is overdue, forget what has ended, and look again when the oldest left falls due."""
        self._armed = False
        loop = self._loop()
        if loop is None:
            return
        calls, now = self._calls, loop.time()
        while calls and (calls[0].task is None or calls[0].due <= now):
            call = calls.popleft()
            if call.task is not None:
                call.late = True
                call.task.cancel()
        if calls:
            self._armed = True
            loop.call_at(calls[0].due, self._look)


class _Call:
    __slots__ = ("due", "late", "task")

    def __init__(self, due: float, task: asyncio.Task[Any]) -> None:
        self.due = due
        self.task: asyncio.Task[Any] | None = task
        self.late = False
