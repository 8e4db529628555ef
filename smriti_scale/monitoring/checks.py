"""Asking dependencies whether they work: under a deadline, once for all who ask at the same time, kept for a second.

So probes cannot hammer a database that is in trouble already, whoever sends them and however often. A check that hangs
is given up at its deadline, and not begun again before it has ended: one that ignores its cancellation costs one task,
not one for each probe.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from smriti_scale.clock import SYSTEM_CLOCK, Clock
from smriti_scale.errors import ConfigurationError

_log = logging.getLogger("smriti_scale.monitoring")

Status = Literal["ready", "degraded", "unready"]


@dataclass(frozen=True, slots=True)
class Degraded:
    """What a probe returns where the dependency works in part.

    Args:
        state: what is left of it, in a word or two, such as `"read-only"`; it is shown to whoever asks.
    """

    state: str


@dataclass(frozen=True, slots=True)
class Check:
    """One dependency.

    Args:
        name: as it appears in the answer.
        probe: awaited; raising means failed, a `Degraded` that it works in part, anything else that it is well.
        required: whether the instance is of no use without it.
        timeout: seconds the probe may take.
    """

    name: str
    probe: Callable[[], Awaitable[object]]
    required: bool = True
    timeout: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.timeout <= 60:
            raise ConfigurationError(f"a check's timeout is above 0 and at most 60 seconds, not {self.timeout!r}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one check went: `state` is `"ok"`, `"failed"`, `"timed out"`, or what `Degraded` said."""

    name: str
    state: str
    ok: bool
    required: bool
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """As health answers show it."""
        milliseconds = round(self.seconds * 1000, 1)
        return {"ok": self.ok, "state": self.state, "required": self.required, "ms": milliseconds}


class Checks:
    """Several checks, asked together.

    Args:
        checks: the dependencies.
        keep: seconds for which a result is handed out again.
        clock: the source of time.
    """

    def __init__(self, checks: Sequence[Check], *, keep: float = 1.0, clock: Clock = SYSTEM_CLOCK) -> None:
        if keep < 0:
            raise ConfigurationError(f"results are kept for 0 seconds or more, not {keep!r}")
        names = [check.name for check in checks]
        if len(set(names)) != len(names):
            raise ConfigurationError(f"each check needs a name of its own, not {names!r}")
        self._shared = [_Shared(check, keep, clock) for check in checks]

    async def outcomes(self) -> list[Outcome]:
        """How each is now, or was at most `keep` seconds ago, in the order given."""
        return list(await asyncio.gather(*(shared.outcome() for shared in self._shared)))

    @staticmethod
    def status(outcomes: Sequence[Outcome]) -> Status:
        """What follows for the instance: `unready` where a required dependency failed, else `degraded` or `ready`."""
        if any(one.required and not one.ok for one in outcomes):
            return "unready"
        return "ready" if all(one.state == "ok" for one in outcomes) else "degraded"


class _Shared:
    """One check, run once at a time."""

    __slots__ = ("_check", "_clock", "_keep", "_known", "_probing", "_running", "_until")

    def __init__(self, check: Check, keep: float, clock: Clock) -> None:
        self._check = check
        self._keep = keep
        self._clock = clock
        self._known: Outcome | None = None
        self._until = 0.0
        self._running: asyncio.Task[Outcome] | None = None
        self._probing: asyncio.Task[object] | None = None

    async def outcome(self) -> Outcome:
        if self._known is not None and self._clock.monotonic() < self._until:
            return self._known
        running = self._running
        if running is None or running.done() or running.get_loop() is not asyncio.get_running_loop():
            running = self._running = asyncio.create_task(self._run())
        # Shielded: whoever asks may go away, the others still want to know.
        return await asyncio.shield(running)

    async def _run(self) -> Outcome:
        check, started = self._check, self._clock.monotonic()
        state = await self._probed()
        ended = self._clock.monotonic()
        ok = state not in ("failed", "timed out")
        self._known = Outcome(check.name, state, ok, check.required, ended - started)
        self._until = ended + self._keep
        return self._known

    async def _probed(self) -> str:
        check, probing = self._check, self._probing
        if probing is not None and not probing.done() and probing.get_loop() is asyncio.get_running_loop():
            return "timed out"  # the last one was given up, and has not even taken note of it
        probing = self._probing = asyncio.ensure_future(_awaited(check.probe))
        await asyncio.wait({probing}, timeout=check.timeout)
        if not probing.done():
            probing.cancel()
            probing.add_done_callback(_seen)
            _log.warning("%s did not answer within %g s", check.name, check.timeout, extra={"check": check.name})
            return "timed out"
        try:
            found = probing.result()
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - it is not well
            # Its kind only: the text of a driver's error may hold a URI with its password.
            _log.warning("%s is not ready: %s", check.name, type(error).__name__, extra={"check": check.name})
            return "failed"
        return found.state if isinstance(found, Degraded) else "ok"


async def _awaited(probe: Callable[[], Awaitable[object]]) -> object:
    return await probe()


def _seen(task: asyncio.Task[object]) -> None:
    if not task.cancelled():
        task.exception()  # so that asyncio does not complain of it
