"""Where callers stand, by who they are, for those that send no token back: in Redis, for a short time.

Redis being down makes such a caller's reads as fresh as replication is, and nothing else: short deadlines, a breaker.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files
from types import TracebackType
from typing import Self

from redis.exceptions import RedisError

from smriti_scale.breaker import CircuitBreaker
from smriti_scale.clock import SYSTEM_CLOCK, Clock
from smriti_scale.errors import ConfigurationError, ScaleError
from smriti_scale.events import Events
from smriti_scale.mongo.causal_token import CausalToken
from smriti_scale.redis_failures import REDIS_FAILURES
from smriti_scale.redis_link import RedisClient, RedisLink, RedisScript

_UNANSWERED: tuple[type[Exception], ...] = (ScaleError, RedisError, UnicodeDecodeError, *REDIS_FAILURES)
_PUT = RedisScript(files("smriti_scale.mongo").joinpath("position.lua").read_text(encoding="utf-8"))


class PositionStore:
    """Positions by identity.

    Args:
        redis: a URL, or a client or link (which stays the caller's to close).
        namespace: prefix of the keys. Identities themselves are not stored, only their SHA-256.
        ttl: seconds to remember a position.
        timeout: deadline of each call, seconds.
        clock: the source of time.
        events: where `BreakerChanged` goes.
    """

    def __init__(
        self,
        redis: str | RedisClient | RedisLink,
        *,
        namespace: str = "app",
        ttl: float = 60.0,
        timeout: float = 0.1,
        clock: Clock = SYSTEM_CLOCK,
        events: Events | None = None,
    ) -> None:
        if ttl < 1:
            raise ConfigurationError(f"ttl must be a second or more, not {ttl!r}")
        self._owns_link = not isinstance(redis, RedisLink)
        self._link = redis if isinstance(redis, RedisLink) else RedisLink(redis)
        self._timeout = timeout
        self._namespace = namespace
        self._ttl = round(ttl)
        self._breaker = CircuitBreaker(
            "redis (positions)", failures=REDIS_FAILURES, timeout=timeout, clock=clock, events=events
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def get(self, identity: str) -> CausalToken | None:
        """Where this caller stands; None when it is not known, or Redis does not answer."""
        began = self._breaker.began()
        try:
            self._breaker.check()
            found = await self._link.pipe.send("GET", self._key(identity), timeout=self._timeout, again=True)
            self._breaker.succeeded()
            self._breaker.tell(began)
            return CausalToken.decode(found.decode().partition(":")[2]) if found is not None else None
        except _UNANSWERED as error:
            self._noted(error, began)
            return None

    async def put(self, identity: str, token: CausalToken) -> bool:
        """Remember where this caller stands, unless it is known to be further. Returns whether Redis took it."""
        value = f"{token.operation_time:016x}:{token.encode()}"
        began = self._breaker.began()
        try:
            self._breaker.check()
            args: list[str | int] = [value, self._ttl]
            await _PUT.send(self._link.pipe, [self._key(identity)], args, timeout=self._timeout, again=True)
        except _UNANSWERED as error:
            self._noted(error, began)
            return False
        self._breaker.succeeded()
        self._breaker.tell(began)
        return True

    async def aclose(self) -> None:
        """Close the running loop's connection, unless the link was given."""
        if self._owns_link:
            await self._link.aclose()

    def _noted(self, error: Exception, began: float | None) -> None:
        if isinstance(error, REDIS_FAILURES):
            self._breaker.failed(error)
            self._breaker.tell(began, error)

    def _key(self, identity: str) -> str:
        return f"{self._namespace}:position:{hashlib.sha256(identity.encode()).hexdigest()[:32]}"
