"""A circuit breaker with a deadline: what stands between a primitive and a server that may be down.

Closed, every call passes under a deadline. After `threshold` failures in a row it opens: calls are refused at once
(`CircuitOpen`), so a dead server costs nothing. After `reset_after` seconds one trial call passes; it closes the
breaker or opens it again, each time for longer, up to `reset_max`. (Nygard, *Release It!*, ch. 5.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Literal, TypeVar

from smriti_scale.clock import SYSTEM_CLOCK, Clock
from smriti_scale.errors import CircuitOpen, ConfigurationError, DeadlineExceeded
from smriti_scale.events import BreakerChanged, Events

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
        events: where `BreakerChanged` goes.
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
        self._threshold = threshold
        self._reset_after = reset_after
        self._reset_max = reset_max
        self._now = clock.monotonic
        self._events = events
        self._state: State = "closed"
        self._failed = 0
        self._wait = reset_after
        self._trial_at = 0.0

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
        deadline = self.timeout if timeout is None else timeout
        scope = asyncio.timeout(deadline)
        try:
            async with scope:
                result = await operation
        except TimeoutError as error:
            if not scope.expired():
                self.failed(error)
                raise
            late = DeadlineExceeded(self.name, timeout=deadline)
            self.failed(late)
            raise late from None
        except self.failures as error:
            self.failed(error)
            raise
        self.succeeded()
        return result

    def _move(self, state: State, *, reason: str = "") -> None:
        if state == self._state:
            return
        self._state = state
        if self._events:
            self._events.emit(BreakerChanged(breaker=self.name, state=state, reason=reason))
