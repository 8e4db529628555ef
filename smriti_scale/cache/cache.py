"""`Cache`: memory over Redis, for functions and for direct use."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import logging
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, cast
from weakref import ref

from smriti_scale.cache.codecs import BoundCodec, Codec, JSONCodec
from smriti_scale.cache.entry import TTL, make_policy, seconds
from smriti_scale.cache.found import Kind
from smriti_scale.cache.function import CachedFunction, Function, may_share_keys, return_type
from smriti_scale.cache.journal import Invalidation
from smriti_scale.cache.keys import checked_tags, direct_key
from smriti_scale.cache.loading import FillHook, Loader
from smriti_scale.cache.stats import CacheStats
from smriti_scale.cache.stores.memory import MemoryStore
from smriti_scale.cache.target import Target
from smriti_scale.cache.tiers import Settings, Tiers
from smriti_scale.clock import SYSTEM_CLOCK, Clock
from smriti_scale.context import causal_position
from smriti_scale.errors import CircuitOpen, ConfigurationError
from smriti_scale.events import CacheInvalidated, Events
from smriti_scale.redis_link import RedisClient, RedisLink

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger("smriti_scale.cache")

InvalidationHook = Callable[[Invalidation], Awaitable[None] | None]
"""Called in the process that invalidates, after every process was told."""


class Cache:
    """Memory over Redis, coherent between processes.

    Args:
        url: where Redis is (`redis://`, `redis+sentinel://`, `redis+cluster://`; see `smriti_scale.redis_link`), a
            client made by the caller, or None for memory only.
        namespace: prefix of every key in Redis, and this cache's name in events and stats. Caches that share a
            Redis need one each.
        version: of the stored values' meaning; a change makes everything stored before invisible.
        max_entries: bound on entries in memory; 0 for Redis only.
        max_bytes: bound on bytes in memory.
        codec: how values become bytes; JSON by default.
        compress_over: values longer than this (bytes) are compressed in Redis; None for never.
        lease: seconds after which a process that died while loading no longer holds up the others.
        timeout: deadline of every Redis operation, in seconds.
        max_partition_stale: seconds that memory may be believed when invalidations cannot arrive; with 0, memory is
            bypassed and every read asks Redis.
        own_write_window: seconds for which a caller with a causal position (`context.causal_position`) new to this
            process is answered from Redis instead of memory.
        causal_window: seconds that loads take an invalidation's causal position into account.
        max_loads: factory calls at a time while Redis is down.
        fill: given the causal positions of recent invalidations, returns a context manager (plain or async) in which
            the factory runs and reads at or after all of them.
        clock: the source of time.
        events: where events go.

    Raises:
        ConfigurationError: an argument cannot work.
    """

    def __init__(
        self,
        url: str | RedisClient | None = None,
        *,
        namespace: str = "cache",
        version: str | int = 1,
        max_entries: int = 100_000,
        max_bytes: int = 64 * 2**20,
        codec: Codec | None = None,
        compress_over: int | None = 32 * 1024,
        lease: float = 5.0,
        timeout: float = 0.1,
        max_partition_stale: float = 5.0,
        own_write_window: float = 5.0,
        causal_window: float = 60.0,
        max_loads: int = 32,
        fill: FillHook | None = None,
        clock: Clock = SYSTEM_CLOCK,
        events: Events | None = None,
    ) -> None:
        if not namespace or set(namespace) & set("{}"):
            raise ConfigurationError(f"namespace must be a text without braces, not {namespace!r}")
        if max_entries < 0 or max_bytes < 0:
            raise ConfigurationError(f"bounds must not be negative: max_entries={max_entries}, max_bytes={max_bytes}")
        if url is None and max_entries == 0:
            raise ConfigurationError("without Redis and with max_entries=0 nothing can be kept")
        if max_loads < 1:
            raise ConfigurationError(f"max_loads must be at least 1, not {max_loads}")
        self.name = namespace
        self.clock = clock
        self.events = events if events is not None else Events()
        self._codec: Codec = codec or JSONCodec()
        self._tiers = Tiers(
            None if url is None else RedisLink(url),
            memory=MemoryStore(max_entries=max_entries, max_bytes=max_bytes),
            settings=Settings(
                name=namespace,
                prefix=f"{namespace}:{version}:",
                lease=seconds(lease, name="lease"),
                timeout=seconds(timeout, name="timeout"),
                max_partition_stale=seconds(max_partition_stale, name="max_partition_stale", zero=True),
                own_write_window=seconds(own_write_window, name="own_write_window", zero=True),
                causal_window=seconds(causal_window, name="causal_window"),
                compress_over=compress_over,
            ),
            clock=clock,
            events=self.events,
        )
        self._loader = Loader(self._tiers, max_loads=max_loads, fill=fill)
        self._homes: dict[str, ref[Function]] = {}
        self._bound: dict[Any, BoundCodec[Any]] = {}
        self._hooks: tuple[InvalidationHook, ...] = ()

    def __repr__(self) -> str:
        return f"Cache(namespace={self.name!r})"

    # --- life

    async def start(self) -> None:
        """Connect now, in place of on first use. Redis being down is no error."""
        await self._tiers.ready()

    async def aclose(self) -> None:
        """Stop background work and close connections. Values in Redis stay; the cache opens again when used."""
        await self._tiers.aclose()

    async def ping(self) -> None:
        """Ask Redis whether it answers, within `timeout`; for health checks. Memory alone is always well.

        Raises:
            CircuitOpen: it does not.
        """
        await self._tiers.ready()
        redis = self._tiers.redis
        if redis is not None and not await redis.answers():
            raise CircuitOpen(redis.breaker.name, retry_after=0.0)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    # --- functions

    def cached(
        self,
        ttl: TTL | Callable[[Any], TTL | None],
        *,
        key: str | None = None,
        exclude: Sequence[str] = (),
        tags: Sequence[str] = (),
        tags_from: Callable[[Any], Iterable[str]] | None = None,
        stale: TTL = 0.0,
        stale_if_error: TTL = 0.0,
        error_throttle: TTL = 1.0,
        soft_timeout: float | None = None,
        timeout: float | None = None,
        early: float = 1.0,
        jitter: float = 0.0,
        negative_ttl: TTL | None = None,
        condition: Callable[[Any], bool] | None = None,
        shared: bool = False,
        as_type: Any = None,
        codec: Codec | None = None,
    ) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], CachedFunction[P, T]]:
        """Cache the results of an `async def` function.

        Args:
            ttl: seconds (or a timedelta) that a result is fresh, or a function of the result that returns them;
                None or nothing positive from it means: do not store.
            key: template of the key over the function's parameters, such as `"posts:{user.id}:{limit}"`; every
                parameter must occur in it or in `exclude`. Without it, the function's name and all arguments.
            exclude: names of parameters that do not change the result (a database handle, `self`).
            tags: templates of tags, such as `"user:{user_id}"`, for `invalidate_tags`.
            tags_from: more tags, from the result.
            stale: seconds past `ttl` in which the old result is served at once and renewed in the background.
            stale_if_error: seconds past `ttl` in which the old result is served if the function raises.
            error_throttle: seconds after such an error before the function is tried again.
            soft_timeout: seconds to wait for the function when there is an old result to serve in its place; the
                function finishes in the background.
            timeout: seconds after which the function is cancelled and callers get the old result, if there is one,
                or `DeadlineExceeded`.
            early: XFetch's beta: how eagerly an entry is renewed shortly before it expires; 0 for never.
            jitter: fraction of the ttl by which each entry's life is randomly shortened.
            negative_ttl: ttl of a None result, in place of `ttl`.
            condition: given the result, whether to store it.
            shared: all callers get one object, which they promise not to change. Immutable results are always
                shared; others are decoded anew for each caller.
            as_type: the type of results, in place of the annotated one.
            codec: in place of the cache's.

        Returns:
            A decorator; what it returns keeps the function's signature and adds `key`, `invalidate`, `refresh` and
            `peek` (see `CachedFunction`).

        Raises:
            ConfigurationError: (when decorating) a parameter that is neither in the key nor excluded, a bad
                template, time or factor, a type that the codec cannot handle, or keys that another function uses.
            CacheKeyError: (when called) an argument has no stable text.
            UncacheableValue: (when called) the result would not come back as it went in.
            DeadlineExceeded: (when called) the function took longer than `timeout`.
        """
        policy = make_policy(
            ttl,
            stale=stale,
            stale_if_error=stale_if_error,
            error_throttle=error_throttle,
            soft_timeout=soft_timeout,
            timeout=timeout,
            early=early,
            jitter=jitter,
            negative_ttl=negative_ttl,
            condition=condition,
        )
        if isinstance(tags, str):
            raise ConfigurationError(f"tags takes a list of templates, not the text {tags!r}")
        # A return type may be named where the function is defined only: inside a test or an app factory.
        local_names = dict(sys._getframe(1).f_locals)
        chosen = codec or self._codec

        def decorate(function: Callable[P, Coroutine[Any, Any, T]]) -> CachedFunction[P, T]:
            def bind() -> Kind:
                type_ = as_type if as_type is not None else return_type(function, local_names=local_names)
                return Kind(made.label, policy, chosen.bind(type_), shared=shared, tags_from=tags_from)

            target = Target(self._loader, self._tiers, bind, invalidate=self.invalidate)
            made = Function(
                function, key=key, exclude=exclude, tags=tags, target=target, monotonic=self.clock.monotonic
            )
            self._register(made)
            target.try_early()
            return cast("CachedFunction[P, T]", made.wrapper)

        return decorate

    def _register(self, function: Function) -> None:
        skeleton = function.template.skeleton
        home = self._homes.get(skeleton)
        if home is not None and not self._free(home, function):
            gc.collect()  # a function that is gone may linger in a reference cycle
            if not self._free(home, function):
                raise ConfigurationError(
                    f"{function.label} would share the keys {skeleton!r} with another function of this cache: "
                    "give one of them another key=…"
                )
        self._homes[skeleton] = ref(function)
        self._tiers.functions.add(function)

    @staticmethod
    def _free(home: ref[Function], function: Function) -> bool:
        other = home()
        return other is None or may_share_keys(function, other)

    # --- direct use

    async def get(self, key: str, default: Any = None, *, as_type: Any = Any) -> Any:
        """The value of a key, or `default`.

        Raises:
            CacheKeyError: the key is not a non-empty text.
        """
        return (await self.get_many([key], as_type=as_type)).get(key, default)

    async def get_many(self, keys: Iterable[str], *, as_type: Any = Any) -> dict[str, Any]:
        """The values of those keys that have one; from Redis in one round trip."""
        kind = self._direct(as_type, 1.0)
        names = {key: direct_key(key) for key in keys}
        if self._loader.disabled:
            return {}
        found = await asyncio.gather(*(self._loader.find(name, kind, ()) for name in names.values()))
        values = {}
        for key, (one, _) in zip(names, found, strict=True):
            if one is not None and one.state != "fallback":
                values[key] = one.result.take()
            else:
                self._tiers.counters.misses += 1
        return values

    async def set(self, key: str, value: Any, ttl: TTL, *, tags: Iterable[str] = (), as_type: Any = Any) -> None:
        """Store a value in place of what is there or being loaded, in every process.

        The value counts as read now: a caller who read it earlier, before an invalidation, stores an old value.
        `get_or_set` has no such gap.

        Raises:
            UncacheableValue: it would not come back as it went in.
        """
        await self.set_many({key: value}, ttl, tags=tags, as_type=as_type)

    async def set_many(
        self, values: Mapping[str, Any], ttl: TTL, *, tags: Iterable[str] = (), as_type: Any = Any
    ) -> None:
        """Store several values."""
        kind = self._direct(as_type, ttl)
        names = {direct_key(key): value for key, value in values.items()}
        if self._loader.disabled or not names:
            return
        await _uninterrupted(self._loader.put(names, kind, checked_tags(tags)))

    async def get_or_set(
        self,
        key: str,
        factory: Callable[[], Awaitable[T]],
        ttl: TTL | Callable[[Any], TTL | None],
        *,
        tags: Iterable[str] = (),
        tags_from: Callable[[Any], Iterable[str]] | None = None,
        shared: bool = False,
        as_type: Any = Any,
        **policy: Any,
    ) -> T:
        """The value of a key, loaded by `factory` when there is none; with all that `cached` offers.

        Args:
            key: the key, as text.
            factory: called without arguments.
            ttl: see `cached`, as for the other arguments.
            policy: `stale`, `stale_if_error`, `error_throttle`, `soft_timeout`, `timeout`, `early`, `jitter`,
                `negative_ttl`, `condition`.
        """
        bound = self._direct(as_type, 1.0).codec
        kind = Kind("get_or_set", make_policy(ttl, **policy), bound, shared=shared, tags_from=tags_from)
        return cast("T", await self._loader.call(direct_key(key), kind, checked_tags(tags), factory))

    async def delete(self, *keys: str) -> None:
        """Remove keys in every process; another name for `invalidate`."""
        await self.invalidate(*keys)

    async def invalidate(self, *keys: str) -> None:
        """Remove keys everywhere, and keep loads under way from storing what they read before.

        Takes keys as text, also those that a function's `.key(...)` gives. Redis being down is no error: this
        process forgets at once, the others when Redis is back (their memory after `max_partition_stale` at most).
        """
        await self._change(Invalidation(keys=tuple(dict.fromkeys(map(direct_key, keys)))))

    async def invalidate_tags(self, *tags: str) -> None:
        """Make everything that has one of the tags old, everywhere; see `invalidate`.

        Raises:
            CacheKeyError: a tag is not a non-empty text.
        """
        await self._change(Invalidation(tags=checked_tags(tags)))

    async def clear(self) -> None:
        """Make everything in this namespace old, by a new version: nothing is searched for or deleted."""
        await self._change(Invalidation(everything=True))

    def on_invalidate(self, hook: InvalidationHook) -> Callable[[], None]:
        """Have `hook` called with each `Invalidation` that this process makes (to purge a CDN, say).

        It runs after every process was told; if it returns an awaitable, that runs in the background. Its errors are
        logged. Call what is returned to remove it.
        """
        self._hooks = (*self._hooks, hook)

        def remove() -> None:
            self._hooks = tuple(kept for kept in self._hooks if kept is not hook)

        return remove

    async def _change(self, change: Invalidation) -> None:
        if not (change.keys or change.tags or change.everything):
            return
        position = causal_position.get()
        change = Invalidation(change.keys, change.tags, change.everything, position)
        await self._tiers.ready()
        # The write behind it has happened: a caller who is cancelled now must not leave the others with old values.
        delivered = await _uninterrupted(self._tiers.tell(change))
        self._tiers.counters.invalidations += len(change.keys) + len(change.tags) + change.everything
        if self.events:
            keys, tags = len(change.keys), len(change.tags)
            self.events.emit(CacheInvalidated(self.name, keys, tags, change.everything, delivered))
        for hook in self._hooks:
            self._tiers.spawn(_run_hook(hook, change))

    # --- insight

    def stats(self) -> CacheStats:
        """The counts so far."""
        counters, tiers = self._tiers.counters, self._tiers
        return CacheStats(
            name=self.name,
            hits_memory=counters.hits_memory + sum(function.hits for function in tiers.functions),
            hits_redis=counters.hits_redis,
            misses=counters.misses,
            stale_served=counters.stale_served,
            loads=counters.loads,
            load_errors=counters.load_errors,
            factory_seconds=counters.factory_seconds,
            evictions=tiers.memory.evictions,
            rejected=counters.rejected,
            invalidations=counters.invalidations,
            memory_entries=len(tiers.memory),
            memory_bytes=tiers.memory.bytes,
            breaker=tiers.redis.breaker.state if tiers.redis is not None else "off",
            channel=tiers.channel.state if tiers.channel is not None else "off",
        )

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """Inside the block every function is called and nothing is stored or found; for tests."""
        self._loader.disabled += 1
        self._tiers.cool()
        try:
            yield
        finally:
            self._loader.disabled -= 1

    def _direct(self, as_type: Any, ttl: TTL) -> Kind:
        try:
            bound = self._bound.get(as_type)
            if bound is None:
                bound = self._bound[as_type] = self._codec.bind(as_type)
        except TypeError:  # an unhashable type, such as Annotated with a list
            bound = self._codec.bind(as_type)
        return Kind("direct", make_policy(ttl, early=0.0), bound)


async def _uninterrupted(work: Coroutine[Any, Any, T]) -> T:
    """Finish the work even if the caller is cancelled meanwhile; then the cancellation takes effect."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def _run_hook(hook: InvalidationHook, change: Invalidation) -> None:
    try:
        outcome = hook(change)
        if inspect.isawaitable(outcome):
            await outcome
    except Exception:  # noqa: BLE001 - a hook's fault must not become the writer's
        _log.exception("an invalidation hook failed")
