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
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from smriti_scale.errors import ConfigurationError
from smriti_scale.ratelimit.rules import MICROSECONDS, Check, Decision, Outcome

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

    size: int = 50
    share: float = 0.05
    ttl: float = 1.0

    def __post_init__(self) -> None:
        if self.size < 2 or not 0 < self.share <= 1 or self.ttl <= 0:
            raise ConfigurationError(f"{self} leases nothing: need size >= 2, 0 < share <= 1 and ttl > 0")


class _Lease:
    __slots__ = ("asked_until", "check", "ends", "remaining", "reset_at", "seen", "stamp", "units")

    def __init__(self, check: Check, seen: float) -> None:
        self.check = check
        self.seen = seen
        self.units = 0
        self.asked_until = 0.0
        """Until when somebody's asking for a batch is under way: those who come meanwhile ask for themselves alone."""
        self.ends = 0.0
        self.stamp: str | int | float = 0
        self.remaining = 0
        self.reset_at = 0


class Leases:
    """The units that this instance holds.

    Args:
        policy: how much to take.
        monotonic: the time that leases age by.
        now: wall time in microseconds, for decisions.
        give_back: returns units to Redis.
    """

    def __init__(
        self,
        policy: LeasePolicy,
        *,
        monotonic: Callable[[], float],
        now: Callable[[], int],
        give_back: Callable[[Iterable[Part]], Awaitable[None]],
    ) -> None:
        self._policy = policy
        self._monotonic = monotonic
        self._now = now
        self._give_back = give_back
        self._held: dict[tuple[str, str], _Lease] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._returning: set[asyncio.Task[None]] = set()

    def spend(self, checks: Sequence[Check]) -> Decision | None:
        """The decision from units in hand; None if some check has not enough."""
        held = self._held
        moment = self._monotonic()
        leases = []
        for check in checks:
            lease = held.get((check.identity, check.field))
            if lease is None or lease.units < check.cost or lease.ends <= moment:
                return None
            leases.append(lease)
        outcomes = []
        for check, lease in zip(checks, leases, strict=True):
            lease.units -= check.cost
            lease.seen = moment
            outcomes.append(Outcome(check.cost, lease.remaining + lease.units, lease.reset_at, 0, lease.stamp))
        return Decision(True, "lease", checks, outcomes, self._now())

    def wants(self, checks: Sequence[Check]) -> list[int]:
        """Units to ask for: a lease for keys that were asked about a moment ago, the cost alone for others.

        One batch at a time is asked for: a burst in which everybody did would use the limit up with what they spare.
        """
        moment = self._monotonic()
        wanted = []
        for check in checks:
            key = (check.identity, check.field)
            lease = self._held.get(key)
            batch = min(self._policy.size, int(check.rule.burst * self._policy.share))
            if lease is None:
                if len(self._held) < _KEPT:
                    self._held[key] = _Lease(check, moment)
                    self._schedule()
                batch = 0
            elif moment - lease.seen > self._policy.ttl or moment < lease.asked_until:
                batch = 0
            elif batch > check.cost:
                lease.asked_until = moment + self._policy.ttl
            if lease is not None:
                lease.seen = moment
            wanted.append(max(check.cost, batch))
        return wanted

    def keep(self, decision: Decision) -> None:
        """Hold what was granted beyond the costs; what is held counts as remaining."""
        if not decision.allowed:
            return
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
            lease.asked_until = 0.0
            if lease.units and (lease.stamp != outcome.stamp or lease.ends <= moment):
                self._send_back([(lease.check, lease.units, lease.stamp)])
                lease.units = 0
            lease.units += spare
            lease.stamp = outcome.stamp
            lease.remaining = outcome.remaining
            lease.reset_at = outcome.reset_at
            lease.ends = moment + self._policy.ttl
            if check.rule.strategy == "fixed-window":
                lease.ends = min(lease.ends, moment + (outcome.reset_at - decision.now) / MICROSECONDS)
            outcomes[index] = outcome._replace(remaining=outcome.remaining + lease.units)
        decision.outcomes = outcomes

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
        await asyncio.gather(*self._returning, self._returned(parts))

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
        if parts:
            self._send_back(parts)
        if self._held:
            self._schedule()

    def _send_back(self, parts: list[Part]) -> None:
        task = asyncio.get_running_loop().create_task(self._returned(parts))
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)

    async def _returned(self, parts: list[Part]) -> None:
        if not parts:
            return
        try:
            async with asyncio.timeout(1.0):
                await self._give_back(parts)
        except Exception as error:  # noqa: BLE001 - units that cannot be returned come back with their window
            with contextlib.suppress(Exception):
                _log.info("leased units could not be returned", extra={"error": repr(error), "units": len(parts)})
