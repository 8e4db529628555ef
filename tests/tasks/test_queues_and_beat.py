"""Figures about the queues, and beat with one leader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis.asyncio

from smriti_scale.events import Event, Events, QueueMeasured, TasksMeasured
from smriti_scale.local import LocalRedis
from smriti_scale.tasks import Delivery, make_celery, publish
from smriti_scale.tasks.app import ScaleCelery
from smriti_scale.tasks.beat import LeaderScheduler
from smriti_scale.tasks.queues import QueueMonitor, age_of
from smriti_scale.testing.manual_clock import ManualClock


def make(url: str, prefix: str, **options: Any) -> ScaleCelery:
    app = make_celery("tests.queues", url, key_prefix=prefix, queues=("default", "slow"), **options)

    @app.task(name="job")
    def job(value: Any = None) -> None: ...

    return app


@pytest.fixture
async def app(redis_url: str, redis_prefix: str) -> AsyncIterator[ScaleCelery]:
    made = make(
        redis_url,
        redis_prefix,
        schedule={"often": {"task": "job", "schedule": timedelta(seconds=60), "args": ["scheduled"]}},
    )
    yield made
    await made.aclose()


async def test_depth_and_age_are_measured_over_all_priorities(app: ScaleCelery) -> None:
    seen: list[Event] = []
    app.scale_events = Events(seen.append)
    for priority in ("high", "normal", "normal", "low"):
        await publish(app.tasks["job"], delivery=Delivery(priority=priority))
    await publish(app.tasks["job"], delivery=Delivery(queue="slow"))
    state = await app.queue_monitor.measure()
    assert [(queue.name, queue.depth) for queue in state.queues] == [("default", 4), ("slow", 1)]
    assert all(0 < queue.age < 60 for queue in state.queues)
    assert (state.running, state.dead) == (0, 0)
    assert [event.depth for event in seen if isinstance(event, QueueMeasured)] == [4, 1]
    assert TasksMeasured(running=0, dead=0) in seen


async def test_the_monitor_goes_on_looking_when_the_broker_was_away(own_redis: Any) -> None:
    server: LocalRedis = await own_redis()
    clock = ManualClock()
    seen: list[Event] = []
    app = make(server.uri, "", events=Events(seen.append))
    monitor = QueueMonitor(app, interval=15, clock=clock)
    looking = asyncio.create_task(monitor.run())
    await clock.until_sleepers()
    assert len(seen) == 3
    await server.kill()
    clock.advance(15)
    await clock.until_sleepers()
    assert len(seen) == 3
    await server.restart()
    clock.advance(15)
    await clock.until_sleepers()
    assert len(seen) == 6
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    await monitor.aclose()


def test_the_age_of_a_foreign_message_is_unknown() -> None:
    assert [age_of(message, 10) for message in (None, b"x", b"{}", b'{"headers": {"smriti_scale": 1}}')] == [0.0] * 4
    assert age_of(b'{"headers": {"smriti_scale": {"published_at": 4}}}', 10) == 6


async def read(client: redis.asyncio.Redis, prefix: str) -> int:
    return int(await client.llen(f"{prefix}default\x06\x163"))


async def test_one_beat_leads_and_another_takes_over_without_a_run_twice(
    app: ScaleCelery, redis_client: redis.asyncio.Redis, redis_prefix: str
) -> None:
    def late(scheduler: LeaderScheduler) -> None:
        scheduler.schedule["often"].last_run_at = datetime.now(UTC) - timedelta(seconds=61)
        scheduler._heap = None

    def beat_twice(scheduler: LeaderScheduler) -> None:
        scheduler.tick()
        scheduler.tick()

    first, second = LeaderScheduler(app), LeaderScheduler(app)
    await asyncio.to_thread(first.tick)
    await asyncio.to_thread(second.tick)
    assert (first.leading, second.leading) == (True, False)
    late(first)
    late(second)
    await asyncio.to_thread(beat_twice, first)
    await asyncio.to_thread(beat_twice, second)
    assert await read(redis_client, redis_prefix) == 1
    await asyncio.to_thread(first.close)
    await asyncio.to_thread(beat_twice, second)
    assert second.leading
    assert await read(redis_client, redis_prefix) == 1  # it knows when the first ran it
    late(second)
    await asyncio.to_thread(beat_twice, second)
    assert await read(redis_client, redis_prefix) == 2
    await asyncio.to_thread(second.close)


async def test_a_beat_that_dies_is_followed_by_another_when_its_lease_ends(
    app: ScaleCelery, redis_client: redis.asyncio.Redis, redis_prefix: str
) -> None:
    first, second = LeaderScheduler(app), LeaderScheduler(app)
    await asyncio.to_thread(first.tick)
    assert 0 < await redis_client.pttl(f"{redis_prefix}smriti_scale:beat") <= 15_000
    await redis_client.delete(f"{redis_prefix}smriti_scale:beat")  # its time has passed
    await asyncio.to_thread(second.tick)
    await asyncio.to_thread(first.tick)
    assert (first.leading, second.leading) == (False, True)
    await asyncio.to_thread(second.close)


async def test_a_due_run_waits_for_the_broker_and_is_not_dropped(own_redis: Any) -> None:
    server: LocalRedis = await own_redis()
    app = make(server.uri, "", schedule={"often": {"task": "job", "schedule": timedelta(seconds=60)}})
    scheduler = LeaderScheduler(app)
    await asyncio.to_thread(scheduler.tick)
    await server.kill()
    applying = asyncio.create_task(asyncio.to_thread(scheduler.apply_entry, scheduler.schedule["often"]))
    await asyncio.sleep(0.3)
    assert not applying.done()
    await server.restart()
    await asyncio.wait_for(applying, 30)
    async with redis.asyncio.Redis.from_url(server.uri) as client:
        assert await read(client, "") == 1
    await asyncio.to_thread(scheduler.close)
    await app.aclose()
