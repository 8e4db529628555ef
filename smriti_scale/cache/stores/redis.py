"""The Redis tier: names of keys, atomic steps as scripts, and what it means for Redis to be in trouble.

| key | holds |
| --- | --- |
| `ns:version:e:{key}` | an entry (`wire.py`) |
| `ns:version:l:{key}` | the lease of whoever is loading it |
| `ns:version:p:{key}` | causal positions of its recent invalidations |
| `ns:version:t:{tag}` | a tag's version |
| `ns:version:q:{tag}` | causal positions of the tag's recent invalidations |

The braces are Redis Cluster's hash tags: the keys of one entry, or of one tag, are always together.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal
from urllib.parse import quote

from redis.exceptions import NoScriptError

from smriti_scale.breaker import CircuitBreaker
from smriti_scale.cache.keys import EVERYTHING
from smriti_scale.clock import SYSTEM_CLOCK
from smriti_scale.events import Events, GuardedCall
from smriti_scale.redis_failures import REDIS_ERRORS, REDIS_FAILURES
from smriti_scale.redis_link import RedisLink, RedisScript
from smriti_scale.redis_pipe import Arg, Transport

_PING_TIMEOUT = 2.0
_SHARE = 0.95  # of the deadline; the rest is for the caller to go on without Redis within it
_TAG_LIFETIME = 7 * 86_400.0


def _script(name: str) -> RedisScript:
    return RedisScript(resources.files("smriti_scale.cache.stores").joinpath(f"{name}.lua").read_text())


_BEGIN, _FINISH, _RENEW = _script("begin"), _script("finish"), _script("renew")
_INVALIDATE, _INVALIDATE_TAG, _TAG = _script("invalidate"), _script("invalidate_tag"), _script("tag")


_Step = tuple[RedisScript, tuple[str, ...], tuple[Arg, ...]]


class RedisUnavailable(Exception):
    """Redis cannot be asked now. Never leaves the cache: every operation has an answer without Redis."""


@dataclass(frozen=True, slots=True)
class Grant:
    """The answer to asking for a lease."""

    won: bool
    raw: bytes | None
    lease_left: float
    positions: tuple[str, ...]
    at: int
    """Microseconds of Redis's clock."""


@dataclass(frozen=True, slots=True)
class TagState:
    """A tag's version, and the causal positions that a load for it must not read before."""

    version: bytes
    positions: tuple[str, ...]
    made: bool

    @property
    def at(self) -> int:
        """Microseconds of Redis's clock at which this version was made."""
        return int(self.version.partition(b"-")[0])


class RedisStore:
    """Entries, leases and tags in Redis. Belongs to one event loop.

    Args:
        link: where Redis is.
        prefix: `namespace:version:`.
        timeout: deadline of every operation, in seconds.
        lease: seconds that a lease lasts unless renewed.
        causal_window: seconds that an invalidation's causal position is kept.
        events: where changes of the circuit breaker, and how long each call took, are told.
        name: of the cache, for the circuit breaker.
    """

    def __init__(
        self,
        link: RedisLink,
        *,
        prefix: str,
        timeout: float,
        lease: float,
        causal_window: float,
        events: Events,
        name: str,
    ) -> None:
        self._prefix = prefix
        self._lease_ms = max(1, round(lease * 1000))
        self._window_ms = max(1, round(causal_window * 1000))
        self.channel = f"{prefix}changes"
        # A connection of its own: an answer here may be megabytes, and whoever waited behind it would miss a deadline.
        self._transport: Transport = link.open_pipe(timeout=timeout * _SHARE, on_lost=self._lost)
        self.breaker = CircuitBreaker(
            f"cache {name}", failures=REDIS_FAILURES, timeout=timeout, reset_after=0.2, reset_max=2.0, events=events
        )
        self._events = events
        self._now = SYSTEM_CLOCK.monotonic
        self.on_trouble: Callable[[], None] = lambda: None
        self._everything = self._key("t", EVERYTHING)

    @property
    def up(self) -> bool:
        """Whether Redis answered last time it was asked."""
        return self.breaker.state == "closed"

    # --- reading

    async def read(
        self, keys: Sequence[str], tags: Sequence[str]
    ) -> tuple[list[bytes | None], dict[str, bytes | None]]:
        """The entries of some keys and the versions of some tags (and of everything), in one round trip."""
        names = [self._key("e", key) for key in keys]
        names.append(self._everything)
        names += [self._key("t", tag) for tag in tags]
        if not self.up:
            raise RedisUnavailable
        began = self._now() if self._events else None
        try:
            found = await self._transport.mget(names)
        except REDIS_ERRORS as error:
            self._tell(began, error)
            raise self._trouble(error) from None
        if began is not None:
            self._tell(began)
        count = len(keys)
        versions = {EVERYTHING: found[count]}
        if tags:
            versions.update(zip(tags, found[count + 1 :], strict=True))
        return found[:count], versions

    async def versions(self, tags: Sequence[str]) -> dict[str, bytes | None]:
        """The versions of some tags."""
        return (await self.read((), tags))[1]

    # --- loading

    async def begin(self, key: str, *, token: str, mode: Literal["wait", "try", "force"]) -> Grant:
        """Ask for permission to load a key."""
        won, raw, left, positions, at = await self._run(_BEGIN, self._entry_keys(key), (token, self._lease_ms, mode))
        return Grant(bool(won), raw, max(0, left) / 1000, tuple(map(_text, positions)), at)

    async def tags(self, tags: Iterable[str], *, keep: float) -> dict[str, TagState]:
        """The states of some tags and of everything; versions are kept for at least `keep` seconds."""
        names = [EVERYTHING, *tags]
        keep_ms = round(max(keep, 86_400) * 1000)
        answers = await asyncio.gather(
            *(self._run(_TAG, self._tag_keys(tag), (secrets.token_hex(8), keep_ms)) for tag in names)
        )
        return {
            tag: TagState(version, tuple(map(_text, positions)), bool(made))
            for tag, (version, positions, made) in zip(names, answers, strict=True)
        }

    async def renew(self, key: str, *, token: str) -> bool:
        """Keep the lease; False when it is lost."""
        return bool(await self._run(_RENEW, (self._key("l", key),), (token, self._lease_ms)))

    async def finish(self, key: str, *, token: str, entry: bytes, lifetime: float, message: bytes) -> bool:
        """Store what was loaded (`b""`: nothing) and give the lease back; False when an invalidation took it."""
        args = (token, entry, _ms(lifetime), self.channel, message)
        return bool(await self._run(_FINISH, self._entry_keys(key)[:2], args))

    # --- changing

    async def invalidate(
        self, keys: Sequence[str], tags: Sequence[str], *, position: str | None, message: bytes, trial: bool = False
    ) -> None:
        """Remove keys, give tags new versions, then tell every process. A `trial` passes an open breaker."""
        position, window = position or "", self._window_ms
        steps: list[_Step] = [(_INVALIDATE, self._entry_keys(key), (position, window, "", 0)) for key in keys]
        for tag in tags:
            args = (secrets.token_hex(8), _ms(_TAG_LIFETIME), position, window)
            steps.append((_INVALIDATE_TAG, self._tag_keys(tag), args))
        await self._change(steps, message, trial=trial)

    async def put(self, entries: Sequence[tuple[str, bytes, float]], *, message: bytes) -> None:
        """Set entries (key, bytes, lifetime) in place of what is there or being loaded, then tell every process."""
        steps: list[_Step] = [
            (_INVALIDATE, self._entry_keys(key), ("", self._window_ms, raw, _ms(lifetime)))
            for key, raw, lifetime in entries
        ]
        await self._change(steps, message)

    async def publish(self, message: bytes) -> None:
        """Tell every process."""
        await self._send("PUBLISH", self.channel, message)

    async def discard(self, key: str) -> None:
        """Delete an entry that cannot be read."""
        await self._send("UNLINK", self._key("e", key))

    # --- connection

    async def connect(self) -> None:
        """Ask Redis whether it answers, with more patience than a command has."""
        await self._transport.connect(timeout=_PING_TIMEOUT)

    async def answers(self) -> bool:
        """Whether Redis answers now, within a command's deadline."""
        try:
            await self._send("PING")
        except RedisUnavailable:
            return False
        return True

    async def aclose(self) -> None:
        """Close the connection."""
        await self._transport.aclose()

    async def _change(self, steps: Sequence[_Step], message: bytes, *, trial: bool = False) -> None:
        """Make all steps, then tell every process; a single step tells them itself, which saves a round trip.

        A change that Redis refuses, for whatever reason, leaves old values there: nothing may be read any more.
        """
        try:
            if len(steps) == 1:
                ((script, keys, args),) = steps
                await self._run(script, keys, (*args, self.channel, message), trial=trial)
                return
            made = [self._run(script, keys, (*args, "", ""), trial=trial) for script, keys, args in steps]
            for outcome in await asyncio.gather(*made, return_exceptions=True):
                if isinstance(outcome, BaseException):
                    raise outcome
            await self._send("PUBLISH", self.channel, message, trial=trial)
        except RedisUnavailable as error:
            if self.up:
                self._trip(error)
            raise

    async def _run(self, script: RedisScript, keys: Sequence[str], args: Sequence[Arg], *, trial: bool = False) -> Any:
        try:
            return await self._send("EVALSHA", script.sha, len(keys), *keys, *args, trial=trial)
        except NoScriptError:
            return await self._send("EVAL", script.source, len(keys), *keys, *args, trial=trial)

    async def _send(self, *args: Arg, trial: bool = False) -> Any:
        if not (trial or self.up):
            raise RedisUnavailable
        began = self._now() if self._events else None
        try:
            answer = await self._transport.send(*args)
        except NoScriptError:
            raise
        except REDIS_ERRORS as error:
            self._tell(began, error)
            raise self._trouble(error) from None
        if began is not None:
            self._tell(began)
        return answer

    def _tell(self, began: float | None, error: Exception | None = None) -> None:
        if began is not None and self._events:
            kind = "" if error is None else type(error).__name__
            self._events.emit(GuardedCall(self.breaker.name, self._now() - began, kind))

    def _trouble(self, error: Exception) -> RedisUnavailable:
        if isinstance(error, REDIS_FAILURES):
            self._trip(error)
        # Any other answer (out of memory, no permission) is an answer: this operation fails alone.
        return RedisUnavailable(f"{type(error).__name__}: {error}")

    def _lost(self, error: Exception) -> None:
        # What answers next may be another server, promoted without the last changes: they are told again first.
        if self.up:
            self._trip(error)

    def _trip(self, error: Exception) -> None:
        self.breaker.failed(error)
        self._transport.reset(error)
        self.on_trouble()

    def _key(self, kind: str, key: str) -> str:
        if "{" in key or "}" in key or "%" in key:
            key = quote(key, safe=" !$&'()*+,-./:;<=>?@[]^_|~#", errors="surrogatepass")
        return f"{self._prefix}{kind}:{{{key}}}"

    def _entry_keys(self, key: str) -> tuple[str, str, str]:
        return self._key("e", key), self._key("l", key), self._key("p", key)

    def _tag_keys(self, tag: str) -> tuple[str, str]:
        return self._key("t", tag), self._key("q", tag)


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _text(value: bytes) -> str:
    return value.decode()
