from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from typing import Any

import pytest

from smriti_scale.cache import Cache
from smriti_scale.errors import ConfigurationError
from smriti_scale.mongo.status import MongoStatus, NodeStatus, PoolStatus
from smriti_scale.monitoring import Metrics, Monitoring
from smriti_scale.monitoring.samplers import Samples
from smriti_scale.tasks.queues import BrokerState, QueueState
from smriti_scale.testing import ManualClock
from tests.monitoring.figures import series, until, value

POOL = PoolStatus(limit=50, open=12, busy=5, waiting=3)
PRIMARY = NodeStatus("a:1", "primary", None, 0.001, False, POOL)
SECONDARY = NodeStatus("b:1", "secondary", 4.0, 0.001, False, PoolStatus(50, 10, 0, 0))


async def test_pools_and_lag_are_as_the_clients_see_them() -> None:
    metrics = Metrics()
    Samples(metrics).record("mongodb", MongoStatus.of([PRIMARY, SECONDARY]))
    assert series(metrics, "scale_mongo_pool_connections") == {
        ("a:1", "in_use"): 5,
        ("a:1", "idle"): 7,
        ("b:1", "in_use"): 0,
        ("b:1", "idle"): 10,
    }
    assert series(metrics, "scale_mongo_pool_waiting") == {("a:1",): 3, ("b:1",): 0}
    assert series(metrics, "scale_mongo_replication_lag_seconds") == {("b:1",): 4}


async def test_a_node_that_is_gone_or_became_primary_leaves_no_old_figure() -> None:
    metrics = Metrics()
    samples = Samples(metrics)
    samples.record("mongodb", MongoStatus.of([PRIMARY, SECONDARY]))
    samples.record("mongodb", MongoStatus.of([replace(SECONDARY, role="primary", lag_seconds=None)]))
    assert series(metrics, "scale_mongo_pool_limit") == {("a:1",): 0, ("b:1",): 50}
    assert series(metrics, "scale_mongo_pool_connections")["a:1", "in_use"] == 0
    assert series(metrics, "scale_mongo_replication_lag_seconds") == {("b:1",): 0}


async def test_hits_in_memory_are_counted_from_one_look_to_the_next() -> None:
    monitoring = Monitoring()
    cache = Cache(None, namespace="looked-at", max_entries=2)

    @cache.cached(ttl=60, key="n:{n}")
    async def double(n: int) -> int:
        return 2 * n

    monitoring.sample("cache", cache.stats)
    async with cache:
        for n in (1, 1, 1):
            await double(n)
        await monitoring.look()
        for n in (1, 2, 3, 4):
            await double(n)
        await monitoring.look()
        await monitoring.look()
    labels = {"cache": "looked-at", "function": "", "result": "hit_memory"}
    assert value(monitoring.metrics, "scale_cache_requests_total", **labels) == 3
    assert value(monitoring.metrics, "scale_cache_evictions_total", cache="looked-at") == 2
    assert value(monitoring.metrics, "scale_cache_entries", cache="looked-at") == 2
    assert value(monitoring.metrics, "scale_cache_bytes", cache="looked-at") > 0


async def test_a_cache_that_began_anew_does_not_take_counts_back() -> None:
    metrics = Metrics()
    samples = Samples(metrics)
    stats = Cache(None, namespace="n").stats()
    for hits in (10, 4, 6):
        samples.record("cache", replace(stats, hits_memory=hits))
    assert series(metrics, "scale_cache_requests_total") == {("n", "", "hit_memory"): 16}


async def test_queues_are_as_the_monitor_found_them() -> None:
    metrics = Metrics()
    Samples(metrics).record("queues", BrokerState((QueueState("default", 7, 2.5),), running=3, dead=1))
    assert series(metrics, "scale_queue_depth") == {("default",): 7}
    assert series(metrics, "scale_queue_age_seconds") == {("default",): 2.5}
    assert value(metrics, "scale_tasks_running") == 3
    assert value(metrics, "scale_tasks_dead") == 1


async def test_a_look_that_fails_is_counted_logged_once_and_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    monitoring = Monitoring()
    broken: list[Any] = [ConnectionError("mongodb://user:hunter2@host"), None]

    async def look() -> None:
        if broken[0] is not None:
            raise broken[0]

    monitoring.sample("broken", look)
    monitoring.sample("odd", lambda: 42)
    monitoring.sample("queues", lambda: BrokerState((), running=9, dead=0))
    with caplog.at_level(logging.WARNING, "smriti_scale.monitoring"):
        await monitoring.look()
        await monitoring.look()
    assert [record.getMessage() for record in caplog.records] == [
        "cannot look at broken: ConnectionError",
        "cannot look at odd: ConfigurationError",
    ]
    failures = "scale_sample_failures_total"
    assert series(monitoring.metrics, failures) == {("broken",): 2, ("odd",): 2}
    assert value(monitoring.metrics, "scale_tasks_running") == 9
    broken[0] = None
    await monitoring.look()
    assert value(monitoring.metrics, failures, sample="broken") == 2


def test_a_sample_needs_a_name_of_its_own_and_an_interval_that_can_be() -> None:
    monitoring = Monitoring()
    monitoring.sample("cache", lambda: None)
    with pytest.raises(ConfigurationError, match="'cache' already"):
        monitoring.sample("cache", lambda: None)
    with pytest.raises(ConfigurationError, match="sample_interval"):
        Monitoring(sample_interval=0)


async def test_it_looks_every_interval_until_it_is_closed(clock: ManualClock) -> None:
    looks = 0
    looked = asyncio.Event()

    def look() -> None:
        nonlocal looks
        looks += 1
        looked.set()

    monitoring = Monitoring(clock=clock, sample_interval=5.0)
    monitoring.sample("counted", look)

    async def next_look() -> None:
        await looked.wait()
        looked.clear()
        await until(lambda: clock.sleepers == 2)  # this and the evaluator

    async with monitoring:
        await monitoring.start()  # a second start changes nothing
        await next_look()
        for _ in range(2):
            clock.advance(5)
            await next_look()
    clock.advance(50)
    await asyncio.sleep(0)
    assert looks == 3
    assert clock.sleepers == 0


async def test_what_else_runs_with_it_ends_with_it_and_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    monitoring = Monitoring()
    states: list[str] = []

    async def runs() -> None:
        states.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            states.append("ended")

    async def fails() -> None:
        raise ValueError("told to")

    monitoring.run("runs", runs)
    monitoring.run("fails", fails)
    async with monitoring:
        await until(lambda: "monitoring: fails ended" in caplog.text)
        assert states == ["begun"]
    assert states == ["begun", "ended"]


async def test_a_blocked_event_loop_shows_as_lag() -> None:
    monitoring = Monitoring()
    metrics = monitoring.metrics
    count, total = "scale_event_loop_lag_seconds_count", "scale_event_loop_lag_seconds_sum"
    async with monitoring:
        await until(lambda: value(metrics, count) >= 1)
        before, seen = value(metrics, total), value(metrics, count)
        time.sleep(0.6)  # noqa: ASYNC251 - this is what is to be noticed
        await until(lambda: value(metrics, count) > seen)
        assert value(metrics, total) - before >= 0.3


async def test_memory_and_cpu_of_this_machine_are_read(clock: ManualClock) -> None:
    monitoring = Monitoring()
    await monitoring.look()
    metrics = monitoring.metrics
    assert value(metrics, "scale_process_resident_bytes") > 10_000_000
    assert 0 < value(metrics, "scale_memory_used_ratio") < 1
    used, limit = value(metrics, "scale_memory_used_bytes"), value(metrics, "scale_memory_limit_bytes")
    assert used / limit == pytest.approx(value(metrics, "scale_memory_used_ratio"))
