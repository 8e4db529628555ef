"""What the dashboard computes, against real prometheus_client instruments: no server, no browser."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, strategies as st
from prometheus_client import CollectorRegistry, Histogram as Instrument

from smriti_scale.events import SlowQuery
from smriti_scale.monitoring import Metrics, Monitoring, snapshot
from smriti_scale.monitoring.dashboard import sections
from smriti_scale.monitoring.dashboard.picture import compose, plain
from smriti_scale.monitoring.dashboard.readings import Histogram, Readings, Span

START = 1_700_000_000.0


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def looked(metrics: Metrics, readings: Readings | None = None, *, at: float = START + 10) -> Readings:
    readings = readings or Readings(started=START)
    readings.add(metrics.gathered().collect(), at=at)
    return readings


def since_start(metrics: Metrics) -> Span:
    return looked(metrics).span()


def serve(metrics: Metrics, method: str, route: str, status: int, seconds: float, times: int = 1) -> None:
    for _ in range(times):
        metrics.http_requests[method, route, str(status)].inc()
        metrics.http_duration[method, route].observe(seconds)


# --- quantiles


def test_a_quantile_lies_evenly_in_its_bucket_as_prometheus_has_it() -> None:
    histogram = Histogram((0.1, 0.2, math.inf), (10.0, 20.0, 20.0), 3.0)
    assert histogram.quantile(0.95) == pytest.approx(0.19)
    assert histogram.quantile(0.5) == pytest.approx(0.1)
    assert histogram.quantile(0.25) == pytest.approx(0.05)
    assert histogram.mean == pytest.approx(0.15)


def test_above_the_last_bound_only_the_bound_is_known_and_of_nothing_nothing() -> None:
    assert Histogram((0.1, math.inf), (0.0, 4.0), 20.0).quantile(0.95) == 0.1
    assert Histogram((0.1, math.inf), (0.0, 0.0), 0.0).quantile(0.95) is None
    assert Histogram((), (), 0.0).quantile(0.5) is None
    assert Histogram((), (), 0.0).mean is None


BOUNDS = (0.005, 0.05, 0.1, 0.5, 1.0)


@given(st.lists(st.floats(0.0001, 0.99), min_size=1, max_size=60), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_a_quantile_is_in_the_bucket_of_the_true_one(observed: list[float], q: float) -> None:
    registry = CollectorRegistry()
    instrument = Instrument("scale_thing_seconds", "…", registry=registry, buckets=BOUNDS)
    for value in observed:
        instrument.observe(value)
    readings = Readings(started=START)
    readings.add(registry.collect(), at=START + 1)
    histogram = readings.span().histogram("scale_thing_seconds")
    assert histogram is not None
    assert histogram.count == len(observed)
    assert histogram.total == pytest.approx(sum(observed))
    true = sorted(observed)[max(math.ceil(q * len(observed) - 1e-9) - 1, 0)]
    upper = next(bound for bound in BOUNDS if true <= bound)
    lower = max((bound for bound in BOUNDS if bound < true), default=0.0)
    found = histogram.quantile(q)
    assert found is not None
    assert lower <= found <= upper + 1e-12


# --- looking back


def test_a_window_counts_what_came_within_it(metrics: Metrics) -> None:
    serve(metrics, "GET", "/posts", 200, 0.3, times=7)
    readings = looked(metrics, at=START)
    serve(metrics, "GET", "/posts", 200, 0.02, times=3)
    looked(metrics, readings, at=START + 300)
    assert sections.traffic(readings.span(300.0))["requests"] == 3
    assert sections.traffic(readings.span(300.0))["p95"] < 0.025
    assert sections.traffic(readings.span(300.0))["rate"] == pytest.approx(0.01)
    assert sections.traffic(readings.span())["requests"] == 10


def test_before_a_window_is_full_it_is_what_was_seen(metrics: Metrics) -> None:
    readings = looked(metrics, at=START)
    serve(metrics, "GET", "/posts", 200, 0.02, times=4)
    looked(metrics, readings, at=START + 20)
    span = readings.span(300.0)
    assert span.seconds == 20
    assert sections.traffic(span)["rate"] == pytest.approx(0.2)


def test_a_single_look_shows_all_there_is(metrics: Metrics) -> None:
    serve(metrics, "GET", "/posts", 200, 0.02, times=4)
    assert sections.traffic(looked(metrics).span(300.0))["requests"] == 4
    with pytest.raises(LookupError):
        Readings(started=START).span()


def test_a_counter_that_fell_began_anew() -> None:
    readings = Readings(started=START)
    for at, times in ((0, 9), (10, 4)):
        fresh = Metrics()
        serve(fresh, "GET", "/posts", 200, 0.02, times=times)
        readings.add(fresh.gathered().collect(), at=START + at)
    assert sections.traffic(readings.span(300.0))["requests"] == 4


def test_a_clock_set_back_forgets_the_later_looks(metrics: Metrics) -> None:
    readings = looked(metrics, at=START + 5000)
    serve(metrics, "GET", "/posts", 200, 0.02)
    looked(metrics, readings, at=START + 10)
    assert readings.latest == START + 10
    assert sections.traffic(readings.span(300.0))["requests"] == 1


def test_an_hour_is_kept_in_few_looks_and_what_is_older_dropped(metrics: Metrics) -> None:
    readings = Readings(started=START)
    for minute in range(100):
        for second in (0, 20, 40):
            serve(metrics, "GET", "/posts", 200, 0.02)
            looked(metrics, readings, at=START + minute * 60 + second)
    assert sections.traffic(readings.span(3600.0))["requests"] == pytest.approx(180, abs=4)
    assert sections.traffic(readings.span(300.0))["requests"] == 15
    assert readings.looks < 80


def test_how_fast_a_counter_grew_is_kept_for_the_line(metrics: Metrics) -> None:
    readings = looked(metrics, at=START)
    for at, times in ((10, 20), (20, 0), (30, 5)):
        serve(metrics, "GET", "/posts", 200, 0.02, times=times)
        looked(metrics, readings, at=START + at)
    history = readings.history("scale_http_requests_total")
    assert history == [(START + 10, 2.0), (START + 20, 0.0), (START + 30, 0.5)]
    assert readings.history("scale_no_such_total") == [(START + at, 0.0) for at in (10, 20, 30)]


# --- sections


def test_routes_come_slowest_first_with_their_errors_and_without_the_silent(metrics: Metrics) -> None:
    serve(metrics, "GET", "/quick", 200, 0.004, times=10)
    serve(metrics, "GET", "/slow", 200, 0.4, times=9)
    serve(metrics, "GET", "/slow", 503, 0.4)
    serve(metrics, "POST", "/slow", 404, 0.04, times=2)
    readings = looked(metrics, at=START)
    serve(metrics, "GET", "/slow", 500, 0.4)
    looked(metrics, readings, at=START + 10)
    rows = sections.routes(readings.span())
    assert [(row["method"], row["route"]) for row in rows] == [("GET", "/slow"), ("POST", "/slow"), ("GET", "/quick")]
    assert (rows[0]["requests"], rows[0]["errors"]) == (11, 2)
    assert rows[1]["error_ratio"] == 0  # a 404 is the caller's
    assert [row["route"] for row in sections.routes(readings.span(300.0))] == ["/slow"]
    assert len(sections.routes(readings.span(), most=2)) == 2


def test_the_hit_ratio_is_of_calls_that_waited_for_nothing(metrics: Metrics) -> None:
    metrics.cache_requests["posts", "", "hit_memory"].inc(70)
    metrics.cache_requests["posts", "posts_of", "hit_redis"].inc(15)
    metrics.cache_requests["posts", "posts_of", "stale"].inc(5)
    metrics.cache_requests["posts", "posts_of", "miss"].inc(10)
    metrics.cache_load["posts", "posts_of"].observe(0.03)
    metrics.cache_entries[("posts",)].set(12)
    metrics.cache_requests["unused", "", "hit_memory"].inc(0)
    posts, unused = sections.caches(since_start(metrics))
    assert (posts["memory"], posts["redis"], posts["stale"], posts["miss"]) == (70, 15, 5, 10)
    assert posts["hit_ratio"] == pytest.approx(0.9)
    assert posts["entries"] == 12
    assert posts["load_p95"] is not None
    assert unused["hit_ratio"] is None


def test_http_caching_leaves_out_what_may_not_be_shared(metrics: Metrics) -> None:
    assert sections.http_cache(since_start(metrics)) is None
    for outcome, times in (("hit", 6), ("stale", 1), ("miss", 3), ("bypass", 50)):
        metrics.http_cache[outcome, "/posts"].inc(times)
    found = sections.http_cache(since_start(metrics))
    assert found is not None
    assert found["hit_ratio"] == pytest.approx(0.7)
    assert found["bypass"] == 50


def test_limits_with_most_refusals_come_first(metrics: Metrics) -> None:
    metrics.limit_decisions["5 per 1 minute", "/signup", "allowed", ""].inc(5)
    metrics.limit_decisions["5 per 1 minute", "/signup", "refused", ""].inc(15)
    metrics.limit_decisions["300 per 1 minute", "/posts", "allowed", "pro"].inc(100)
    metrics.limit_decisions["300 per 1 minute", "/posts", "fell_back", "pro"].inc(2)
    first, second = sections.limits(since_start(metrics))
    assert (first["route"], first["refused"], first["refused_ratio"]) == ("/signup", 15, 0.75)
    assert (second["tier"], second["allowed"], second["fell_back"]) == ("pro", 100, 2)


def test_mongo_shows_pools_lag_and_what_took_the_most_time(metrics: Metrics) -> None:
    assert sections.mongo(since_start(metrics)) is None
    for state, held in (("in_use", 3), ("idle", 7)):
        metrics.mongo_pool["a:1", state].set(held)
    metrics.mongo_pool_limit[("a:1",)].set(50)
    metrics.mongo_pool_waiting[("a:1",)].set(2)
    metrics.mongo_lag[("b:1",)].set(4)
    metrics.mongo_duration["posts", "find"].observe(0.004)
    metrics.mongo_duration["users", "find"].observe(0.4)
    metrics.mongo_errors["users", "find", "MaxTimeMSExpired"].inc()
    metrics.mongo_pool_exhausted.inc()
    found = sections.mongo(since_start(metrics))
    assert found is not None
    assert found["nodes"] == [
        {"node": "a:1", "in_use": 3, "idle": 7, "limit": 50, "waiting": 2, "lag": None},
        {"node": "b:1", "in_use": None, "idle": None, "limit": None, "waiting": None, "lag": 4},
    ]
    assert [(row["collection"], row["errors"]) for row in found["commands"]] == [("users", 1), ("posts", 0)]
    assert found["commands"][0]["mean"] == pytest.approx(0.4)
    assert found["pool_exhausted"] == 1


def test_redis_shows_callers_and_breakers_in_words(metrics: Metrics) -> None:
    assert sections.redis(since_start(metrics)) is None
    metrics.redis_duration[("cache",)].observe(0.001)
    metrics.redis_errors["limiter", "TimeoutError"].inc(3)
    metrics.breaker_state[("redis",)].set(2)
    found = sections.redis(since_start(metrics))
    assert found is not None
    assert found["breakers"] == [{"breaker": "redis", "state": "open"}]
    assert [(row["user"], row["calls"], row["errors"]) for row in found["users"]] == [
        ("cache", 1, 0),
        ("limiter", None, 3),
    ]


def test_tasks_show_queues_outcomes_and_dead_letters(metrics: Metrics) -> None:
    assert sections.tasks(since_start(metrics)) is None
    metrics.queue_depth[("default",)].set(4)
    metrics.queue_age[("default",)].set(1.5)
    metrics.tasks_dead.set(2)
    metrics.task_published[("send",)].inc(9)
    for outcome, times in (("succeeded", 7), ("failed", 1), ("retried", 2)):
        metrics.task_outcomes["send", "default", outcome].inc(times)
    metrics.task_duration["send", "default"].observe(0.2)
    found = sections.tasks(since_start(metrics))
    assert found is not None
    assert found["queues"] == [{"queue": "default", "depth": 4, "age": 1.5}]
    assert (found["dead"], found["published"]) == (2, 9)
    (task,) = found["tasks"]
    assert (task["succeeded"], task["failed"], task["retried"], task["requeued"]) == (7, 1, 2, 0)


def test_the_instance_shows_its_loop_memory_and_cpu(metrics: Metrics) -> None:
    metrics.loop_lag.observe(0.002)
    metrics.memory_used.set(600)
    metrics.memory_ratio.set(0.6)
    found = sections.instance(since_start(metrics))
    assert found["loop_lag_mean"] == pytest.approx(0.002)
    assert (found["memory_used"], found["memory_ratio"]) == (600, 0.6)


# --- the whole


@dataclass(frozen=True)
class Status:
    name: str
    value: float
    burn: dict[str, float]
    history: tuple[tuple[float, float | None], ...]


def test_whatever_the_parts_say_becomes_plain_values() -> None:
    status = Status("latency", math.nan, {"5m": math.inf, "1h": 0.5}, ((1.0, None), (2.0, 0.1)))
    assert plain(status) == {
        "name": "latency",
        "value": None,
        "burn": {"5m": None, "1h": 0.5},
        "history": [[1.0, None], [2.0, 0.1]],
    }
    assert plain({"kind": START.__class__, "set": frozenset({1})}) == {"kind": "<class 'float'>", "set": [1]}


def test_advice_is_absent_unless_somebody_gives_it(metrics: Metrics) -> None:
    readings = looked(metrics)
    assert compose(readings, window="start")["advice"] is None
    assert compose(readings, window="start", advice=[{"title": "Add an index"}])["advice"] == [
        {"title": "Add an index"}
    ]


def test_the_same_readings_make_the_same_picture(metrics: Metrics) -> None:
    serve(metrics, "GET", "/posts", 200, 0.02)
    readings = looked(metrics)
    assert compose(readings, window="5m") == compose(readings, window="5m")
    with pytest.raises(KeyError):
        compose(readings, window="1d")


def test_snapshot_shows_what_monitoring_holds(metrics: Metrics) -> None:
    def advice() -> list[dict[str, Any]]:
        return [{"title": "More memory", "text": "…"}]

    monitoring = Monitoring(metrics=metrics, advice=advice)
    monitoring._slow_queries.note(
        SlowQuery("smriti", "posts", "find posts {user_id: ?}", 210.0, 20, "Index('user_id')")
    )
    serve(metrics, "GET", "/posts", 500, 0.02)
    picture = snapshot(monitoring)
    assert picture["traffic"]["requests"] == 1
    assert picture["routes"][0]["errors"] == 1
    assert picture["slow_queries"][0]["wants"] == "Index('user_id')"
    assert picture["advice"] == [{"title": "More memory", "text": "…"}]
