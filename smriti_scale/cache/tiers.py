"""Memory and Redis as one: looking up, keeping, and dropping, in this process and the others.

Everything here is about entries that exist; `loading.py` makes them.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
import weakref
from dataclasses import dataclass
from typing import Any

import cachetools

from smriti_scale.cache.changes import Changes, tag_name
from smriti_scale.cache.coherence import Channel, Waiters
from smriti_scale.cache.entry import Entry, Record, early_by
from smriti_scale.cache.found import Found, Kind, Result
from smriti_scale.cache.function import Function
from smriti_scale.cache.journal import Invalidation, Journal, Message, Positions
from smriti_scale.cache.keys import EVERYTHING
from smriti_scale.cache.sameness import immutable
from smriti_scale.cache.singleflight import Flights
from smriti_scale.cache.stats import Counters
from smriti_scale.cache.stores.memory import MemoryStore
from smriti_scale.cache.stores.redis import RedisStore, RedisUnavailable
from smriti_scale.cache.wire import unpack
from smriti_scale.cancelling import cancel
from smriti_scale.clock import Clock
from smriti_scale.context import causal_position
from smriti_scale.errors import ConfigurationError
from smriti_scale.events import CacheChannelChanged, CacheRejected, Events
from smriti_scale.redis_failures import REDIS_ERRORS
from smriti_scale.redis_link import RedisLink

_log = logging.getLogger("smriti_scale.cache")


@dataclass(frozen=True, slots=True)
class Settings:
    """What `Cache` was told; see there."""

    name: str
    prefix: str
    lease: float
    timeout: float
    max_partition_stale: float
    own_write_window: float
    causal_window: float
    compress_over: int | None


class Tiers:
    """The state of one cache. Bound to an event loop on first use, and anew when that loop is gone."""

    def __init__(
        self, link: RedisLink | None, *, memory: MemoryStore, settings: Settings, clock: Clock, events: Events
    ) -> None:
        self.settings = settings
        self.memory = memory
        self.events = events
        self.clock = clock
        self.now = clock.monotonic
        self.counters = Counters()
        self.changes = Changes()
        self.flights: Flights[Result] = Flights()
        self.waiters = Waiters()
        self.journal = Journal()
        self.positions = Positions(window=settings.causal_window)
        self.functions: weakref.WeakSet[Function] = weakref.WeakSet()
        self.redis: RedisStore | None = None
        self.channel: Channel | None = None
        self.origin = secrets.token_hex(8)
        self._link = link
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._recovery: asyncio.Task[None] | None = None
        self._writers: cachetools.LRUCache[str, float] = cachetools.LRUCache(10_000)

    # --- life

    @property
    def has_redis(self) -> bool:
        return self._link is not None

    async def ready(self) -> None:
        """Open what is not open yet."""
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            if self.channel is not None and not self.channel.settled:
                await self.channel.ready(timeout=self.settings.timeout)
            return
        if self._loop is not None and self._loop.is_running():
            raise ConfigurationError("this Cache is in use by another event loop; make one Cache for each")
        self._loop = loop
        self.flights = Flights()
        self.waiters = Waiters()
        self._tasks = set()
        self._recovery = None
        if self._link is None:
            return
        self.forget_everything()  # what was kept under an earlier loop missed the changes since
        settings = self.settings
        self.redis = RedisStore(
            self._link,
            prefix=settings.prefix,
            timeout=settings.timeout,
            lease=settings.lease,
            causal_window=settings.causal_window,
            events=self.events,
            name=settings.name,
        )
        self.redis.on_trouble = self._recover
        self.channel = Channel(
            self._link,
            self.redis.channel,
            max_stale=settings.max_partition_stale,
            on_message=self._heard,
            on_live=self._channel_live,
            on_lost=self._channel_lost,
        )
        await self.channel.ready(timeout=settings.timeout)

    async def aclose(self) -> None:
        if self._loop is not asyncio.get_running_loop():
            self._loop = None
            return
        await self.flights.aclose()
        if self._tasks:
            # Leases are being given back and changes told: they get their deadline, not more.
            await asyncio.wait(list(self._tasks), timeout=self.settings.timeout)
        await cancel([*self._tasks, *([self._recovery] if self._recovery else [])])
        if self.channel is not None:
            await self.channel.aclose()
        if self.redis is not None:
            await self.redis.aclose()
        if self._link is not None:
            await self._link.aclose()
        self.redis = self.channel = self._loop = self._recovery = None
        self.forget_everything()

    def spawn(self, work: Any) -> asyncio.Task[Any]:
        """Run in the background until `aclose`."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --- looking up

    def trusted(self) -> bool:
        """Whether memory may be believed: nothing can have changed that this process has not heard of for too long."""
        if self._link is None:
            return True
        return self.channel is not None and time.monotonic() < self.channel.trusted_until

    def must_verify(self) -> str | None:
        """The causal position of a caller who wrote moments ago, perhaps elsewhere: they get no answer from memory.

        Their write's invalidation is in Redis already, since their response waited for it, but may not have arrived
        here. A position first seen longer than `own_write_window` ago is old news.
        """
        if self._link is None:
            return None
        position = causal_position.get()
        if position is None:
            return None
        now = time.monotonic()
        first_seen = self._writers.setdefault(position, now)
        return position if now - first_seen < self.settings.own_write_window else None

    def in_memory(self, key: str, kind: Kind) -> Found | None:
        """What memory has, if it can be believed and is of this kind."""
        entry = self.memory.get(key)
        if entry is None or entry.fingerprint != kind.codec.fingerprint or not self.trusted():
            return None
        if entry.promised and not kind.shared:
            return None
        now = self.now()
        state = entry.state(now)
        if state == "dead":
            return None
        refresh = now >= entry.until
        if refresh and state == "fresh":
            entry.until = entry.fresh_until  # its early refresh is asked for once
        entry.used = True
        return Found(
            state,
            Result(entry.value if entry.load is None else Result.EMPTY, load=entry.load, raw=entry.raw),
            "memory",
            entry.born,
            self.clock.time() + entry.fresh_until - now,
            entry.tags,
            refresh,
        )

    async def accept(
        self, key: str, raw: bytes | None, versions: dict[str, bytes | None], kind: Kind, *, start: int
    ) -> Found | None:
        """What Redis had, checked: its form, its type, its tags, its age."""
        if raw is None or self.redis is None:
            return None
        record = unpack(raw)
        if record is None:
            self._reject(key, kind, "foreign")
            return None
        if record.fingerprint != kind.codec.fingerprint:
            self._reject(key, kind, "type")
            return None
        for tag, version in record.tags:
            if tag not in versions:  # the value's own tags were not known before
                versions |= await self.redis.versions([tag for tag, _ in record.tags if tag not in versions])
            if versions[tag] != version:
                return None
        state = record.state(self.clock.time())
        if state == "dead":
            return None
        kept = self.in_memory(key, kind)
        if kept is not None and kept.born == record.born:
            return kept._replace(source="redis")  # another caller of the same turn was first
        try:
            value = kind.codec.loads(record.payload)
        except Exception:  # noqa: BLE001 - whatever a codec raises, the value is of no use
            self._reject(key, kind, "decode")
            return None
        result = self.keep(key, record, value, kind, start=start)
        refresh = state == "stale" or (state == "fresh" and not self.memory.enabled and self._is_early(record, kind))
        tags = tuple([tag for tag, _ in record.tags if tag != EVERYTHING])
        return Found(state, result, "redis", record.born, record.fresh_until, tags, refresh)

    def _is_early(self, record: Record, kind: Kind) -> bool:
        if kind.policy.early == 0 or record.delta == 0:
            return False
        ahead = early_by(record.delta, beta=kind.policy.early, random=random.random())
        return self.clock.time() >= record.fresh_until - ahead

    def _reject(self, key: str, kind: Kind, reason: str) -> None:
        self.counters.rejected += 1
        if self.events:
            self.events.emit(CacheRejected(self.settings.name, kind.label, reason))
        self.spawn(self._discard(key))

    async def _discard(self, key: str) -> None:
        if self.redis is not None:
            try:
                await self.redis.discard(key)
            except RedisUnavailable:
                _log.debug("could not delete an unusable entry")

    # --- keeping

    def keep(self, key: str, record: Record, value: Any, kind: Kind, *, start: int) -> Result:
        """Put a record into memory, unless one of its names changed since `start`; the value for its callers."""
        shares = kind.shared or immutable(value)
        result = Result(value) if shares else Result(value, load=kind.codec.loads, raw=record.payload)
        if not self.memory.enabled:
            return result
        tags = tuple([tag for tag, _ in record.tags if tag != EVERYTHING])
        if self.changes.since(start, [key, *map(tag_name, tags)]):
            return result
        entry = Entry(key, record, now_wall=self.clock.time(), now=self.now())
        entry.tags = tags
        entry.until -= early_by(record.delta, beta=kind.policy.early, random=random.random())
        if shares:
            entry.value = value
            entry.promised = kind.shared
            weight = kind.weigh(value, record.payload)
        else:
            entry.raw = record.payload
            entry.load = kind.codec.loads
            weight = len(record.payload)
        self.memory.put(entry, value_bytes=weight)
        return result

    # --- dropping

    def apply(self, change: Invalidation) -> None:
        """Drop what a change, of this process or another, makes old."""
        if change.everything:
            self.forget_everything()
        names = [*change.keys, *map(tag_name, change.tags)]
        self.changes.record(names)
        for key in change.keys:
            self.memory.drop(key)
            self.waiters.news(key)
        self.memory.drop_tags(change.tags)
        self.flights.detach(change.keys, change.tags)
        if change.position is not None:
            if change.everything:
                names.append(tag_name(EVERYTHING))
            self.positions.note(names, change.position, now=self.now())

    def forget_everything(self) -> None:
        """Empty memory, and let no read or load under way put anything old back."""
        self.changes.record_everything()
        self.memory.clear()
        self.flights.detach_all()
        self.cool()

    def cool(self) -> None:
        """Make every function check its next hit."""
        for function in self.functions:
            function.cool()

    async def tell(self, change: Invalidation) -> bool:
        """Apply a change everywhere; False when the other processes will hear of it only once Redis is back."""
        self.apply(change)
        if self.redis is None:
            return True
        try:
            await self.send(change)
        except RedisUnavailable:
            self.journal.owe(change)
            self._recover()
            return False
        finally:
            self.apply(change)  # a read between the first time and Redis's answer may have found the old value
        self.journal.delivered(change, now=time.monotonic())
        return True

    async def send(self, change: Invalidation, *, trial: bool = False) -> None:
        """Tell Redis of a change, and through it every process."""
        assert self.redis is not None  # noqa: S101 - callers asked
        tags = [*change.tags, *([EVERYTHING] if change.everything else [])]
        message = Message(self.origin, change).pack()
        await self.redis.invalidate(change.keys, tags, position=change.position, message=message, trial=trial)

    # --- the channel and recovery

    def _heard(self, raw: bytes) -> None:
        message = Message.unpack(raw)
        if message is None or message.origin == self.origin:
            return
        if message.finished is not None:
            self.waiters.news(message.finished)
        if message.change is not None:
            self.apply(message.change)

    def _channel_live(self) -> None:
        self.forget_everything()  # changes may have been missed
        if self.journal:
            self._recover()
        if self.events:
            self.events.emit(CacheChannelChanged(self.settings.name, "live"))

    def _channel_lost(self) -> None:
        self.cool()
        if self.events:
            self.events.emit(CacheChannelChanged(self.settings.name, "lost"))

    def _recover(self) -> None:
        if self._recovery is None or self._recovery.done():
            self._recovery = asyncio.get_running_loop().create_task(self._until_up())

    async def _until_up(self) -> None:
        """Try Redis until it answers; then, before anyone reads from it, tell it all that it missed."""
        redis = self.redis
        if redis is None:
            return
        while True:
            if redis.up or redis.breaker.allows():
                try:
                    await redis.connect()
                    await self._replay()
                except (RedisUnavailable, *REDIS_ERRORS) as error:  # type: ignore[misc]
                    redis.breaker.failed(error)
                else:
                    redis.breaker.succeeded()
                    return
            await asyncio.sleep(0.02)

    async def _replay(self) -> None:
        changes = self.journal.take(now=time.monotonic())
        while changes:
            try:
                await self.send(changes[0], trial=True)
            except BaseException:
                for change in changes:
                    self.journal.owe(change)
                raise
            self.journal.delivered(changes.pop(0), now=time.monotonic())
