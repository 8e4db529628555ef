"""What a request costs with each way of monitoring: CPU microseconds over the bare app.

Every way has a process of its own, since Sentry and OpenTelemetry patch what they watch. The processes take turns,
so that all meet the same weather: read the ratios, not the figures. No sockets: what is timed is the application.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, FastAPI
from rich.console import Console
from rich.table import Table
from starlette.types import ASGIApp, Message, Scope

ROUNDS = 9
REQUESTS = 1500
FIGURE = 30.0
"""Microseconds over the bare app that ours may take where the instrumentator takes `ANCHOR`, as the issue says."""
ANCHOR = 39.0
PEER = "prometheus-fastapi-instrumentator"

console = Console(width=max(110, Console().width))


def bare() -> FastAPI:
    """A few routes, the one that is asked in an included router."""
    app = FastAPI()
    router = APIRouter(prefix="/api")
    for name in ("users", "circles", "quotes", "files"):
        router.add_api_route(f"/{name}/{{identifier}}", _answer, methods=["GET"])
    router.add_api_route("/posts/{identifier}", _answer, methods=["GET"])
    app.include_router(router)
    return app


async def _answer(identifier: str) -> dict[str, str]:
    return {"id": identifier}


def _ours() -> FastAPI:
    from smriti_scale.monitoring import setup_monitoring

    app = bare()
    setup_monitoring(app)
    return app


def _ours_busy() -> FastAPI:
    """Ours where a request also reports two MongoDB commands, a limit, a look-up in Redis and a cache hit."""
    from smriti_scale import events as e
    from smriti_scale.monitoring import Monitoring, setup_monitoring

    app = bare()
    events = e.Events()
    monitoring = Monitoring(events=events)
    started, succeeded = command_events()

    async def reporting(identifier: str) -> dict[str, str]:
        for _ in range(2):
            monitoring.command_listener.started(started)
            monitoring.command_listener.succeeded(succeeded)
        events.emit(e.LimitAllowed("300 per 1 minute", "/api/reports/{identifier}"))
        events.emit(e.GuardedCall("limiter", 0.0004))
        events.emit(e.CacheHit("app", "feed", "redis"))
        return {"id": identifier}

    app.add_api_route("/api/reports/{identifier}", reporting, methods=["GET"])
    setup_monitoring(app, monitoring)
    return app


def _instrumentator() -> FastAPI:
    from prometheus_fastapi_instrumentator import Instrumentator

    app = bare()
    Instrumentator().instrument(app).expose(app)
    return app


def _exporter() -> FastAPI:
    from starlette_exporter import PrometheusMiddleware

    app = bare()
    app.add_middleware(PrometheusMiddleware, group_paths=True)
    return app


def _sentry(rate: float) -> FastAPI:
    import sentry_sdk

    sentry_sdk.init(dsn="http://key@127.0.0.1:9/1", traces_sample_rate=rate, transport=lambda envelope: None)
    return bare()


def _opentelemetry() -> FastAPI:
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Nowhere(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    app = bare()
    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider)
    return app


WAYS: dict[str, Callable[[], FastAPI]] = {
    "bare": bare,
    "ours": _ours,
    "ours, and what primitives report": _ours_busy,
    PEER: _instrumentator,
    "starlette-exporter": _exporter,
    "Sentry, no traces": lambda: _sentry(0.0),
    "Sentry, traces 0.1": lambda: _sentry(0.1),
    "OpenTelemetry": _opentelemetry,
}


def command_events() -> tuple[Any, Any]:
    """A find, as the driver tells of it."""
    from bson import SON
    from pymongo.monitoring import CommandStartedEvent, CommandSucceededEvent

    command = SON([("find", "posts"), ("filter", {}), ("limit", 20), ("$db", "app")])
    address = ("127.0.0.1", 27017)
    started = CommandStartedEvent(command, "app", 7, address, 7)
    reply = {"cursor": {"firstBatch": [], "id": 0}, "ok": 1.0}
    import datetime

    return started, CommandSucceededEvent(datetime.timedelta(microseconds=800), reply, "find", 7, address, 7)


async def _serve(way: str) -> None:
    """In a process of its own: for every line on stdin, some requests, and their CPU µs on stdout."""
    app: ASGIApp = WAYS[way]()
    path = "/api/reports/42" if way == "ours, and what primitives report" else "/api/posts/42"
    scope: dict[str, Any] = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "method": "GET",
        "scheme": "http", "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"",
        "server": ("127.0.0.1", 8000), "client": ("127.0.0.1", 50000), "state": {},
        "headers": [
            (b"host", b"127.0.0.1:8000"), (b"user-agent", b"bench"), (b"accept", b"*/*"),
            (b"accept-encoding", b"gzip, deflate"), (b"connection", b"keep-alive"), (b"authorization", b"Bearer x"),
        ],
    }  # fmt: skip

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            assert message["status"] == 200

    async def requests(count: int) -> None:
        for _ in range(count):
            fresh: Scope = {**scope, "state": {}}
            await app(fresh, receive, send)

    monitoring = getattr(getattr(app, "state", None), "monitoring", None)
    if monitoring is not None:
        await monitoring.start()
    await requests(300)
    print("ready", flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        began = time.process_time()
        await asyncio.create_task(requests(REQUESTS))
        print((time.process_time() - began) / REQUESTS * 1e6, flush=True)
    if monitoring is not None:
        await monitoring.aclose()


def main() -> None:
    _overhead()
    _parts()


def _overhead() -> None:
    running = {
        way: subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.monitoring", way],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )
        for way in WAYS
    }  # fmt: skip
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    try:
        for process in running.values():
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for _ in range(ROUNDS):
            for way, process in running.items():
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write("go\n")
                taken[way].append(float(process.stdout.readline()))
    finally:
        for process in running.values():
            process.communicate()
    cpu = {way: statistics.median(rounds) for way, rounds in taken.items()}
    floor, ours = cpu["bare"], cpu["ours"] - cpu["bare"]
    slower = (cpu[PEER] - floor) / ANCHOR
    table = Table(
        "way", "CPU µs", "over bare", "× bare", "× ours", "figure", title="a request, by the way it is monitored"
    )
    for way, micros in cpu.items():
        over = micros - floor
        mark = ""
        if way.startswith("ours"):
            met = over / slower <= FIGURE
            mark = f"≤ {FIGURE * slower:.0f} here {'✓' if met else '✗'}"
        table.add_row(
            way, f"{micros:.1f}", f"+{over:.1f}" if over else "", f"{micros / floor:.2f}",
            f"{over / ours:.2f}" if over else "", mark,
        )  # fmt: skip
    console.print(table)
    console.print(
        f"here {PEER} takes {slower:.1f} × the issue's {ANCHOR:g} µs, so ours may take {slower:.1f} × {FIGURE:g}"
    )


def _parts() -> None:
    from smriti_scale import events as e
    from smriti_scale.monitoring import Monitoring

    events = e.Events()
    monitoring = Monitoring(events=events)
    listener = monitoring.command_listener
    started, succeeded = command_events()
    allowed = e.LimitAllowed("300 per 1 minute", "/posts")

    def command() -> None:
        listener.started(started)
        listener.succeeded(succeeded)

    parts: dict[str, Callable[[], object]] = {
        "a MongoDB command": command,
        "an event, counted": lambda: events.emit(allowed),
        "a Redis call, event and all": lambda: events.emit(e.GuardedCall("limiter", 0.0004)),
        "a look at memory and CPU": monitoring._look_at_system,
    }
    table = Table("part", "µs", title="what is reported besides")
    for name, part in parts.items():
        rounds = []
        for _ in range(5):
            began = time.process_time()
            for _ in range(5000):
                part()
            rounds.append((time.process_time() - began) / 5000 * 1e6)
        table.add_row(name, f"{statistics.median(rounds):.2f}")
    console.print(table)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
