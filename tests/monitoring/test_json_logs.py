from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from smriti_scale import context
from smriti_scale.errors import ConfigurationError
from smriti_scale.monitoring import JSONFormatter, TextFormatter, setup_logging
from tests.monitoring.served import free_port, served_by_uvicorn


@pytest.fixture
def lines() -> Iterator[Any]:
    stream = io.StringIO()
    logger = logging.getLogger("shop.test")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JSONFormatter(static={"service": "shop"}))
    logger.addHandler(handler)
    logger.propagate = False
    yield logger, lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logger.removeHandler(handler)
    logger.propagate = True


def test_a_line_tells_when_what_who_and_for_which_request(lines: Any) -> None:
    logger, read = lines
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    with context.restored({"request_id": "order-4711", "trace": trace}):
        logger.warning("placed %d", 3, extra={"order": 7, "level": "mine", "at": {"a": [1, None]}})
    (line,) = read()
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "WARNING",
        "logger": "shop.test",
        "message": "placed 3",
        "service": "shop",
        "request_id": "order-4711",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "span_id": "00f067aa0ba902b7",
        "order": 7,
        "extra_level": "mine",
        "at": {"a": [1, None]},
    }


def test_an_exception_is_one_line_and_tells_no_secret(lines: Any) -> None:
    logger, read = lines
    try:
        raise ConnectionError("mongodb://root:hunter2@db.test/ is down")
    except ConnectionError:
        logger.exception("failed for %s", "bob@example.com", extra={"password": "hunter2", "uri": "redis://:hunter2@h"})
    (line,) = read()
    assert "ConnectionError" in line["exception"]
    assert "hunter2" not in json.dumps(line)
    assert "bob@" not in json.dumps(line)
    assert line["password"] == "[redacted]"


class Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "value",
    [object(), Unspeakable(), {1: 2}, {"a": Unspeakable()}, 2**80, "\ud800", b"\xff", float("nan"), [set()]],
    ids=lambda value: type(value).__name__,
)
def test_whatever_is_logged_becomes_a_line(lines: Any, value: object) -> None:
    logger, read = lines
    logger.warning("odd \ud800", extra={"value": value})
    (line,) = read()
    assert line["message"].startswith("odd")
    assert "value" in line


def test_nobody_can_forge_a_line() -> None:
    record = logging.LogRecord("a", logging.INFO, "", 0, "x\n2026 INFO forged\x1b[31m", (), None)
    assert len(JSONFormatter().format(record).splitlines()) == 1
    assert len(TextFormatter().format(record).splitlines()) == 1
    assert "\x1b" not in TextFormatter().format(record)


def test_levels_and_forms_are_checked() -> None:
    with pytest.raises(ConfigurationError, match="LOUD"):
        setup_logging("LOUD")
    with pytest.raises(ConfigurationError, match="json"):
        setup_logging(form="xml")  # type: ignore[arg-type] # a mistake on purpose


APP = """
import logging
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from smriti_scale.monitoring import setup_logging, setup_request_ids

async def home(request):
    logging.getLogger("shop").info("hello")
    return PlainTextResponse("hi")

async def broken(request):
    raise RuntimeError("token=hunter2")

app = Starlette(routes=[Route("/", home), Route("/broken", broken)])
setup_request_ids(app)
setup_logging()
"""


def _checked(output: str) -> None:
    found = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    by_logger: dict[str, list[dict[str, Any]]] = {}
    for line in found:
        by_logger.setdefault(line["logger"], []).append(line)
    assert by_logger["shop"][0]["request_id"] == "order-4711"
    crash = next(line for line in found if "RuntimeError" in line.get("exception", line["message"]))
    assert "hunter2" not in output
    assert crash["level"] == "ERROR"


def test_uvicorn_logs_in_the_same_form_with_the_request_s_id(tmp_path: Path) -> None:
    with served_by_uvicorn(APP, tmp_path) as server:
        httpx.get(f"{server.url}/?token=hunter2", headers={"X-Request-ID": "order-4711"})
        httpx.get(f"{server.url}/broken", headers={"X-Request-ID": "order-4712"})
        output = server.stopped()
    _checked(output)
    lines = [json.loads(line) for line in output.splitlines()[-8:] if line.startswith("{")]
    access = [line for line in lines if line["logger"] == "uvicorn.access"]
    assert [(line["path"], line["status"], line["request_id"]) for line in access] == [
        ("/", 200, "order-4711"),
        ("/broken", 500, "order-4712"),
    ]
    crash = next(line for line in lines if "exception" in line)
    assert (crash["logger"], crash["request_id"]) == ("uvicorn.error", "order-4712")


def test_granian_logs_in_the_same_form(tmp_path: Path) -> None:
    (tmp_path / "served_app.py").write_text(APP)
    port = free_port()
    granian = [sys.executable, "-m", "granian", "--interface", "asgi", "--access-log", "--port", str(port)]
    process = subprocess.Popen(
        [*granian, "served_app:app"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )
    try:
        transport = httpx.HTTPTransport(retries=8)
        with httpx.Client(transport=transport, base_url=f"http://127.0.0.1:{port}") as client:
            client.get("/?token=hunter2", headers={"X-Request-ID": "order-4711"})
            client.get("/broken")
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    _checked(output)
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    access = [line for line in lines if line["logger"] == "granian.access"]
    assert [(line["path"], line["status"]) for line in access] == [("/", 200), ("/broken", 500)]
