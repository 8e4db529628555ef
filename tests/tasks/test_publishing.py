"""Handing tasks to the broker from async code."""

from __future__ import annotations

import asyncio
import binascii
import gc
import multiprocessing
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import redis.asyncio
import sentry_sdk
import uvloop
from celery import signals
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from smriti_scale import context
from smriti_scale.errors import ConfigurationError, DeadlineExceeded, NotSerializable, PublishFailed
from smriti_scale.events import Event, Events, TaskPublished, TaskPublishFailed
from smriti_scale.local import LocalRedis
from smriti_scale.tasks import Delivery, PublishAfterResponseMiddleware, make_celery, publish
from smriti_scale.tasks.app import ScaleCelery
from smriti_scale.tasks.ids import new_id
from smriti_scale.testing.fault_proxy import FaultProxy


def make(url: str, prefix: str, **options: Any) -> ScaleCelery:
    app = make_celery("tests.publishing", url, key_prefix=prefix, queues=("default", "other"), **options)

    @app.task(name="job")
    def job(value: Any = None) -> None: ...

    return app


@pytest.fixture
async def app(redis_url: str, redis_prefix: str) -> AsyncIterator[ScaleCelery]:
    made = make(redis_url, redis_prefix)
    yield made
    await made.aclose()


@pytest.fixture
def messages(redis_client: redis.asyncio.Redis, redis_prefix: str) -> Callable[..., Awaitable[list[dict[str, Any]]]]:
    async def read(queue: str = "default\x06\x163") -> list[dict[str, Any]]:
        found = await redis_client.lrange(f"{redis_prefix}{queue}", 0, -1)
        return [orjson.loads(message) for message in reversed(found)]

    return read


async def test_a_published_task_waits_in_its_queue_under_the_id_returned(app: ScaleCelery, messages: Any) -> None:
    task_id = await publish(app.tasks["job"], "value")
    [message] = await messages()
    assert message["headers"]["id"] == task_id
    assert message["headers"]["task"] == "job"


async def test_delivery_names_queue_priority_and_id(app: ScaleCelery, messages: Any) -> None:
    delivery = Delivery(queue="other", priority="low", task_id="mine", expires=60)
    assert await publish(app.tasks["job"], delivery=delivery) == "mine"
    [message] = await messages("other\x06\x166")
    assert message["headers"]["id"] == "mine"
    assert message["headers"]["expires"] is not None


async def test_a_queue_that_nobody_declared_is_an_error(app: ScaleCelery) -> None:
    with pytest.raises(Exception, match="typo"):
        await publish(app.tasks["job"], delivery=Delivery(queue="typo"))


async def test_arguments_that_are_no_json_are_refused_with_advice(app: ScaleCelery, messages: Any) -> None:
    with pytest.raises(NotSerializable, match="pass ids and plain values"):
        await publish(app.tasks["job"], object())
    assert await messages() == []


async def test_arguments_that_do_not_fit_the_task_are_a_type_error(app: ScaleCelery) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        await publish(app.tasks["job"], nonsense=1)


async def test_a_message_made_from_memory_is_the_one_celery_would_have_made(app: ScaleCelery, messages: Any) -> None:
    with context.restored({"request_id": "r-1"}):
        for value in ("first", {"second": [1, None, "ü"]}):
            await publish(app.tasks["job"], value)
        app.tasks["job"].apply_async(({"second": [1, None, "ü"]},))
    _, made, celerys = await messages()
    for message in (made, celerys):
        assert message["headers"].pop("smriti_scale")["request_id"] == "r-1"
        assert message["headers"].pop("id") == message["headers"].pop("root_id")
        for own in ("correlation_id", "delivery_tag", "reply_to"):
            assert len(message["properties"].pop(own)) == 36
    assert made == celerys


@pytest.mark.parametrize(
    "value",
    [
        'it\'s "quoted" ü\n',
        "x" * 2000,
        1.5,
        float("inf"),
        True,
        2**80,
        uuid.UUID(int=5),
        datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        Decimal("1.10"),
        b"bytes",
        ("nested", ["list"]),
    ],
)
async def test_whatever_kombu_can_carry_is_carried_the_same_way(app: ScaleCelery, messages: Any, value: object) -> None:
    await publish(app.tasks["job"])
    for how in ("args", "kwargs"):
        args: tuple[Any, ...] = (value,) if how == "args" else ()
        kwargs: dict[str, Any] = {"value": value} if how == "kwargs" else {}
        await publish(app.tasks["job"], *args, **kwargs)
        app.tasks["job"].apply_async(args, kwargs)
        made, celerys = (await messages())[-2:]
        assert made["body"] == celerys["body"]
        for shown in ("argsrepr", "kwargsrepr"):
            assert made["headers"][shown] == celerys["headers"][shown]


async def test_one_burst_over_several_queues_and_priorities_keeps_the_order_of_each(
    app: ScaleCelery, messages: Any
) -> None:
    kinds = [Delivery(queue=queue, priority=priority) for queue in ("default", "other") for priority in ("high", "low")]
    for kind in kinds:
        await publish(app.tasks["job"], -1, delivery=kind)
    await asyncio.gather(*(publish(app.tasks["job"], n, delivery=kinds[n % 4]) for n in range(200)))
    for place, name in enumerate(("default", "default\x06\x166", "other", "other\x06\x166")):
        shown = [message["headers"]["argsrepr"] for message in await messages(name)]
        assert shown == ["(-1,)", *(f"({n},)" for n in range(place, 200, 4))]


def test_ids_are_random_uuids() -> None:
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    for each in ids:
        parsed = uuid.UUID(each)
        assert (str(parsed), parsed.version, parsed.variant) == (each, 4, uuid.RFC_4122)


async def test_listeners_to_celerys_signals_hear_of_every_publish(app: ScaleCelery) -> None:
    heard: list[str] = []

    def listen(headers: dict[str, Any], **_: Any) -> None:
        heard.append(headers["id"])

    await publish(app.tasks["job"])
    signals.before_task_publish.connect(listen)
    try:
        ids = [await publish(app.tasks["job"]) for _ in range(3)]
    finally:
        signals.before_task_publish.disconnect(listen)
    assert heard == ids


async def test_five_hundred_at_once_all_arrive_in_order(app: ScaleCelery, messages: Any) -> None:
    ids = await asyncio.gather(*(publish(app.tasks["job"], n) for n in range(500)))
    assert [message["headers"]["id"] for message in await messages()] == ids


@pytest.mark.long
async def test_the_loop_goes_on_while_the_broker_takes_its_time(
    fault_proxy: Any, redis_url: str, redis_prefix: str
) -> None:
    proxy: FaultProxy = await fault_proxy(redis_url)
    await proxy.delay(0.2)
    app = make(proxy.uri, redis_prefix)
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    turning = asyncio.create_task(turn())
    thread = threading.current_thread()
    await publish(app.tasks["job"])
    turning.cancel()
    assert turns > 1000
    assert threading.current_thread() is thread
    await app.aclose()


async def test_a_dead_broker_is_an_error_soon_and_then_at_once(own_redis: Any, redis_prefix: str) -> None:
    server: LocalRedis = await own_redis()
    seen: list[Event] = []
    app = make(server.uri, redis_prefix, events=Events(seen.append))
    await publish(app.tasks["job"])
    await server.kill()
    with pytest.raises(PublishFailed, match="did not take job"):
        await publish(app.tasks["job"])
    with pytest.raises(PublishFailed, match="moments ago; job was not sent"):
        await publish(app.tasks["job"])
    await server.restart()
    for _ in range(200):
        try:
            await publish(app.tasks["job"])
        except PublishFailed:
            await asyncio.sleep(0.05)
        else:
            break
    else:
        pytest.fail("publishing did not recover")
    assert sum(isinstance(event, TaskPublished) for event in seen) == 2
    assert any(isinstance(event, TaskPublishFailed) for event in seen)
    await app.aclose()


@pytest.mark.parametrize(
    "quiet", [pytest.param(0.0, id="at once"), pytest.param(1.2, id="after a while", marks=pytest.mark.long)]
)
async def test_connections_that_the_broker_closed_lose_and_double_nothing(
    quiet: float, own_redis: Any, redis_prefix: str
) -> None:
    server: LocalRedis = await own_redis()
    app = make(server.uri, redis_prefix)
    async with redis.asyncio.from_url(server.uri) as client:
        sent = [await publish(app.tasks["job"]) for _ in range(3)]
        for _ in range(3):
            await client.client_kill_filter(_type="normal", skipme=True)
            await asyncio.sleep(quiet)
            sent.append(await publish(app.tasks["job"]))
            sent += await asyncio.gather(*(publish(app.tasks["job"]) for _ in range(5)))
        found = await client.lrange(f"{redis_prefix}default\x06\x163", 0, -1)
    assert sorted(orjson.loads(message)["headers"]["id"] for message in found) == sorted(sent)
    await app.aclose()


async def test_publishing_needs_one_connection_of_a_pool_of_one(redis_url: str, redis_prefix: str) -> None:
    app = make(redis_url, redis_prefix)
    app.conf.broker_pool_limit = 1
    async with asyncio.timeout(10):
        for _ in range(2):  # a task that is known goes by the kept connection, a delayed one Celery's way
            await publish(app.tasks["job"])
            await publish(app.tasks["job"], delivery=Delivery(countdown=60))
    await app.aclose()


async def test_a_broker_that_never_answers_costs_the_deadline_and_no_more(own_redis: Any, redis_prefix: str) -> None:
    server: LocalRedis = await own_redis()
    app = make(server.uri, redis_prefix)
    await publish(app.tasks["job"])
    await server.pause()
    began = time.monotonic()
    outcomes = await asyncio.gather(
        *(publish(app.tasks["job"], delivery=Delivery(timeout=0.3)) for _ in range(20)), return_exceptions=True
    )
    assert time.monotonic() - began < 3
    assert {type(outcome) for outcome in outcomes} <= {DeadlineExceeded, PublishFailed}
    await server.resume()
    await app.aclose()


async def taken(app: ScaleCelery) -> None:
    """Wait until the publishing thread has taken up all that was handed to it."""
    async with asyncio.timeout(30):
        await asyncio.sleep(0)
        while app.publisher._jobs.qsize():  # noqa: ASYNC110 - a thread's queue, which no asyncio event tells of
            await asyncio.sleep(0.01)


async def test_a_caller_that_gave_up_is_not_published_for(own_redis: Any, redis_prefix: str) -> None:
    server: LocalRedis = await own_redis()
    app = make(server.uri, redis_prefix)
    await publish(app.tasks["job"], "first")
    await server.pause()
    stuck = asyncio.create_task(publish(app.tasks["job"], "stuck"))
    await taken(app)
    await asyncio.sleep(0.3)  # and has gone to wait for the broker
    gone = asyncio.create_task(publish(app.tasks["job"], "gone"))
    await asyncio.sleep(0.1)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    await server.resume()
    await stuck
    await publish(app.tasks["job"], "last")
    async with redis.asyncio.Redis.from_url(server.uri) as client:
        found = await client.lrange(f"{redis_prefix}default\x06\x163", 0, -1)
    sent = [orjson.loads(message)["headers"]["argsrepr"] for message in reversed(found)]
    assert sent == ["('first',)", "('stuck',)", "('last',)"]
    await app.aclose()


async def test_an_active_sentry_trace_travels_along(app: ScaleCelery, messages: Any) -> None:
    client = sentry_sdk.Client(dsn="http://key@127.0.0.1:1/1", traces_sample_rate=1.0, default_integrations=False)
    with sentry_sdk.new_scope() as scope:
        scope.set_client(client)
        with sentry_sdk.start_transaction(name="request") as transaction:
            await publish(app.tasks["job"])
            trace_id = transaction.trace_id
    client.close(timeout=0)
    [message] = await messages()
    assert message["headers"]["sentry-trace"].startswith(trace_id)
    assert trace_id in message["headers"]["baggage"]
    assert message["headers"]["headers"]["sentry-trace"].startswith(trace_id)


def web(app: ScaleCelery, events: list[str]) -> httpx.AsyncClient:
    async def endpoint(request: Request) -> Response:
        outcome = request.path_params["outcome"]
        await publish(app.tasks["job"], outcome, delivery=Delivery(after_response=True))
        events.append("handled")
        if outcome == "raises":
            raise RuntimeError
        return PlainTextResponse("", status_code=int(outcome))

    starlette = Starlette(routes=[Route("/{outcome}", endpoint)])
    starlette.add_middleware(PublishAfterResponseMiddleware)
    transport = httpx.ASGITransport(starlette, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


async def test_after_response_publishes_once_the_response_is_out_and_only_for_success(
    app: ScaleCelery, messages: Any
) -> None:
    events: list[str] = []
    async with web(app, events) as client:
        for outcome in ("200", "404", "500", "raises", "201"):
            await client.get(f"/{outcome}")
    assert events == ["handled"] * 5
    assert [message["headers"]["argsrepr"] for message in await messages()] == ["('200',)", "('201',)"]


async def test_after_response_without_the_middleware_says_what_is_missing(app: ScaleCelery) -> None:
    with pytest.raises(ConfigurationError, match="PublishAfterResponseMiddleware"):
        await publish(app.tasks["job"], delivery=Delivery(after_response=True))


async def test_eager_mode_runs_the_task_on_the_same_loop_through_json_with_retries() -> None:
    app = make_celery("eager", "redis://127.0.0.1:1/0", eager=True)
    tries: list[tuple[int, Any, Any]] = []

    @app.task(bind=True)
    async def flaky(self: Any, value: Any) -> None:
        tries.append((self.request.retries, value, asyncio.get_running_loop()))
        if len(tries) < 3:
            raise OSError("not yet")

    @app.task
    def plain(value: Any) -> None:
        tries.append((-1, value, None))

    loop = asyncio.get_running_loop()
    await publish(flaky, (1, 2))
    assert tries == [(0, [1, 2], loop), (1, [1, 2], loop), (2, [1, 2], loop)]
    await publish(plain, "x")
    assert tries[-1] == (-1, "x", None)
    with pytest.raises(NotSerializable):
        await publish(plain, object())


async def test_eager_mode_shows_the_error_of_the_last_try() -> None:
    app = make_celery("eager", "redis://127.0.0.1:1/0", eager=True)

    @app.task(max_retries=1)
    async def hopeless() -> None:
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        await publish(hopeless)


async def test_a_direct_call_of_an_async_task_is_just_the_function() -> None:
    app = make_celery("direct", "redis://127.0.0.1:1/0")

    @app.task
    async def double(value: int) -> int:
        return value * 2

    assert await double(21) == 42


async def test_a_forked_child_publishes_with_a_thread_of_its_own(app: ScaleCelery, messages: Any) -> None:
    await publish(app.tasks["job"], "parent")

    def child() -> None:
        asyncio.run(publish(app.tasks["job"], "child"))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    await asyncio.to_thread(process.join, 10)
    assert process.exitcode == 0
    await publish(app.tasks["job"], "parent again")
    found = [orjson.loads(binascii.a2b_base64(message["body"]))[0] for message in await messages()]
    assert found == [["parent"], ["child"], ["parent again"]]


@pytest.mark.parametrize("new_loop", [asyncio.SelectorEventLoop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_loops_come_and_go_and_leave_no_open_files(
    new_loop: Callable[[], asyncio.AbstractEventLoop], redis_url: str, redis_prefix: str
) -> None:
    def open_files() -> int:
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    app = make(redis_url, redis_prefix)

    async def once() -> None:
        await publish(app.tasks["job"])

    def in_a_loop_of_its_own(work: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(work)

    in_a_loop_of_its_own(once())
    before = open_files()
    for _ in range(10):
        in_a_loop_of_its_own(once())
    assert open_files() <= before + 1
    in_a_loop_of_its_own(app.aclose())
