"""Events of the primitives become figures: one listener, one look-up by the event's type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from smriti_scale import events as e
from smriti_scale.monitoring.metrics import Metrics
from smriti_scale.monitoring.slow_queries import SlowQueries

_BREAKER = {"closed": 0, "half_open": 1, "open": 2}


class Recorder:
    """A listener for `Events`: `events.subscribe(Recorder(metrics))`. It may be called from several threads.

    Args:
        metrics: where to count.
        slow_queries: where to keep slow queries by shape.
    """

    def __init__(self, metrics: Metrics, *, slow_queries: SlowQueries | None = None) -> None:
        self._metrics = metrics
        self._slow_queries = slow_queries
        self._handlers: dict[type[e.Event], Callable[[Any], None]] = {
            e.BreakerChanged: self._breaker,
            e.GuardedCall: self._guarded_call,
            e.CacheHit: self._cache_hit,
            e.CacheMiss: self._cache_miss,
            e.CacheLoaded: self._cache_loaded,
            e.CacheInvalidated: self._cache_invalidated,
            e.CacheRejected: self._cache_rejected,
            e.CacheChannelChanged: self._cache_channel,
            e.HTTPCacheAnswered: self._http_cache,
            e.CDNPurged: self._purged,
            e.CDNPurgeFailed: self._purge_failed,
            e.CursorRejected: self._cursor_rejected,
            e.SlowQuery: self._slow_query,
            e.RepeatedQuery: self._repeated_query,
            e.PrimaryChanged: self._primary_changed,
            e.ReadFellBackToPrimary: self._fell_back_to_primary,
            e.CausalWait: self._causal_wait,
            e.CausalTokenIgnored: self._token_ignored,
            e.PoolExhausted: self._pool_exhausted,
            e.LimitAllowed: self._limit_allowed,
            e.LimitExceeded: self._limit_exceeded,
            e.LimitShadowExceeded: self._limit_shadow,
            e.LimitFellBack: self._limit_fell_back,
            e.ResponseCompressed: self._compressed,
            e.TaskPublished: self._task_published,
            e.TaskPublishFailed: self._task_publish_failed,
            e.TaskFinished: self._task_finished,
            e.TaskDead: self._task_dead,
            e.QueueMeasured: self._queue_measured,
            e.TasksMeasured: self._tasks_measured,
            e.OutboxMeasured: self._outbox_measured,
            e.ObjectStored: self._object_stored,
            e.StorageFailed: self._storage_failed,
        }

    def __call__(self, event: e.Event) -> None:
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event)

    def _breaker(self, event: e.BreakerChanged) -> None:
        self._metrics.breaker_state[(event.breaker,)].set(_BREAKER.get(event.state, 2))

    def _guarded_call(self, event: e.GuardedCall) -> None:
        self._metrics.redis_duration[(event.breaker,)].observe(event.seconds)
        if event.error:
            self._metrics.redis_errors[event.breaker, event.error].inc()

    # --- cache

    def _cache_hit(self, event: e.CacheHit) -> None:
        result = "stale" if event.source == "stale" else "hit_redis"
        self._metrics.cache_requests[event.cache, event.function, result].inc()

    def _cache_miss(self, event: e.CacheMiss) -> None:
        self._metrics.cache_requests[event.cache, event.function, "miss"].inc()

    def _cache_loaded(self, event: e.CacheLoaded) -> None:
        self._metrics.cache_load[event.cache, event.function].observe(event.seconds)
        if event.error:
            self._metrics.cache_load_errors[event.cache, event.function, event.error].inc()

    def _cache_invalidated(self, event: e.CacheInvalidated) -> None:
        self._metrics.cache_invalidations[(event.cache,)].inc(event.keys + event.tags + event.everything)

    def _cache_rejected(self, event: e.CacheRejected) -> None:
        self._metrics.cache_rejected[event.cache, event.reason].inc()

    def _cache_channel(self, event: e.CacheChannelChanged) -> None:
        self._metrics.cache_channel[(event.cache,)].set(event.state == "live")

    def _http_cache(self, event: e.HTTPCacheAnswered) -> None:
        self._metrics.http_cache[event.outcome, event.route].inc()

    def _purged(self, event: e.CDNPurged) -> None:
        self._metrics.cdn_purges[event.cdn, "purged"].inc(event.keys)

    def _purge_failed(self, event: e.CDNPurgeFailed) -> None:
        self._metrics.cdn_purges[event.cdn, "failed"].inc(event.keys)

    def _cursor_rejected(self, event: e.CursorRejected) -> None:
        self._metrics.cursors_rejected[(event.reason,)].inc()

    # --- mongo

    def _slow_query(self, event: e.SlowQuery) -> None:
        self._metrics.mongo_slow[(event.collection,)].inc()
        if self._slow_queries is not None:
            self._slow_queries.note(event)

    def _repeated_query(self, event: e.RepeatedQuery) -> None:
        self._metrics.mongo_repeated[(event.collection,)].inc()

    def _primary_changed(self, event: e.PrimaryChanged) -> None:
        if event.previous is not None:  # else it is the first, or the end of a change that was counted
            self._metrics.mongo_primary_changes.inc()

    def _fell_back_to_primary(self, event: e.ReadFellBackToPrimary) -> None:
        self._metrics.mongo_fell_back.inc()

    def _causal_wait(self, event: e.CausalWait) -> None:
        self._metrics.mongo_causal_wait[("yes" if event.reached else "no",)].observe(event.milliseconds / 1000)

    def _token_ignored(self, event: e.CausalTokenIgnored) -> None:
        self._metrics.mongo_tokens_ignored[(event.reason,)].inc()

    def _pool_exhausted(self, event: e.PoolExhausted) -> None:
        self._metrics.mongo_pool_exhausted.inc()

    # --- limits, compression

    def _limit_allowed(self, event: e.LimitAllowed) -> None:
        self._metrics.limit_decisions[event.limit, event.route, "allowed", event.tier].inc()

    def _limit_exceeded(self, event: e.LimitExceeded) -> None:
        self._metrics.limit_decisions[event.limit, event.route, "refused", event.tier].inc()

    def _limit_shadow(self, event: e.LimitShadowExceeded) -> None:
        self._metrics.limit_decisions[event.limit, event.route, "shadow", event.tier].inc()

    def _limit_fell_back(self, event: e.LimitFellBack) -> None:
        self._metrics.limit_decisions[event.limit, event.route, "fell_back", ""].inc()

    def _compressed(self, event: e.ResponseCompressed) -> None:
        self._metrics.compressed_bytes[event.encoding, "before"].inc(event.bytes_before)
        self._metrics.compressed_bytes[event.encoding, "after"].inc(event.bytes_after)

    # --- tasks and storage

    def _task_published(self, event: e.TaskPublished) -> None:
        self._metrics.task_published[(event.task,)].inc()
        self._metrics.task_publish[(event.task,)].observe(event.seconds)

    def _task_publish_failed(self, event: e.TaskPublishFailed) -> None:
        self._metrics.task_publish_failures[(event.task,)].inc()

    def _task_finished(self, event: e.TaskFinished) -> None:
        self._metrics.task_outcomes[event.task, event.queue, event.outcome].inc()
        self._metrics.task_duration[event.task, event.queue].observe(event.ran)
        self._metrics.task_wait[event.task, event.queue].observe(event.waited)

    def _task_dead(self, event: e.TaskDead) -> None:
        self._metrics.task_dead[event.task, event.queue, event.reason].inc()

    def _queue_measured(self, event: e.QueueMeasured) -> None:
        self._metrics.queue_depth[(event.queue,)].set(event.depth)
        self._metrics.queue_age[(event.queue,)].set(event.age)

    def _tasks_measured(self, event: e.TasksMeasured) -> None:
        self._metrics.tasks_running.set(event.running)
        self._metrics.tasks_dead.set(event.dead)

    def _outbox_measured(self, event: e.OutboxMeasured) -> None:
        self._metrics.outbox_pending.set(event.pending)
        self._metrics.outbox_age.set(event.age)

    def _object_stored(self, event: e.ObjectStored) -> None:
        self._metrics.storage[event.store, "store"].observe(event.seconds)
        self._metrics.stored_bytes[(event.store,)].inc(event.size)

    def _storage_failed(self, event: e.StorageFailed) -> None:
        self._metrics.storage_failures[event.store, event.operation].inc()
