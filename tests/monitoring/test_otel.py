"""Traces and figures as they arrive at an OTLP endpoint, over real HTTP."""

from __future__ import annotations

import asyncio
import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
from httpx import ASGITransport, AsyncClient
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary
from pymongo.uri_parser import parse_uri
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from smriti_scale import context
from smriti_scale.cache import Cache
from smriti_scale.errors import ConfigurationError
from smriti_scale.events import Events
from smriti_scale.mongo import MongoClients
from smriti_scale.monitoring import Telemetry, init_otel, setup_request_ids
from smriti_scale.monitoring.otel.push import MetricsPush
from tests.monitoring.otlp import ArrivedSpan, metrics, spans
from tests.monitoring.wire_sink import Sink, sink
from tests.tasks.conftest import await_ready, start_worker

SERVER, CLIENT, CONSUMER = 2, 3, 5
CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def otlp() -> Iterator[Sink]:
    with sink() as kept:
        yield kept


def asking(app: Any) -> AsyncClient:
    return AsyncClient(transport=ASGITransport(app, raise_app_exceptions=False), base_url="http://test")


def app_with(telemetry: Telemetry, *routes: Any, trust: bool = False) -> Starlette:
    app = Starlette(routes=list(routes))
    telemetry.install(app)
    setup_request_ids(app, trust_traceparent=trust)
    return app


async def hello(request: Request) -> Response:
    return PlainTextResponse(f"{context.trace.get()}")


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_a_request_its_commands_and_its_cache_loads_are_one_trace_without_values(
    driver: Literal["motor", "pymongo"], otlp: Sink, mongo_uri: str, mongo_database_name: str
) -> None:
    events = Events()
    telemetry = init_otel(
        "shop", endpoint=otlp.url, environment="staging", release="1.2.3", traces_sample_rate=1.0, events=events
    )
    cache = Cache(None, namespace="otel", events=events)
    mongo = MongoClients(
        mongo_uri,
        database=mongo_database_name,
        driver=driver,
        client_options={"event_listeners": [telemetry.command_listener]},
    )

    @cache.cached(ttl=60)
    async def counted(name: str) -> int:
        found: int = await mongo.read.posts.count_documents({"name": name})
        return found

    async def user(request: Request) -> Response:
        await mongo.write.posts.insert_many([{"_id": number, "mail": "bob@example.com"} for number in range(5)])
        await mongo.write.posts.find({"mail": "bob@example.com"}, batch_size=2).to_list(None)
        await counted("secret-name")
        return PlainTextResponse(f"{context.trace.get()}")

    app = app_with(telemetry, Mount("/api", routes=[Route("/users/{user_id}", user)]))
    async with mongo, asking(app) as client:
        answer = await client.get("/api/users/42?token=hunter2", headers={"X-Request-ID": "order-4711"})
        await mongo.write.posts.drop()
    await telemetry.aclose()
    await cache.aclose()
    found = spans(otlp)
    (server,) = [span for span in found if span.kind == SERVER]
    assert server.name == "GET /api/users/{user_id}"
    assert server.attributes == {
        "http.request.method": "GET",
        "http.route": "/api/users/{user_id}",
        "url.scheme": "http",
        "http.response.status_code": 200,
        "request_id": "order-4711",
    }
    assert server.parent == ""
    assert answer.text.startswith(f"00-{server.trace_id}-{server.span_id}-")
    assert {name: server.resource[name] for name in ("service.name", "service.version")} == {
        "service.name": "shop",
        "service.version": "1.2.3",
    }
    assert server.resource["deployment.environment.name"] == "staging"
    commands = [span for span in found if span.kind == CLIENT]
    assert [span.name for span in commands] == [
        "insert posts",
        "find posts",
        "getMore posts",
        "getMore posts",
        "aggregate posts",
    ]
    (load,) = [span for span in found if span.name.startswith("cache load ")]
    assert load.name.endswith("counted")
    assert {span.trace_id for span in found} == {server.trace_id}
    for span in commands:
        assert 0 < span.seconds <= server.seconds
        assert span.attributes["db.system.name"] == "mongodb"
        assert span.attributes["db.collection.name"] == "posts"
        assert span.attributes["server.port"] in {port for _, port in parse_uri(mongo_uri)["nodelist"]}
    text = otlp.text()
    for secret in ("bob@", "secret-name", "hunter2", "/42"):
        assert secret not in text


async def test_failures_are_told_by_kind_without_secrets(otlp: Sink) -> None:
    async def broken(request: Request) -> Response:
        raise RuntimeError("mongodb://root:hunter2@db.test refused")

    telemetry = init_otel("shop", endpoint=otlp.url, traces_sample_rate=1.0)
    async with telemetry, asking(app_with(telemetry, Route("/broken", broken))) as client:
        assert (await client.get("/broken")).status_code == 500
        assert (await client.get("/nowhere/42")).status_code == 404
        assert (await client.get("/readyz")).status_code == 404
    failed, unmatched = spans(otlp)
    assert (failed.name, failed.failed) == ("GET /broken", True)
    assert failed.events[0]["exception.type"] == "RuntimeError"
    assert "hunter2" not in otlp.text()
    assert (unmatched.name, unmatched.failed) == ("GET", False)


async def test_a_caller_s_trace_is_followed_only_where_it_is_trusted(otlp: Sink) -> None:
    telemetry = init_otel("shop", endpoint=otlp.url, traces_sample_rate=0.0)
    async with telemetry:
        for trust in (False, True):
            async with asking(app_with(telemetry, Route("/", hello), trust=trust)) as client:
                answer = await client.get("/", headers={"traceparent": CALLER})
                assert (CALLER.split("-")[1] in answer.text) is trust
                assert bool(int(answer.text.split("-")[3], 16) & 1) is trust
    (followed,) = spans(otlp)
    assert (followed.trace_id, followed.parent) == tuple(CALLER.split("-")[1:3])


async def test_each_request_has_a_trace_of_its_own(otlp: Sink) -> None:
    telemetry = init_otel("shop", endpoint=otlp.url, traces_sample_rate=1.0)
    async with telemetry, asking(app_with(telemetry, Route("/", hello))) as client:
        told = await asyncio.gather(*(client.get("/") for _ in range(20)))
    assert len({answer.text for answer in told}) == 20
    assert {answer.text[3:52] for answer in told} == {f"{span.trace_id}-{span.span_id}" for span in spans(otlp)}
    assert {span.parent for span in spans(otlp)} == {""}


async def test_it_is_closed_for_good_and_serves_on(otlp: Sink) -> None:
    telemetry = Telemetry("shop", endpoint=otlp.url, traces_sample_rate=1.0)
    app = app_with(telemetry, Route("/", hello))
    async with asking(app) as client:
        assert (await client.get("/")).text == "None", "before its start"
        async with telemetry:
            await client.get("/")
        assert (await client.get("/")).text == "None", "after its end"
    assert len(spans(otlp)) == 1


@pytest.mark.long
@pytest.mark.xdist_group("tasks-worker")
async def test_a_task_belongs_to_the_trace_of_its_publisher_in_a_real_worker(
    otlp: Sink, mongo_uri: str, redis_url: str, redis_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {
        "OTLP_SINK": otlp.url,
        "MONGODB_URI": mongo_uri,
        "TASKS_REDIS_URL": redis_url,
        "TASKS_PREFIX": redis_prefix,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    worker_app = importlib.import_module("tests.monitoring.otel_worker")
    worker = start_worker(
        redis_url, redis_prefix, app="tests.monitoring.otel_worker", concurrency=1, environment=environment
    )
    try:
        await asyncio.to_thread(await_ready, worker)

        async def order(request: Request) -> Response:
            from smriti_scale.tasks import publish

            await publish(worker_app.first)
            return PlainTextResponse("ok")

        telemetry = init_otel("web", endpoint=otlp.url, traces_sample_rate=1.0)
        async with telemetry, asking(app_with(telemetry, Route("/orders", order))) as client:
            assert (await client.get("/orders")).text == "ok"
        await worker_app.app.aclose()
        await asyncio.to_thread(otlp.wait_for, lambda: _named(otlp).keys() >= {"run first", "run second"})
        await asyncio.to_thread(otlp.wait_for, lambda: "find things" in _named(otlp))
    finally:
        await asyncio.to_thread(worker.stop)
    named = _named(otlp)
    web, first, second = named["GET /orders"], named["run first"], named["run second"]
    assert {span.trace_id for span in named.values()} == {web.trace_id}
    assert (first.parent, first.kind) == (web.span_id, CONSUMER)
    assert second.parent == first.span_id
    assert named["find things"].parent == first.span_id
    assert (first.failed, second.failed) == (False, True)
    assert first.resource["service.name"] == "worker"
    assert "secret-value" not in otlp.text()


def _named(otlp: Sink) -> dict[str, ArrivedSpan]:
    return {span.name: span for span in spans(otlp)}


def figures() -> tuple[CollectorRegistry, Callable[[], None]]:
    registry = CollectorRegistry()
    requests = Counter("scale_http_requests", "Requests.", ["route"], registry=registry)
    seconds = Histogram(
        "scale_http_request_duration_seconds", "How long.", ["route"], buckets=(0.1, 0.5), registry=registry
    )
    memory = Gauge("scale_memory_used_bytes", "Memory.", registry=registry)
    summary = Summary("scale_sizes", "Sizes.", registry=registry)

    def count() -> None:
        requests.labels("/a").inc(2)
        requests.labels("/b").inc()
        for value in (0.05, 0.3, 7):
            seconds.labels("/a").observe(value)
        memory.set(1234)
        summary.observe(3)

    return registry, count


def pushed(otlp: Sink, registry: CollectorRegistry, *, delta: bool) -> MetricsPush:
    from opentelemetry.sdk.resources import Resource

    return MetricsPush(
        registry,
        resource=Resource.create({"service.name": "shop"}),
        endpoint=f"{otlp.url}/v1/metrics",
        headers={"api-key": "license"},
        interval=60,
        delta=delta,
    )


def test_cumulative_figures_equal_those_of_the_registry(otlp: Sink) -> None:
    registry, count = figures()
    push = pushed(otlp, registry, delta=False)
    for _ in range(2):
        count()
        assert push.push(timeout=10)
    _, last = metrics(otlp)
    counter = last["scale_http_requests_total"].sum
    assert counter.is_monotonic
    assert counter.aggregation_temporality == 2
    by_route = {point.attributes[0].value.string_value: point for point in counter.data_points}
    assert {route: point.as_double for route, point in by_route.items()} == {"/a": 4.0, "/b": 2.0}
    assert by_route["/a"].start_time_unix_nano < by_route["/a"].time_unix_nano
    histogram = last["scale_http_request_duration_seconds"]
    (point,) = histogram.histogram.data_points
    assert histogram.unit == "s"
    assert (point.count, list(point.bucket_counts), list(point.explicit_bounds)) == (6, [2, 2, 2], [0.1, 0.5])
    assert point.sum == pytest.approx(14.7)
    assert not point.HasField("min")
    assert last["scale_memory_used_bytes"].gauge.data_points[0].as_double == 1234
    assert last["scale_memory_used_bytes"].unit == "By"
    assert last["scale_sizes_sum"].sum.data_points[0].as_double == 6
    assert otlp.requests[0].headers["api-key"] == "license"


def test_deltas_add_up_to_the_whole_even_where_a_push_fails(otlp: Sink) -> None:
    registry, count = figures()
    push = pushed(otlp, registry, delta=True)
    count()
    assert push.push(timeout=10)
    assert push.push(timeout=10), "nothing happened"
    otlp.status = 400
    count()
    assert not push.push(timeout=2)
    refused = len(otlp.requests)
    otlp.status = 200
    count()
    assert push.push(timeout=10)
    del otlp.requests[2:refused]
    first, idle, last = metrics(otlp)
    assert "scale_http_requests_total" not in idle
    assert idle["scale_memory_used_bytes"].gauge.data_points[0].as_double == 1234

    def total(push: dict[str, Any]) -> float:
        assert push["scale_http_requests_total"].sum.aggregation_temporality == 1
        return float(sum(point.as_double for point in push["scale_http_requests_total"].sum.data_points))

    assert (total(first), total(last)) == (3.0, 6.0)
    (point,) = last["scale_http_request_duration_seconds"].histogram.data_points
    assert (point.count, list(point.bucket_counts)) == (6, [2, 2, 2])
    assert point.sum == pytest.approx(14.7)


async def test_figures_are_pushed_in_the_background_and_at_the_end(otlp: Sink) -> None:
    registry, count = figures()
    telemetry = init_otel("shop", endpoint=otlp.url, registry=registry, interval=1, headers={"api-key": "license"})
    await asyncio.to_thread(otlp.wait_for, lambda: metrics(otlp))
    count()
    await telemetry.aclose()
    assert metrics(otlp)[-1]["scale_sizes_count"].sum.data_points[0].as_double == 1


def test_the_temporality_is_read_from_opentelemetry_s_own_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "DELTA")
    assert Telemetry("shop")._delta
    assert not Telemetry("shop", temporality="cumulative")._delta
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "lowmemory")
    with pytest.raises(ConfigurationError, match="lowmemory"):
        Telemetry("shop")


@pytest.mark.parametrize(
    "wrong", [{"traces_sample_rate": 3}, {"interval": 0}, {"endpoint": "otlp.test:4317"}, {"temporality": "both"}]
)
def test_what_cannot_work_is_told(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Telemetry("shop", **wrong)


def test_without_the_extra_it_says_what_to_install() -> None:
    told = (
        "import sys\n"
        "sys.modules['opentelemetry.sdk.trace'] = None\n"
        "from smriti_scale.errors import MissingExtraError\n"
        "from smriti_scale.monitoring import init_otel\n"
        "try: init_otel('shop')\n"
        "except MissingExtraError as error: print(error)\n"
    )
    ran = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, timeout=60)
    assert "pip install 'smriti_scale[otel]'" in ran.stdout, ran.stderr
