"""Leases: an instance takes a few units at once from Redis and spends them in memory.

For hot keys. A unit that is leased counts in Redis from the moment it is taken, so a limit is never exceeded by
leasing as such; what changes is when units are spent:

- Fixed window: a lease ends with its window, so each window admits at most the limit.
- Other strategies: units may be spent up to `ttl` later than they were counted, so any window admits at most the limit
  plus what is on lease: instances × lease size.
- Units on lease are missing elsewhere: an instance may refuse while others hold up to that many. What is not spent
  goes back when the lease ends (`ttl`) or the limiter closes; a killed instance's come back with the window.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from smriti_scale.errors import ConfigurationError
from smriti_scale.ratelimit.checked import Checked, Meter
from smriti_scale.ratelimit.rules import MICROSECONDS, Check, Decision, Outcome, new_tuple

_log = logging.getLogger("smriti_scale.ratelimit")
Part: TypeAlias = tuple[Check, int, "str | int | float"]
_KEPT = 16_384


@dataclass(frozen=True, slots=True)
class LeasePolicy:
    """How much an instance takes at once.

    Args:
        size: units at most.
        share: of the limit's amount at most; a limit of 100 with 0.05 leases 5 units at a time.
        ttl: seconds after which unspent units go back.
    """

    size: int = 200
    share: float = 0.05
    ttl: float = 1.0

    def __post_init__(self) -> None:
        if self.size < 2 or not 0 < self.share <= 1 or self.ttl <= 0:
            raise ConfigurationError(f"{self} leases nothing: need size >= 2, 0 < share <= 1 and ttl > 0")


class _Lease:
    __slots__ = ("asking", "check", "ends", "low", "remaining", "reset_at", "seen", "stamp", "units")

    def __init__(self, check: Check, seen: float) -> None:
        self.check = check
        self.seen = seen
        self.units = 0
        self.low = -1
        """At so many units, more are asked for while the rest are spent."""
        self.asking: Asking | None = None
        """The question for a batch that is under way: one at a time."""
        self.ends = 0.0
        self.stamp: str | int | float = 0
        self.remaining = 0
        self.reset_at = 0


class Asking:
    """What one request asks of Redis: its costs, and batches for keys that are hot.

    Attributes:
        wants: units to ask for, for each check.
        failed: whether Redis did not answer.
    """

    __slots__ = ("_answered", "_leases", "_spare", "failed", "wants")

    def __init__(self) -> None:
        self.wants: list[int] = []
        self.failed = False
        self._leases: list[_Lease] = []
        self._spare = 0
        self._answered: asyncio.Event | None = None

    def want(self, lease: _Lease, cost: int, batch: int) -> None:
        """Ask for a batch, which those who come meanwhile may wait for."""
        self._spare = min(self._spare, batch - cost) if self._leases else batch - cost
        self._leases.append(lease)
        lease.asking = self

    def promise(self, cost: int) -> bool:
        """Whether the batch will do for one more that waits for it."""
        if self._spare < cost:
            return False
        self._spare -= cost
        return True

    async def answered(self) -> None:
        """Wait until whoever asks has its answer, or has given up."""
        if self._answered is None:
            self._answered = asyncio.Event()
        await self._answered.wait()

    def close(self) -> None:
        """The question is answered, or given up."""
        for lease in self._leases:
            lease.asking = None
        if self._answered is not None:
            self._answered.set()


class Leases:
    """The units that this instance holds.

    Args:
        policy: how much to take.
        monotonic: the time that leases age by.
        now: wall time in microseconds, for decisions.
        give_back: returns units to Redis.
        fill: puts a question to Redis, keeps what comes, and closes the question.
    """

    def __init__(
        self,
        policy: LeasePolicy,
        *,
        monotonic: Callable[[], float],
        now: Callable[[], int],
        give_back: Callable[[Iterable[Part]], Awaitable[None]],
        fill: Callable[[Asking, Sequence[Check]], Coroutine[Any, Any, object]],
    ) -> None:
        self._policy = policy
        self._monotonic = monotonic
        self._now = now
        self._give_back = give_back
        self._fill = fill
        self._held: dict[tuple[str, str], _Lease] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    def spend(self, checks: Sequence[Check]) -> Decision | None:
        """The decision from units in hand; None if some check has not enough."""
        moment = self._monotonic()
        leases = []
        for check in checks:
            lease = self._held.get((check.identity, check.field))
            if lease is None or lease.units < check.cost or lease.ends <= moment:
                return None
            leases.append(lease)
        outcomes = []
        for check, lease in zip(checks, leases, strict=True):
            lease.units -= check.cost
            lease.seen = moment
            if lease.units <= lease.low and lease.asking is None:
                self._top_up(lease)
            outcomes.append(Outcome(check.cost, lease.remaining + lease.units, lease.reset_at, 0, lease.stamp))
        return Decision(True, "lease", checks, outcomes, self._now())

    def meter(self, checks: Sequence[Check]) -> Meter:
        """What spends for these checks, again and again: as `spend` does, in fewer steps for a single limit."""
        if len(checks) != 1:
            return partial(self.spend, checks)
        cost, key = checks[0].cost, (checks[0].identity, checks[0].field)
        held, monotonic, now = self._held, self._monotonic, self._now

        def spend() -> Checked | None:
            moment = monotonic()
            lease = held.get(key)
            if lease is None or lease.units < cost or lease.ends <= moment:
                return None
            lease.units -= cost
            lease.seen = moment
            if lease.units <= lease.low and lease.asking is None:
                self._top_up(lease)
            return new_tuple(Checked, (checks, lease.remaining + lease.units, lease.reset_at, now(), "lease"))

        return spend

    def belongs_here(self) -> bool:
        """Whether the units are this event loop's; synchronous code may decide on another, without leases."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop and (self._loop is None or self._loop.is_closed()):
            self._loop = loop
            for lease in self._held.values():
                lease.asking = None  # what a loop that is closed asked for does not come
        return self._loop is loop

    def coming(self, checks: Sequence[Check]) -> Asking | None:
        """A question under way whose batch will do for these as well: to be waited for, then `spend` again."""
        for check in checks:
            lease = self._held.get((check.identity, check.field))
            if lease is not None and lease.asking is not None:
                return lease.asking if lease.asking.promise(check.cost) else None
        return None

    def ask(self, checks: Sequence[Check], *, alone: bool = False) -> Asking:
        """What to ask for: a batch for keys that were asked about a moment ago, the cost alone for others.

        One batch at a time is asked for: a burst in which everybody did would use the limit up with what they spare.

        Args:
            checks: of the request.
            alone: ask for no batch.
        """
        moment = self._monotonic()
        asking = Asking()
        for check in checks:
            key = (check.identity, check.field)
            lease = self._held.get(key)
            batch = 0
            if lease is None:
                if len(self._held) < _KEPT:
                    self._held[key] = _Lease(check, moment)
                    self._schedule()
            else:
                if not alone and lease.asking is None and moment - lease.seen <= self._policy.ttl:
                    batch = self._batch(check)
                    if batch > check.cost:
                        asking.want(lease, check.cost, batch)
                lease.seen = moment
            asking.wants.append(max(check.cost, batch))
        return asking

    def keep(self, decision: Decision) -> Decision:
        """Hold what was granted beyond the costs; in the decision that comes back, what is held counts as remaining."""
        if not decision.allowed:
            return decision
        moment = self._monotonic()
        outcomes = list(decision.outcomes)
        for index, (check, outcome) in enumerate(zip(decision.checks, decision.outcomes, strict=False)):
            lease = self._held.get((check.identity, check.field))
            spare = outcome.granted - check.cost
            if lease is None:
                if spare > 0:
                    self._send_back([(check, spare, outcome.stamp)])
                continue
            if spare <= 0:
                continue
            if lease.units and (lease.stamp != outcome.stamp or lease.ends <= moment):
                self._send_back([(lease.check, lease.units, lease.stamp)])
                lease.units = 0
            if not lease.units:  # else the end of what is in hand is the end of all
                lease.ends = moment + self._policy.ttl
                if check.rule.strategy == "fixed-window":
                    lease.ends = min(lease.ends, moment + (outcome.reset_at - decision.now) / MICROSECONDS)
            lease.units += spare
            lease.stamp = outcome.stamp
            lease.remaining = outcome.remaining
            lease.reset_at = outcome.reset_at
            if check.rule.strategy != "moving-window":  # whose units each go back under a stamp of their own
                lease.low = self._batch(check) // 4
            outcomes[index] = outcome._replace(remaining=outcome.remaining + lease.units)
        return decision._replace(outcomes=outcomes)

    def forget(self, identity: str) -> None:
        """Drop what is held for a caller whose counters are reset."""
        for key in [key for key in self._held if key[0] == identity]:
            del self._held[key]

    def clear(self) -> None:
        """Drop everything without returning it."""
        self._held.clear()

    async def aclose(self) -> None:
        """Return all that is held."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        parts = [(lease.check, lease.units, lease.stamp) for lease in self._held.values() if lease.units]
        self._held.clear()
        self._send_back(parts)
        while self._tasks:
            await asyncio.gather(*self._tasks)

    def _schedule(self) -> None:
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(self._policy.ttl, self._swept)

    def _swept(self) -> None:
        """Return what has ended, forget what is cold, and come again while anything is held."""
        self._sweep = None
        moment = self._monotonic()
        parts: list[Part] = []
        for key, lease in list(self._held.items()):
            if lease.units and lease.ends <= moment:
                parts.append((lease.check, lease.units, lease.stamp))
                lease.units = 0
            if not lease.units and moment - lease.seen > self._policy.ttl:
                del self._held[key]
        self._send_back(parts)
        if self._held:
            self._schedule()

    def _batch(self, check: Check) -> int:
        return min(self._policy.size, int(check.rule.burst * self._policy.share))

    def _top_up(self, lease: _Lease) -> None:
        """Ask for what a full batch lacks, so that on a hot key nobody has to wait."""
        if self.belongs_here():
            check = lease.check._replace(cost=0)
            asking = Asking()
            asking.want(lease, 0, self._batch(check) - lease.units)
            asking.wants.append(self._batch(check) - lease.units)
            self._start(self._fill(asking, (check,)))

    def _send_back(self, parts: list[Part]) -> None:
        if parts:
            self._start(self._returned(parts))

    def _start(self, work: Coroutine[Any, Any, object]) -> None:
        # It outlives the request that it was started in.
        task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _returned(self, parts: list[Part]) -> None:
        try:
            async with asyncio.timeout(1.0):
                await self._give_back(parts)
        except Exception as error:  # noqa: BLE001 - units that cannot be returned come back with their window
            with contextlib.suppress(Exception):
                _log.info("leased units could not be returned", extra={"error": repr(error), "units": len(parts)})
