"""The transport, step by step: what a crash at any moment leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Iterator
from typing import Any, cast

import kombu
import orjson
import pytest
import redis

from smriti_scale.local import LocalRedis
from smriti_scale.tasks import Delivery, TaskPolicy, make_celery, publish
from smriti_scale.tasks.app import ScaleCelery
from smriti_scale.tasks.transport import _TAKE
from tests.tasks.conftest import await_ready, load_app, start_worker


@pytest.fixture
def app(redis_url: str, redis_prefix: str) -> ScaleCelery:
    made = make_celery(
        "tests.transport", redis_url, key_prefix=redis_prefix, policy=TaskPolicy(lease=0.4), queues=("default", "other")
    )

    @made.task(name="job")
    def job(value: Any = None) -> None: ...

    return made


@pytest.fixture
def broker(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


class Taker:
    """A consumer without a worker around it."""

    def __init__(self, app: ScaleCelery, *, leased: bool = True) -> None:
        self.connection: Any = cast("Any", app.connection_for_read())
        self.channel = self.connection.default_channel
        self.channel.leased = leased
        self.channel.basic_qos(0, 10, False)
        self.messages: list[Any] = []
        for queue in ("default", "other"):
            app.amqp.queues[queue](self.channel).declare()
            self.channel.basic_consume(queue, no_ack=False, callback=self.messages.append, consumer_tag=queue)

    def ask(self, channel: Any = None) -> None:
        """Send for the next message, and leave the answer unread, as a process does that dies just then."""
        channel = channel or self.channel
        channel.client.connection = channel.client.connection_pool.get_connection()
        channel._brpop_start()

    def take(self) -> Any:
        for _ in range(3):  # a look, perhaps a doorbell, another look
            try:
                self.connection.drain_events(timeout=1)
            except TimeoutError:
                continue
            return self.messages.pop()
        return None

    def close(self) -> None:
        self.channel.qos.restore_at_shutdown = False
        self.connection.close()


async def test_a_process_that_dies_while_it_is_handed_a_message_does_not_lose_it(
    app: ScaleCelery, broker: redis.Redis, redis_prefix: str
) -> None:
    task_id = await publish(app.tasks["job"])
    broker.script_load(_TAKE.source)
    taker = Taker(app)
    taker.ask()
    for _ in range(500):
        if broker.hlen(f"{redis_prefix}unacked"):
            break
        await asyncio.sleep(0.01)
    [record] = broker.hgetall(f"{redis_prefix}unacked").values()
    message, exchange, routing_key = orjson.loads(record)
    assert message["headers"]["id"] == task_id
    assert (exchange, routing_key) == ("", "default")
    assert message["body"]
    taker.channel.client.connection.disconnect()
    taker.close()
    await app.aclose()


async def test_plain_kombu_would_lose_it(redis_url: str, broker: redis.Redis, redis_prefix: str) -> None:
    """Why the transport is there: this is the moment of loss it closes."""
    with kombu.Connection(redis_url, transport_options={"global_keyprefix": redis_prefix}) as connection:
        channel: Any = connection.default_channel
        queue = kombu.Queue("plain", kombu.Exchange("plain"), routing_key="plain")
        queue(channel).declare()
        kombu.Producer(channel).publish({"n": 1}, exchange="plain", routing_key="plain")
        channel.basic_consume("plain", no_ack=False, callback=print, consumer_tag="t")
        channel.client.connection = channel.client.connection_pool.get_connection()
        channel._brpop_start()
        for _ in range(500):
            if not broker.llen(f"{redis_prefix}plain"):
                break
            await asyncio.sleep(0.01)
        assert broker.llen(f"{redis_prefix}plain") == 0
        assert broker.hlen(f"{redis_prefix}unacked") == 0
        channel.client.connection.disconnect()


async def test_a_message_comes_back_when_its_lease_ends_and_not_while_it_is_renewed(
    app: ScaleCelery, broker: redis.Redis, redis_prefix: str
) -> None:
    task_id = await publish(app.tasks["job"])
    taker, other = Taker(app), Taker(app)
    message = taker.take()
    assert message.headers["id"] == task_id
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        taker.channel.qos.touch()
        other.channel.qos.restore_visible()
        assert broker.hlen(f"{redis_prefix}unacked") == 1
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)  # no sign of life
    other.channel.qos.restore_visible()
    again = other.take()
    assert again.headers["id"] == task_id
    assert again.headers["redelivered"] is True
    again.ack()
    assert broker.hlen(f"{redis_prefix}unacked") == 0
    taker.close()
    other.close()
    await app.aclose()


async def test_without_a_lease_the_visibility_timeout_holds(
    app: ScaleCelery, broker: redis.Redis, redis_prefix: str
) -> None:
    await publish(app.tasks["job"])
    taker, other = Taker(app, leased=False), Taker(app)
    assert taker.take() is not None
    await asyncio.sleep(0.6)
    other.channel.qos.restore_visible()
    assert broker.hlen(f"{redis_prefix}unacked") == 1
    taker.close()
    other.close()
    await app.aclose()


async def test_urgent_work_is_taken_first_and_equal_work_in_order(app: ScaleCelery) -> None:
    for value, priority in ((1, "low"), (2, "normal"), (3, "normal"), (4, "high")):
        await publish(app.tasks["job"], value, delivery=Delivery(priority=priority))  # type: ignore[arg-type]
    taker = Taker(app)
    taken = [taker.take() for _ in range(4)]
    assert [message.headers["argsrepr"] for message in taken] == ["(4,)", "(2,)", "(3,)", "(1,)"]
    for message in taken:
        message.ack()
    taker.close()
    await app.aclose()


async def test_a_server_that_forgot_the_script_is_taught_it_again(app: ScaleCelery, broker: redis.Redis) -> None:
    taker = Taker(app)
    await publish(app.tasks["job"])
    assert taker.take() is not None
    broker.script_flush()
    await publish(app.tasks["job"])
    for _ in range(3):
        if (message := taker.take()) is not None:
            break
    assert message is not None
    taker.close()
    await app.aclose()


async def test_an_acknowledgement_after_the_connection_is_gone_is_a_connection_error(app: ScaleCelery) -> None:
    await publish(app.tasks["job"])
    taker = Taker(app)
    message = taker.take()
    taker.close()
    with pytest.raises(ConnectionError, match="delivered again"):
        message.ack()
    await app.aclose()


async def test_a_dead_connection_can_be_closed_a_second_time_as_celery_does(own_redis: Any) -> None:
    server = await own_redis()
    app = make_celery("closing", server.uri, queues=("default", "other"))

    @app.task(name="job")
    def job() -> None: ...

    await publish(job)
    taker = Taker(app)
    assert taker.take() is not None
    second = taker.connection.channel()
    second.basic_consume("other", no_ack=False, callback=print, consumer_tag="second")
    with redis.Redis.from_url(server.uri) as client:
        client.flushall()  # nothing that a doorbell could answer
    for channel in (taker.channel, second):  # both wait, and fail at the first attempt to close them
        channel._nothing_there = True
        taker.ask(channel)
    await server.kill()
    with contextlib.suppress(Exception):
        taker.connection.collect(socket_timeout=1)
    with contextlib.suppress(*taker.connection.connection_errors):
        taker.connection.close()  # ended the whole worker with an AttributeError
    await app.aclose()


@pytest.mark.long
async def test_a_worker_that_is_asked_to_stop_finishes_what_it_has_begun(own_redis: Any) -> None:
    server: LocalRedis = await own_redis()
    prefix, key = f"{secrets.token_hex(4)}:", "notes"
    worker = start_worker(server.uri, prefix)
    await asyncio.to_thread(await_ready, worker)
    tasks = load_app(server.uri, prefix)
    for _ in range(6):
        await publish(tasks.slow, key, 1.5)
    with redis.Redis.from_url(server.uri) as client:
        while client.llen(f"{prefix}{key}") < 2:  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.02)
        assert await asyncio.to_thread(worker.stop) == 0
        notes = client.lrange(f"{prefix}{key}", 0, -1)
        assert notes.count(b"begun") == notes.count(b"ended")
        waiting = client.llen(f"{prefix}default\x06\x163") + client.hlen(f"{prefix}unacked")
        assert waiting == 6 - notes.count(b"ended")
    await tasks.app.aclose()
