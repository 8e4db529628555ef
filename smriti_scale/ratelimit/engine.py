"""Decides: by memory or Redis, and by memory while Redis is slow or down. Counts; never knows about HTTP."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from anyio import from_thread, to_thread
from anyio.from_thread import BlockingPortal, start_blocking_portal

from smriti_scale.breaker import CircuitBreaker
from smriti_scale.clock import SYSTEM_CLOCK, Clock
from smriti_scale.errors import DeadlineExceeded
from smriti_scale.ratelimit.checked import Meter
from smriti_scale.ratelimit.identity import IdentityList
from smriti_scale.ratelimit.leases import Asking, LeasePolicy, Leases
from smriti_scale.ratelimit.memory_store import MemoryStore
from smriti_scale.ratelimit.redis_store import RedisStore
from smriti_scale.ratelimit.rules import BanPolicy, Check, Decision, OnFailure, identity_key
from smriti_scale.redis_failures import REDIS_FAILURES

_FAILURES: tuple[type[BaseException], ...] = (DeadlineExceeded, *REDIS_FAILURES)


class Engine:
    """What a `RateLimiter` asks.

    Args:
        memory: counts when there is no Redis, and while it fails.
        redis: counts otherwise.
        breaker: stands before Redis.
        instances: processes that serve the application; while Redis fails each admits its part.
        on_redis_failure: for limits that do not say.
        ban: who is refused too often.
        allowed, denied: identities that are let through or refused unasked.
        leases: how much to take from Redis at once.
        clock: the time that leases age by.
        owns_link: whether closing closes Redis.
    """

    def __init__(
        self,
        memory: MemoryStore,
        redis: RedisStore | None,
        breaker: CircuitBreaker,
        *,
        instances: int,
        on_redis_failure: OnFailure,
        ban: BanPolicy | None,
        allowed: IdentityList,
        denied: IdentityList,
        leases: LeasePolicy | None = None,
        clock: Clock = SYSTEM_CLOCK,
        owns_link: bool = True,
    ) -> None:
        self.memory = memory
        self.redis = redis
        self.breaker = breaker
        self.ban = ban
        self._instances = instances
        self._on_redis_failure = on_redis_failure
        self.allowed = allowed
        self.denied = denied
        self._owns_link = owns_link
        self._portal = _Portal()
        self._leases = None
        if leases is not None and redis is not None:
            self._leases = made = Leases(
                leases,
                monotonic=clock.monotonic,
                now=memory.now,
                give_back=redis.give_back,
                fill=lambda asking, checks: self._fill(made, redis, asking, checks, None, None),
            )
        self.immediate = redis is None or self._leases is not None
        """Whether decisions are made without I/O, at least as a rule."""
        self.metered = ban is None and self.immediate
        """Whether there are meters: where nothing depends on who the client is, and I/O is not the rule."""

    def needs_client(self) -> bool:
        """Whether a decision also depends on who the client is by the limiter's own key function."""
        return self.ban is not None or self.allowed.filled or self.denied.filled

    def meter(self, checks: Sequence[Check]) -> Meter:
        """What decides about the same checks again and again, where `metered`."""
        return self.memory.meter(checks) if self._leases is None else self._leases.meter(checks)

    def decide_now(self, checks: Sequence[Check], client: str | None) -> Decision | None:
        """The decision, if it needs no I/O; else None."""
        if client is not None and (listed := self._listed(checks, client)) is not None:
            return listed
        if not checks and self.ban is None:
            return Decision(True, "allowed", (), (), self.memory.now())
        if self.redis is None:
            if self.ban is None:
                return self.memory.decide(checks)
            return self.memory.decide(checks, ban=self.ban, client=identity_key(client or ""))
        if self._leases is not None:
            return self._leases.spend(checks)
        return None

    async def decide(
        self, checks: Sequence[Check], client: str | None, instead: Callable[[], Sequence[Check]] | None = None
    ) -> Decision:
        """The decision, in one round trip where one is needed. Never fails because Redis does.

        Args:
            checks: what to charge.
            client: who asks, if `needs_client`.
            instead: the checks that replace these while Redis fails, counted in full by this process.
        """
        decision = self.decide_now(checks, client)
        if decision is not None or self.redis is None:
            return decision or self.memory.decide(checks)
        leases = self._leases
        if leases is None or not leases.belongs_here():
            return await self._asked(self.redis, checks, client, instead)
        coming = leases.coming(checks)
        if coming is not None:
            await coming.answered()
            if coming.failed:
                return self._without_redis(checks, identity_key(client or ""), instead)
            decision = leases.spend(checks)
            if decision is not None:
                return decision
        asking = leases.ask(checks, alone=coming is not None)
        decision = await self._fill(leases, self.redis, asking, checks, client, instead)
        if decision.refused is not None and not asking.failed:
            # Units that were on their way to this process are in hand by now.
            return leases.spend(checks) or decision
        return decision

    async def _fill(
        self,
        leases: Leases,
        redis: RedisStore,
        asking: Asking,
        checks: Sequence[Check],
        client: str | None,
        instead: Callable[[], Sequence[Check]] | None,
    ) -> Decision:
        """Ask Redis, and keep what comes beyond the costs."""
        try:
            decision = await self._asked(redis, checks, client, instead, asking.wants)
            asking.failed = decision.source in ("fallback", "unavailable")
            return decision if asking.failed else leases.keep(decision)
        finally:
            asking.close()

    async def _asked(
        self,
        redis: RedisStore,
        checks: Sequence[Check],
        client: str | None,
        instead: Callable[[], Sequence[Check]] | None,
        wants: Sequence[int] | None = None,
    ) -> Decision:
        client_key = identity_key(client or "")
        breaker = self.breaker
        if not breaker.allows():
            return self._without_redis(checks, client_key, instead)
        began = breaker.began()
        try:
            ban = self.ban if client is not None else None
            decision = await redis.decide(checks, wants=wants, ban=ban, client=client_key)
        except _FAILURES as error:
            breaker.failed(error)
            breaker.tell(began, error)
            return self._without_redis(checks, client_key, instead)
        breaker.succeeded()
        breaker.tell(began)
        return decision

    def decide_blocking(
        self, checks: Sequence[Check], client: str | None, instead: Callable[[], Sequence[Check]] | None = None
    ) -> Decision:
        """The decision for code that cannot await.

        In a worker thread (sync routes) the event loop decides meanwhile; on the loop's own thread (slowapi's
        middleware) this blocks it, for the deadline at most.
        """
        # Leases belong to the loop's thread.
        decision = self.decide_now(checks, client) if self._leases is None else None
        if decision is not None:
            return decision
        waited: Decision = self.run_blocking(self.decide, checks, client, instead)
        return waited

    def run_blocking(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a coroutine function from synchronous code."""
        try:
            return from_thread.run(function, *arguments)
        except RuntimeError as error:
            if "worker thread" not in str(error):
                raise
        return self._portal.call(function, *arguments)

    async def forget(self, identity: str) -> None:
        """Forget one caller, by its key."""
        if self._leases is not None:
            self._leases.forget(identity)
        self.memory.reset(identity)
        if self.redis is not None:
            await self.redis.reset(identity)

    async def clear(self) -> None:
        """Forget everybody."""
        if self._leases is not None:
            self._leases.clear()
        self.memory.clear()
        if self.redis is not None:
            await self.redis.clear()

    async def aclose(self) -> None:
        """Return leases and close what was opened."""
        if self._leases is not None:
            await self._leases.aclose()
        if self.redis is not None:
            # The portal's loop has a client of its own, which nobody else can close.
            await to_thread.run_sync(self._portal.close, self.redis.link.aclose)
            if self._owns_link:
                await self.redis.link.aclose()

    def _listed(self, checks: Sequence[Check], client: str) -> Decision | None:
        if self.allowed or self.denied:
            names = {client, *(check.names[-2] for check in checks)}
            if any(name in self.allowed for name in names):
                return Decision(True, "allowed", (), (), self.memory.now())
            if any(name in self.denied for name in names):
                return Decision(False, "denied", checks, (), self.memory.now())
        return None

    def _without_redis(
        self, checks: Sequence[Check], client: str, instead: Callable[[], Sequence[Check]] | None
    ) -> Decision:
        if instead is not None:
            return self.memory.decide(instead(), ban=self.ban, client=client, source="fallback")
        policies = [self.policy(check) for check in checks]
        if any(policy == "deny" and not check.shadow for policy, check in zip(policies, checks, strict=True)):
            return Decision(False, "unavailable", checks, (), self.memory.now(), wait=1.0)
        shared = [
            share(check, self._instances) for policy, check in zip(policies, checks, strict=True) if policy == "memory"
        ]
        return self.memory.decide(shared, ban=self.ban, client=client, source="fallback")

    def policy(self, check: Check) -> OnFailure:
        """What is done for a check while Redis fails."""
        own: OnFailure | None = getattr(check.limit, "on_redis_failure", None)
        return own or self._on_redis_failure


def share(check: Check, instances: int) -> Check:
    """The check with one instance's part of its allowance."""
    if instances == 1:
        return check
    rule = check.rule.shared_among(instances)
    scope = check.field.partition(" ")[2]
    return check._replace(rule=rule, field=f"{rule.key} {scope}", cost=min(check.cost, rule.burst))


class _Portal:
    """An event loop in a thread of its own, started when synchronous code first needs one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._portal: BlockingPortal | None = None
        self._closer: AbstractContextManager[BlockingPortal] | None = None

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        with self._lock:
            if self._portal is None:
                self._closer = start_blocking_portal()
                self._portal = self._closer.__enter__()
        return self._portal.call(function, *arguments)

    def close(self, last: Callable[[], Awaitable[None]]) -> None:
        """End the loop, running `last` in it before."""
        with self._lock:
            portal, closer, self._portal, self._closer = self._portal, self._closer, None, None
        if portal is not None and closer is not None:
            portal.call(last)
            closer.__exit__(None, None, None)
