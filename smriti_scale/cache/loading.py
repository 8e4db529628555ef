"""Making entries: one factory call for all who wait, in this process and the others.

A load asks Redis for the key's lease. Who gets it calls the factory and may store; the others wait for the news that
it is done, or for the lease to end because its holder died. Without Redis each process loads for itself, a bounded
number of keys at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from contextvars import ContextVar
from typing import Any, Literal

import cachetools

from smriti_scale.cache.changes import tag_name
from smriti_scale.cache.entry import Record, make_record
from smriti_scale.cache.found import Found, Kind, Result
from smriti_scale.cache.journal import Invalidation, Message
from smriti_scale.cache.keys import EVERYTHING
from smriti_scale.cache.sameness import immutable
from smriti_scale.cache.singleflight import StillLoading
from smriti_scale.cache.stores.redis import Grant, RedisStore, RedisUnavailable, TagState
from smriti_scale.cache.tiers import Tiers
from smriti_scale.cache.wire import pack
from smriti_scale.errors import ConfigurationError, DeadlineExceeded, UncacheableValue
from smriti_scale.events import CacheHit, CacheLoaded, CacheMiss

Factory = Callable[[], Awaitable[Any]]
FillHook = Callable[[Sequence[str]], AbstractContextManager[Any] | AbstractAsyncContextManager[Any]]
"""Given the causal positions of recent invalidations, a context in which the factory reads at or after all of them."""

Mode = Literal["wait", "try", "force"]

# A notice of a finished load may be lost with its connection; this often is looked without one, in seconds.
_LOOK_AGAIN, _LOOK_AGAIN_DEAF = 0.25, 0.05

_loading: ContextVar[tuple[str, ...]] = ContextVar("smriti_scale.cache.loading", default=())
"""The keys whose factories this code runs inside of."""


class _SomeoneElseRefreshes(Exception):
    """A background refresh found another process at it. Never leaves the cache."""


class Loader:
    """Answers calls: from memory, from Redis, or by the factory.

    Args:
        tiers: where entries are.
        max_loads: factory calls at a time while Redis is down.
        fill: see `FillHook`.
    """

    def __init__(self, tiers: Tiers, *, max_loads: int, fill: FillHook | None) -> None:
        self._tiers = tiers
        self._max_loads = max_loads
        self._slots: tuple[asyncio.AbstractEventLoop, asyncio.Semaphore] | None = None
        self._fill = fill
        self._throttled: cachetools.LRUCache[str, float] = cachetools.LRUCache(10_000)
        self.disabled = 0

    async def call(self, key: str, kind: Kind, tags: tuple[str, ...], factory: Factory) -> Any:
        """The value, from wherever it comes first."""
        if self.disabled:
            return await factory()
        found, position = await self.find(key, kind, tags)
        if found is not None and found.state != "fallback":
            if found.refresh:
                self._refresh_in_background(key, kind, tags, factory, born=found.born)
            return found.result.take()
        if found is not None and self._throttled.get(key, 0.0) > self._tiers.now():
            return self._stale(found, kind)
        return await self._wait_for_load(key, kind, tags, factory, fallback=found, position=position)

    async def find(
        self, key: str, kind: Kind, tags: tuple[str, ...], *, count: bool = True
    ) -> tuple[Found | None, str | None]:
        """What the tiers have, and the caller's causal position if memory could not answer them because of it."""
        tiers = self._tiers
        await tiers.ready()
        position = tiers.must_verify()
        found = tiers.in_memory(key, kind) if position is None else None
        redis = tiers.redis
        if (found is None or found.state == "fallback") and redis is not None and redis.up:
            start = tiers.changes.begin()
            try:
                (raw,), versions = await redis.read((key,), tags)
                if raw is not None:
                    found = await tiers.accept(key, raw, versions, kind, start=start) or found
            except RedisUnavailable:
                pass
            finally:
                tiers.changes.end(start)
        if count and found is not None:
            self._count_hit(found, kind)
        return found, position

    async def refresh(self, key: str, kind: Kind, tags: tuple[str, ...], factory: Factory) -> Any:
        """Call the factory now, whoever else is loading, and put the result in place of what is there."""
        if self.disabled:
            return await factory()
        await self._tiers.ready()
        load = self._load(key, kind, tags, factory, mode="force", born=0.0)
        flight = self._tiers.flights.start((key, None), load, tags=tags)
        return (await flight.join()).take()

    def _count_hit(self, found: Found, kind: Kind) -> None:
        counters = self._tiers.counters
        if found.state == "fresh":
            if found.source == "memory":
                counters.hits_memory += 1
                return
            counters.hits_redis += 1
            source = "redis"
        elif found.state == "stale":
            counters.stale_served += 1
            source = "stale"
        else:
            return
        if self._tiers.events:
            self._tiers.events.emit(CacheHit(self._tiers.settings.name, kind.label, source))

    def _stale(self, fallback: Found, kind: Kind) -> Any:
        self._tiers.counters.stale_served += 1
        if self._tiers.events:
            self._tiers.events.emit(CacheHit(self._tiers.settings.name, kind.label, "stale"))
        return fallback.result.take()

    async def put(self, values: Mapping[str, Any], kind: Kind, tags: tuple[str, ...]) -> None:
        """Store values in place of what is there or being loaded."""
        tiers = self._tiers
        await tiers.ready()
        lifetime = kind.policy.longest
        encoded = {key: kind.codec.dumps(value) for key, value in values.items()}
        change = Invalidation(keys=tuple(values))
        tiers.apply(change)
        start = tiers.changes.begin()
        try:
            versions: tuple[tuple[str, bytes], ...] = tuple((tag, b"") for tag in tags)
            if tiers.redis is not None:
                states = await tiers.redis.tags(tags, keep=lifetime)
                versions = tuple((tag, state.version) for tag, state in states.items())
            records = {
                key: make_record(
                    payload,
                    policy=kind.policy,
                    lifetime=lifetime,
                    now=tiers.clock.time(),
                    delta=0.0,
                    fingerprint=kind.codec.fingerprint,
                    tags=versions,
                    random=0.0,
                )
                for key, (payload, _) in encoded.items()
            }
            if tiers.redis is not None:
                compress_over = tiers.settings.compress_over
                packed = [(key, pack(record, compress_over=compress_over), lifetime) for key, record in records.items()]
                await tiers.redis.put(packed, message=Message(tiers.origin, change).pack())
            for key, record in records.items():
                tiers.keep(key, record, encoded[key][1], kind, start=start)
        except RedisUnavailable:
            await tiers.tell(change)  # an old value must not outlive the attempt to replace it
        finally:
            tiers.changes.end(start)

    # --- waiting

    async def _wait_for_load(
        self,
        key: str,
        kind: Kind,
        tags: tuple[str, ...],
        factory: Factory,
        *,
        fallback: Found | None,
        position: str | None,
    ) -> Any:
        if key in _loading.get():
            raise ConfigurationError(f"{kind.label} awaits its own result for the key {key!r}; it would wait for ever")
        tiers = self._tiers
        slot = (key, position)
        patience = kind.policy.soft_timeout if fallback is not None else None
        try:
            while True:
                flight = tiers.flights.get(slot)
                if flight is None:
                    load = self._load(key, kind, tags, factory, mode="wait", born=0.0)
                    flight = tiers.flights.start(slot, load, tags=tags)
                try:
                    result = await flight.join(patience)
                    break
                except _SomeoneElseRefreshes:
                    continue  # a refresh in the background, joined by chance, ended in favour of another process
        except StillLoading:
            if fallback is None:
                raise
            return self._stale(fallback, kind)
        except Exception:
            if fallback is None:
                self._count_miss(kind)
                raise
            self._throttled[key] = tiers.now() + kind.policy.error_throttle
            return self._stale(fallback, kind)
        self._count_miss(kind)
        return result.take()

    def _count_miss(self, kind: Kind) -> None:
        self._tiers.counters.misses += 1
        if self._tiers.events:
            self._tiers.events.emit(CacheMiss(self._tiers.settings.name, kind.label))

    def _refresh_in_background(
        self, key: str, kind: Kind, tags: tuple[str, ...], factory: Factory, *, born: float
    ) -> None:
        tiers = self._tiers
        if tiers.flights.get((key, None)) is not None or self._throttled.get(key, 0.0) > tiers.now():
            return
        load = self._load(key, kind, tags, factory, mode="try", born=born)
        flight = tiers.flights.start((key, None), load, tags=tags)
        flight.background = True

        def landed(task: asyncio.Task[Result]) -> None:
            error = None if task.cancelled() else task.exception()
            if error is not None and not isinstance(error, _SomeoneElseRefreshes):
                self._throttled[key] = tiers.now() + kind.policy.error_throttle

        flight.task.add_done_callback(landed)

    # --- loading

    async def _load(
        self, key: str, kind: Kind, tags: tuple[str, ...], factory: Factory, *, mode: Mode, born: float
    ) -> Result:
        scope = asyncio.timeout(kind.policy.timeout)
        tiers = self._tiers
        start = tiers.changes.begin()
        try:
            async with scope:
                if tiers.redis is not None and tiers.redis.up:
                    with contextlib.suppress(RedisUnavailable):
                        return await self._load_with_lease(
                            tiers.redis, key, kind, tags, factory, mode=mode, born=born, start=start
                        )
                return await self._load_alone(key, kind, tags, factory, start=start)
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise DeadlineExceeded(kind.label, timeout=kind.policy.timeout or 0.0) from error
        finally:
            tiers.changes.end(start)

    async def _load_with_lease(
        self,
        redis: RedisStore,
        key: str,
        kind: Kind,
        tags: tuple[str, ...],
        factory: Factory,
        *,
        mode: Mode,
        born: float,
        start: int,
    ) -> Result:
        token = secrets.token_hex(8)
        keep = kind.policy.longest
        while True:
            news = self._tiers.waiters.expect(key)
            try:
                grant, states = await asyncio.gather(
                    redis.begin(key, token=token, mode=mode), redis.tags(tags, keep=keep)
                )
                if mode != "force" and (found := await self._filled_meanwhile(key, kind, grant, states, start, born)):
                    if grant.won:
                        await self._give_back(redis, key, token)
                    return found
                if grant.won:
                    break
                if mode == "try":
                    raise _SomeoneElseRefreshes
                live = self._tiers.channel is not None and self._tiers.channel.live
                pause = min(grant.lease_left + 0.005, _LOOK_AGAIN if live else _LOOK_AGAIN_DEAF)
                await asyncio.wait([news], timeout=pause)
            finally:
                news.cancel()
        return await self._fill_under_lease(
            redis, key, kind, grant, states, factory, token=token, start=start, announce=mode == "force"
        )

    async def _filled_meanwhile(
        self, key: str, kind: Kind, grant: Grant, states: dict[str, TagState], start: int, born: float
    ) -> Result | None:
        """What another process stored since this one looked, newer than `born`."""
        versions: dict[str, bytes | None] = {tag: state.version for tag, state in states.items()}
        found = await self._tiers.accept(key, grant.raw, versions, kind, start=start)
        return found.result if found is not None and found.state == "fresh" and found.born > born else None

    async def _fill_under_lease(
        self,
        redis: RedisStore,
        key: str,
        kind: Kind,
        grant: Grant,
        states: dict[str, TagState],
        factory: Factory,
        *,
        token: str,
        start: int,
        announce: bool,
    ) -> Result:
        tiers = self._tiers
        positions = {*grant.positions, *(position for state in states.values() for position in state.positions)}
        renewal = asyncio.get_running_loop().create_task(self._renew(redis, key, token))
        stored = False
        try:
            raw_value, seconds = await self._run_factory(key, kind, factory, sorted(positions))
            versions = {tag: state.version for tag, state in states.items()}
            own_tags = set(kind.tags_from(raw_value)) - versions.keys() if kind.tags_from is not None else set()
            storable = True
            if own_tags:
                try:
                    found = await redis.tags(own_tags, keep=kind.policy.longest)
                except RedisUnavailable:
                    storable = False
                else:
                    del found[EVERYTHING]
                    # These tags were not known before the load; one that changed since its start may concern it.
                    storable = all(state.made or state.at < grant.at for state in found.values())
                    versions |= {tag: state.version for tag, state in found.items()}
            record, result = self._record(raw_value, kind, seconds, tuple(versions.items()))
            if record is None or not storable:
                return result
            entry = pack(record, compress_over=tiers.settings.compress_over)
            lifetime = record.fallback_until - record.born
            try:
                stored = await redis.finish(
                    key, token=token, entry=entry, lifetime=lifetime, message=Message(tiers.origin, finished=key).pack()
                )
            except RedisUnavailable:
                return tiers.keep(key, record, result.peek(), kind, start=start)  # for as long as memory is trusted
            if stored:
                if announce:
                    tiers.spawn(self._announce(redis, key))
                return tiers.keep(key, record, result.peek(), kind, start=start)
            return result
        finally:
            renewal.cancel()
            if not stored:
                tiers.spawn(self._give_back(redis, key, token))

    async def _load_alone(self, key: str, kind: Kind, tags: tuple[str, ...], factory: Factory, *, start: int) -> Result:
        tiers = self._tiers
        positions = tiers.positions.of([key, *map(tag_name, (EVERYTHING, *tags))], now=tiers.now())
        # Only when Redis is down do all processes load everything; a load inside a load has a place already.
        crowded = tiers.has_redis and not _loading.get()
        async with self._place() if crowded else contextlib.nullcontext():
            raw_value, seconds = await self._run_factory(key, kind, factory, positions)
        all_tags = [*tags, *(kind.tags_from(raw_value) if kind.tags_from is not None else ())]
        record, result = self._record(raw_value, kind, seconds, tuple((tag, b"") for tag in dict.fromkeys(all_tags)))
        return result if record is None else tiers.keep(key, record, result.peek(), kind, start=start)

    def _place(self) -> asyncio.Semaphore:
        loop = asyncio.get_running_loop()
        if self._slots is None or self._slots[0] is not loop:
            self._slots = (loop, asyncio.Semaphore(self._max_loads))
        return self._slots[1]

    async def _run_factory(self, key: str, kind: Kind, factory: Factory, positions: Sequence[str]) -> tuple[Any, float]:
        tiers = self._tiers
        inside = _loading.set((*_loading.get(), key))
        began = tiers.now()
        failure = ""
        tiers.counters.loads += 1
        try:
            async with contextlib.AsyncExitStack() as stack:
                if positions and self._fill is not None:
                    context = self._fill(positions)
                    if isinstance(context, AbstractAsyncContextManager):
                        await stack.enter_async_context(context)
                    else:
                        stack.enter_context(context)
                return await factory(), tiers.now() - began
        except BaseException as error:
            failure = type(error).__name__
            tiers.counters.load_errors += 1
            raise
        finally:
            _loading.reset(inside)
            seconds = tiers.now() - began
            tiers.counters.factory_seconds += seconds
            if tiers.events:
                tiers.events.emit(CacheLoaded(tiers.settings.name, kind.label, seconds, failure))

    def _record(
        self, value: Any, kind: Kind, delta: float, tags: tuple[tuple[str, bytes], ...]
    ) -> tuple[Record | None, Result]:
        """The record to store, if the value is to be stored, and the value for the callers."""
        lifetime = kind.policy.lifetime(value)
        try:
            payload, loaded = kind.codec.dumps(value)
        except UncacheableValue as error:
            if lifetime == 0:
                return None, Result(value)  # it was not to be cached anyway
            error.add_note(f"(the result of {kind.label})")
            raise
        if lifetime == 0:
            shares = kind.shared or immutable(loaded)
            return None, Result(loaded) if shares else Result(loaded, load=kind.codec.loads, raw=payload)
        record = make_record(
            payload,
            policy=kind.policy,
            lifetime=lifetime,
            now=self._tiers.clock.time(),
            delta=delta,
            fingerprint=kind.codec.fingerprint,
            tags=tags,
            random=random.random(),
        )
        shares = kind.shared or immutable(loaded)
        return record, Result(loaded) if shares else Result(loaded, load=kind.codec.loads, raw=payload)

    # --- leases

    async def _renew(self, redis: RedisStore, key: str, token: str) -> None:
        with contextlib.suppress(RedisUnavailable):
            while True:
                await asyncio.sleep(self._tiers.settings.lease / 3)
                if not await redis.renew(key, token=token):
                    return

    async def _give_back(self, redis: RedisStore, key: str, token: str) -> None:
        message = Message(self._tiers.origin, finished=key).pack()
        with contextlib.suppress(RedisUnavailable):
            await redis.finish(key, token=token, entry=b"", lifetime=1, message=message)

    async def _announce(self, redis: RedisStore, key: str) -> None:
        with contextlib.suppress(RedisUnavailable):
            await redis.publish(Message(self._tiers.origin, Invalidation(keys=(key,))).pack())
