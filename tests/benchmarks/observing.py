"""CPU of a request: request ids, Server-Timing, Sentry and OpenTelemetry over a bare FastAPI route; and of a log line.

Each stack runs in a process of its own, since Sentry patches what it measures. Sentry and OTLP send to a sink on this
machine; what their threads spend is part of the figure.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import statistics
import subprocess
import sys
import time
from typing import Any

from smriti_scale import context
from tests.monitoring.wire_sink import sink

REQUESTS = 500
ROUNDS = 5
STACKS = (
    "bare",
    "request ids",
    "request ids, Server-Timing",
    "Sentry, traces 0",
    "Sentry, traces 0.1",
    "Sentry, traces 0.1, slow and failed kept",
    "Sentry, traces 1.0, dropped before sending",
    "OpenTelemetry, traces 0.1",
    "OpenTelemetry, traces 1.0",
)


def main() -> None:
    with sink() as taken:
        print(f"{'CPU µs a request':48}{'µs':>8}{'over bare':>12}")
        bare = 0.0
        for stack in STACKS:
            ran = subprocess.run(
                [sys.executable, "-m", "tests.benchmarks.observing", stack, taken.dsn, taken.url],
                capture_output=True,
                text=True,
                check=True,
            )
            cost = float(ran.stdout)
            bare = bare or cost
            print(f"{stack:48}{cost:8.1f}{cost - bare:+12.1f}", flush=True)
    _log_lines()


def _log_lines() -> None:
    from smriti_scale.monitoring import JSONFormatter

    class Plain(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return json.dumps({"level": record.levelname, "message": record.getMessage()})

    print(f"\n{'CPU µs a log line':48}{'µs':>8}")
    for name, formatter in (
        ("logging's own text", logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s")),
        ("json.dumps of two fields", Plain()),
        ("JSONFormatter", JSONFormatter()),
    ):
        handler = logging.StreamHandler(io.StringIO())
        handler.setFormatter(formatter)
        logger = logging.getLogger(f"bench.{name}")
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.addHandler(handler)
        with context.restored({"request_id": "order-4711"}):
            print(f"{name:48}{statistics.median(_lines(logger) for _ in range(ROUNDS)):8.1f}")


def _lines(logger: logging.Logger) -> float:
    started = time.process_time()
    for number in range(2000):
        logger.info("order %d placed in %.1f ms", number, 3.2, extra={"order": number})
    return (time.process_time() - started) / 2000 * 1e6


async def _measure(stack: str, dsn: str, otlp: str) -> None:
    from fastapi import FastAPI

    from smriti_scale.monitoring import KeepSlowAndFailed, ServerTiming, init_otel, init_sentry, setup_request_ids

    telemetry = None
    if stack.startswith("Sentry"):
        options: dict[str, Any] = {}
        if "dropped" in stack:
            options["before_send_transaction"] = lambda event, hint: None
        init_sentry(dsn, environment="bench", traces_sample_rate=float(stack.split("traces ")[1][:3]), **options)
    app = FastAPI()

    @app.get("/users/{user_id}")
    async def user(user_id: int) -> dict[str, int]:
        return {"id": user_id}

    if "Server-Timing" in stack:
        ServerTiming().install(app)
    if "kept" in stack:
        app.add_middleware(KeepSlowAndFailed)
    if stack.startswith("OpenTelemetry"):
        telemetry = init_otel("bench", endpoint=otlp, traces_sample_rate=float(stack[-3:]))
        telemetry.install(app)
    if "request ids" in stack:
        setup_request_ids(app)
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": "/users/42",
        "raw_path": b"/users/42",
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [(b"host", b"a.test"), (b"user-agent", b"bench"), (b"accept", b"*/*")],
        "client": ("127.0.0.1", 5),
        "server": ("a.test", 80),
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None: ...

    async def round_() -> float:
        started = time.process_time()
        for _ in range(REQUESTS):
            await asyncio.create_task(app({**scope}, receive, send))  # type: ignore[arg-type] # a coroutine
        return (time.process_time() - started) / REQUESTS * 1e6

    await round_()
    print(statistics.median([await round_() for _ in range(ROUNDS)]))
    if telemetry is not None:
        await telemetry.aclose()


if __name__ == "__main__":
    asyncio.run(_measure(*sys.argv[1:4]))
