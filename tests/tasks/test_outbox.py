"""A task is published if, and only if, the write it belongs to is committed."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
import redis.asyncio

from smriti_scale import context
from smriti_scale.errors import ConfigurationError, NotSerializable
from smriti_scale.events import Event, Events, OutboxMeasured
from smriti_scale.local import LocalRedis
from smriti_scale.tasks import Delivery, Outbox, make_celery
from smriti_scale.tasks.app import ScaleCelery
from smriti_scale.testing.manual_clock import ManualClock


def make(url: str, prefix: str, **options: Any) -> ScaleCelery:
    app = make_celery("tests.outbox", url, key_prefix=prefix, **options)

    @app.task(name="job")
    def job(value: Any = None) -> None: ...

    return app


@pytest.fixture
async def app(redis_url: str, redis_prefix: str) -> AsyncIterator[ScaleCelery]:
    made = make(redis_url, redis_prefix)
    yield made
    await made.aclose()


@asynccontextmanager
async def transaction(db: Any) -> AsyncIterator[Any]:
    """As both drivers spell it."""
    session = db.client.start_session()
    session = await session if inspect.isawaitable(session) else session
    async with session:
        begun = session.start_transaction()
        async with await begun if inspect.isawaitable(begun) else begun:
            yield session


async def published(client: redis.asyncio.Redis, prefix: str) -> list[dict[str, Any]]:
    found = await client.lrange(f"{prefix}default\x06\x163", 0, -1)
    return [orjson.loads(message)["headers"] for message in reversed(found)]


async def test_a_committed_task_is_published_with_its_context_and_id_and_an_aborted_one_is_not(
    app: ScaleCelery, both_drivers_db: Any, redis_client: redis.asyncio.Redis, redis_prefix: str
) -> None:
    db = both_drivers_db
    await db.create_collection("posts")
    outbox = Outbox(db.outbox, app)
    await outbox.ensure_indexes()
    with context.restored({"request_id": "r-1"}):
        async with transaction(db) as session:
            await db.posts.insert_one({"_id": 1}, session=session)
            task_id = await outbox.publish_on_commit(app.tasks["job"], {"post": 1}, session=session)
            assert await outbox.relay_once() == 0  # not committed yet

    async def fails_midway() -> None:
        async with transaction(db) as session:
            await outbox.publish_on_commit(app.tasks["job"], {"post": 2}, session=session)
            raise LookupError

    with pytest.raises(LookupError):
        await fails_midway()
    pending, age = await outbox.measure()
    assert pending == 1
    assert 0 <= age < 30
    assert await outbox.relay_once() == 1
    assert await outbox.relay_once() == 0
    [headers] = await published(redis_client, redis_prefix)
    assert headers["id"] == task_id
    assert headers["smriti_scale"]["request_id"] == "r-1"
    assert await db.outbox.count_documents({}) == 0


async def test_the_relay_notices_commits_of_its_own_process_soon(
    app: ScaleCelery, motor_db: Any, redis_client: redis.asyncio.Redis, redis_prefix: str
) -> None:
    await motor_db.create_collection("outbox")
    outbox = Outbox(motor_db.outbox, app, poll=60)
    async with outbox.running():
        await asyncio.sleep(0.05)
        async with transaction(motor_db) as session:
            await outbox.publish_on_commit(app.tasks["job"], session=session)
        for _ in range(500):
            if await published(redis_client, redis_prefix):
                return
            await asyncio.sleep(0.02)
    pytest.fail("the relay slept through the commit")


async def test_several_relays_share_the_work_and_publish_each_task_once(
    app: ScaleCelery, motor_db: Any, redis_client: redis.asyncio.Redis, redis_prefix: str
) -> None:
    await motor_db.create_collection("outbox")
    relays = [Outbox(motor_db.outbox, app, batch=7) for _ in range(4)]
    ids = []
    for _ in range(5):
        async with transaction(motor_db) as session:
            ids += [await relays[0].publish_on_commit(app.tasks["job"], n, session=session) for n in range(10)]
    while sum(await asyncio.gather(*(relay.relay_once() for relay in relays))):
        pass
    assert sorted(headers["id"] for headers in await published(redis_client, redis_prefix)) == sorted(ids)


async def test_a_broker_that_is_away_delays_tasks_and_loses_none(
    own_redis: Any, motor_db: Any, redis_prefix: str
) -> None:
    server: LocalRedis = await own_redis()
    clock = ManualClock()
    seen: list[Event] = []
    app = make(server.uri, redis_prefix, events=Events(seen.append))
    await motor_db.create_collection("outbox")
    outbox = Outbox(motor_db.outbox, app, clock=clock)
    async with transaction(motor_db) as session:
        task_id = await outbox.publish_on_commit(app.tasks["job"], session=session)
    await server.kill()
    assert await outbox.relay_once() == 0
    waiting = await motor_db.outbox.find_one({})
    assert waiting["attempts"] == 1
    assert "PublishFailed" in waiting["last_error"]
    assert await outbox.relay_once() == 0  # put off: it is not due
    await server.restart()
    clock.advance(60)
    assert (await outbox.measure())[1] == pytest.approx(60, abs=1)
    assert isinstance(seen[-1], OutboxMeasured)
    for _ in range(100):
        clock.advance(600)
        if await outbox.relay_once():
            break
        await asyncio.sleep(0.1)
    async with redis.asyncio.Redis.from_url(server.uri) as client:
        assert [headers["id"] for headers in await published(client, redis_prefix)] == [task_id]
    await app.aclose()


async def test_what_a_dead_relay_had_taken_is_taken_by_another(app: ScaleCelery, motor_db: Any) -> None:
    await motor_db.create_collection("outbox")
    clock = ManualClock()
    outbox = Outbox(motor_db.outbox, app, clock=clock, lease=30)
    async with transaction(motor_db) as session:
        await outbox.publish_on_commit(app.tasks["job"], session=session)
    assert len(await outbox._take()) == 1  # and then it dies
    assert await outbox.relay_once() == 0
    clock.advance(31)
    assert await outbox.relay_once() == 1


async def test_a_task_this_process_does_not_know_waits_for_one_that_does(
    app: ScaleCelery, motor_db: Any, redis_url: str, redis_prefix: str
) -> None:
    await motor_db.create_collection("outbox")
    old = make_celery("tests.outbox", redis_url, key_prefix=redis_prefix)
    clock = ManualClock()
    async with transaction(motor_db) as session:
        await Outbox(motor_db.outbox, app, clock=clock).publish_on_commit(app.tasks["job"], session=session)
    assert await Outbox(motor_db.outbox, old, clock=clock).relay_once() == 0
    clock.advance(60)
    assert await Outbox(motor_db.outbox, app, clock=clock).relay_once() == 1


async def test_what_cannot_work_is_refused_before_the_commit(app: ScaleCelery, motor_db: Any) -> None:
    await motor_db.create_collection("outbox")
    outbox = Outbox(motor_db.outbox, app)
    async with await motor_db.client.start_session() as session:
        with pytest.raises(ConfigurationError, match="transaction under way"):
            await outbox.publish_on_commit(app.tasks["job"], session=session)
    async with transaction(motor_db) as session:
        with pytest.raises(NotSerializable):
            await outbox.publish_on_commit(app.tasks["job"], object(), session=session)
        with pytest.raises(ConfigurationError, match="waits for the commit"):
            await outbox.publish_on_commit(app.tasks["job"], session=session, delivery=Delivery(after_response=True))
    with pytest.raises(ConfigurationError, match="must be positive"):
        Outbox(motor_db.outbox, app, poll=0)
