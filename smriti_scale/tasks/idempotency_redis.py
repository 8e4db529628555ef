"""Idempotency keys in Redis: one round trip to begin, one to finish."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from importlib.resources import files
from typing import Any

from smriti_scale.errors import ConfigurationError, DeadlineExceeded
from smriti_scale.redis_link import RedisClient, RedisLink, RedisScript
from smriti_scale.tasks.idempotency import Busy, Claim, Done, Granted

_SCRIPT = RedisScript(files("smriti_scale.tasks").joinpath("idempotency.lua").read_text())


class RedisIdempotency:
    """Keeps keys in Redis.

    Redis forgets what it has not yet written to disk: run it with AOF, and put effects that must never happen twice
    into `MongoIdempotency`.

    Args:
        url: a Redis URL, or a client.
        prefix: what every key begins with.
        timeout: seconds to wait for an answer; then `DeadlineExceeded`, which a task retries.
    """

    def __init__(self, url: str | RedisClient, *, prefix: str = "smriti_scale:once:", timeout: float = 5.0) -> None:
        self._timeout = timeout
        self._link = RedisLink(url)
        self._prefix = prefix

    async def begin(self, key: str, owner: str, *, lease: float) -> Granted | Done | Busy:
        """Take the lease if it is free or ended."""
        state, detail = await self._run(key, "begin", owner, int(lease * 1000))
        if state == 0:
            return Granted()
        if state == 1:
            return Done(detail)
        return Busy(max(0.0, int(detail) / 1000))

    async def renew(self, key: str, owner: str, *, lease: float) -> bool:
        """Prolong the lease; False when it is another's now."""
        return bool((await self._run(key, "renew", owner, int(lease * 1000)))[0])

    async def finish(self, key: str, owner: str, result: bytes, *, ttl: float) -> bool:
        """Mark the key done; False when the lease is another's now."""
        return bool((await self._run(key, "finish", owner, int(ttl * 1000), result))[0])

    async def release(self, key: str, owner: str) -> None:
        """Free the key after a failure."""
        await self._run(key, "release", owner, 0)

    def transaction(self, claim: Claim) -> AbstractAsyncContextManager[Any]:
        """Not with Redis: the effect lies elsewhere."""
        raise ConfigurationError("claim().transaction() needs MongoIdempotency as the store")

    async def aclose(self) -> None:
        """Close the running loop's connection."""
        await self._link.aclose()

    async def _run(self, key: str, verb: str, *args: str | bytes | int) -> Any:
        try:
            async with asyncio.timeout(self._timeout):
                return await _SCRIPT.run(self._link.client, [self._prefix + key], [verb, *args])
        except TimeoutError:
            raise DeadlineExceeded(f"idempotency {verb}", timeout=self._timeout) from None
