from __future__ import annotations

import pytest

from smriti_scale import events as e
from smriti_scale.monitoring import Metrics, Monitoring
from smriti_scale.monitoring.recorder import Recorder
from smriti_scale.monitoring.slow_queries import SlowQueries
from smriti_scale.testing import ManualClock
from tests.monitoring.figures import series

Expected = dict[str, dict[tuple[str, ...], float]]

CASES: list[tuple[e.Event, Expected]] = [
    (e.BreakerChanged("limiter", "open"), {"scale_breaker_state": {("limiter",): 2}}),
    (e.BreakerChanged("limiter", "half_open"), {"scale_breaker_state": {("limiter",): 1}}),
    (e.BreakerChanged("limiter", "closed"), {"scale_breaker_state": {("limiter",): 0}}),
    (
        e.GuardedCall("cache app", 0.002, "DeadlineExceeded"),
        {
            "scale_redis_call_duration_seconds_sum": {("cache app",): 0.002},
            "scale_redis_call_errors_total": {("DeadlineExceeded", "cache app"): 1},
        },
    ),
    (e.CacheHit("app", "feed", "redis"), {"scale_cache_requests_total": {("app", "feed", "hit_redis"): 1}}),
    (e.CacheHit("app", "feed", "stale"), {"scale_cache_requests_total": {("app", "feed", "stale"): 1}}),
    (e.CacheMiss("app", "feed"), {"scale_cache_requests_total": {("app", "feed", "miss"): 1}}),
    (
        e.CacheLoaded("app", "feed", 0.25, "KeyError"),
        {
            "scale_cache_load_seconds_sum": {("app", "feed"): 0.25},
            "scale_cache_load_errors_total": {("app", "KeyError", "feed"): 1},
        },
    ),
    (e.CacheInvalidated("app", 2, 3, True, True), {"scale_cache_invalidations_total": {("app",): 6}}),
    (e.CacheRejected("app", "feed", "foreign"), {"scale_cache_rejected_total": {("app", "foreign"): 1}}),
    (e.CacheChannelChanged("app", "live"), {"scale_cache_channel_live": {("app",): 1}}),
    (e.CacheChannelChanged("app", "lost"), {"scale_cache_channel_live": {("app",): 0}}),
    (e.HTTPCacheAnswered("hit", "/feed"), {"scale_http_cache_total": {("hit", "/feed"): 1}}),
    (e.CDNPurged("fastly", 3), {"scale_cdn_purged_keys_total": {("fastly", "purged"): 3}}),
    (e.CDNPurgeFailed("fastly", 2, "503"), {"scale_cdn_purged_keys_total": {("fastly", "failed"): 2}}),
    (e.CursorRejected("signature"), {"scale_cursors_rejected_total": {("signature",): 1}}),
    (e.SlowQuery("app", "posts", "find posts {}", 150, 1, ""), {"scale_mongo_slow_queries_total": {("posts",): 1}}),
    (e.RepeatedQuery("app", "posts", "find posts {}", 9), {"scale_mongo_repeated_queries_total": {("posts",): 1}}),
    (e.PrimaryChanged("a:1", "b:1"), {"scale_mongo_primary_changes_total": {(): 1}}),
    (e.PrimaryChanged(None, "b:1"), {"scale_mongo_primary_changes_total": {(): 0}}),
    (e.ReadFellBackToPrimary(), {"scale_mongo_fell_back_to_primary_total": {(): 1}}),
    (e.CausalWait(20.0, True), {"scale_mongo_causal_wait_seconds_sum": {("yes",): 0.02}}),
    (e.CausalWait(30.0, False), {"scale_mongo_causal_wait_seconds_sum": {("no",): 0.03}}),
    (e.CausalTokenIgnored("foreign"), {"scale_mongo_causal_tokens_ignored_total": {("foreign",): 1}}),
    (e.PoolExhausted(), {"scale_mongo_pool_exhausted_total": {(): 1}}),
    (
        e.LimitAllowed("5 per 1 minute", "/x", "free"),
        {"scale_limit_decisions_total": {("5 per 1 minute", "allowed", "/x", "free"): 1}},
    ),
    (e.LimitExceeded("5/m", "/x", "banned"), {"scale_limit_decisions_total": {("5/m", "refused", "/x", ""): 1}}),
    (e.LimitShadowExceeded("5/m", "/x"), {"scale_limit_decisions_total": {("5/m", "shadow", "/x", ""): 1}}),
    (e.LimitFellBack("5/m", "/x", "memory"), {"scale_limit_decisions_total": {("5/m", "fell_back", "/x", ""): 1}}),
    (
        e.ResponseCompressed("br", 1000, 200),
        {"scale_compressed_bytes_total": {("br", "before"): 1000, ("br", "after"): 200}},
    ),
    (
        e.TaskPublished("mail", 0.01),
        {"scale_task_published_total": {("mail",): 1}, "scale_task_publish_seconds_sum": {("mail",): 0.01}},
    ),
    (e.TaskPublishFailed("mail", "OSError"), {"scale_task_publish_failures_total": {("mail",): 1}}),
    (
        e.TaskFinished("mail", "default", "succeeded", waited=2.0, ran=0.5, retries=0),
        {
            "scale_task_outcomes_total": {("succeeded", "default", "mail"): 1},
            "scale_task_wait_seconds_sum": {("default", "mail"): 2.0},
            "scale_task_duration_seconds_sum": {("default", "mail"): 0.5},
        },
    ),
    (e.TaskDead("mail", "default", "lost"), {"scale_task_dead_total": {("default", "lost", "mail"): 1}}),
    (
        e.QueueMeasured("default", 7, 3.5),
        {"scale_queue_depth": {("default",): 7}, "scale_queue_age_seconds": {("default",): 3.5}},
    ),
    (e.TasksMeasured(4, 2), {"scale_tasks_running": {(): 4}, "scale_tasks_dead": {(): 2}}),
    (e.OutboxMeasured(6, 1.5), {"scale_outbox_pending": {(): 6}, "scale_outbox_age_seconds": {(): 1.5}}),
    (
        e.ObjectStored("s3", 900, 0.3),
        {"scale_storage_seconds_sum": {("store", "s3"): 0.3}, "scale_stored_bytes_total": {("s3",): 900}},
    ),
    (e.StorageFailed("s3", "delete", "OSError"), {"scale_storage_failures_total": {("delete", "s3"): 1}}),
]


@pytest.mark.parametrize(("event", "expected"), CASES, ids=lambda case: type(case).__name__)
def test_an_event_becomes_its_figures(event: e.Event, expected: Expected) -> None:
    events, metrics = e.Events(), Metrics()
    events.subscribe(Recorder(metrics))
    events.emit(event)
    for name, samples in expected.items():
        assert series(metrics, name) == samples


def test_every_event_there_is_has_its_figures_or_is_a_deed_of_an_operator() -> None:
    every = {kind for kind in vars(e).values() if isinstance(kind, type) and issubclass(kind, e.Event)} - {e.Event}
    assert every - {type(event) for event, _ in CASES} == {e.IndexStepDone}
    assert set(Recorder(Metrics())._handlers) == every - {e.IndexStepDone}


def test_an_event_that_nobody_counts_is_let_pass() -> None:
    Recorder(Metrics())(e.IndexStepDone("create", "posts", "a_1", 1.0))


def test_slow_queries_are_kept_by_shape_with_the_index_they_want(clock: ManualClock) -> None:
    events = e.Events()
    monitoring = Monitoring(events=events, clock=clock)
    for milliseconds in (100.0, 300.0):
        clock.advance(1)
        events.emit(e.SlowQuery("app", "posts", "find posts {a: ?}", milliseconds, 1, "Index('a')"))
    events.emit(e.SlowQuery("app", "posts", "find posts {b: ?}", 150.0, 1, "Index('b')"))
    worst, other = monitoring.slow_queries
    assert (worst.shape, worst.count, worst.total_milliseconds, worst.worst_milliseconds, worst.wants) == (
        "find posts {a: ?}", 2, 400.0, 300.0, "Index('a')",
    )  # fmt: skip
    assert worst.last_seen == clock.time()
    assert other.count == 1


def test_the_slow_shapes_seen_longest_ago_make_room() -> None:
    kept = SlowQueries(limit=2)
    for shape in ("a", "b", "a", "c"):
        kept.note(e.SlowQuery("app", "posts", shape, 100, 1, ""))
    assert {shape.shape for shape in kept.shapes()} == {"a", "c"}
