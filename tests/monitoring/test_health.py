from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx import ASGITransport, AsyncClient
from starlette.applications import Starlette

from smriti_scale.errors import ConfigurationError
from smriti_scale.monitoring import Check, Degraded, Draining, health_routes
from smriti_scale.testing import ManualClock
from tests.monitoring.served import served_by, served_by_uvicorn


async def fine() -> None: ...


async def halved() -> Degraded:
    return Degraded("read-only")


async def broken() -> None:
    raise ConnectionError("mongodb://user:hunter2@host is down")


async def silent() -> None:
    await asyncio.sleep(60)


class Counted:
    """A probe that counts its runs, and can hang, deaf to its cancellation, until it is let go."""

    def __init__(self, *, deaf: bool = False) -> None:
        self.runs = 0
        self.let_go = asyncio.Event()
        self._deaf = deaf

    async def __call__(self) -> None:
        self.runs += 1
        while self._deaf and not self.let_go.is_set():
            try:
                await self.let_go.wait()
            except asyncio.CancelledError:
                continue


def client_of(*checks: Check, **options: Any) -> AsyncClient:
    app = Starlette(routes=health_routes(checks, **options))
    return AsyncClient(transport=ASGITransport(app), base_url="http://test")


async def ready(*checks: Check, **options: Any) -> tuple[int, dict[str, Any]]:
    async with client_of(*checks, **options) as client:
        answer = await client.get("/readyz")
    assert "hunter2" not in answer.text
    assert answer.headers["cache-control"] == "no-store"
    return answer.status_code, answer.json()


async def test_alive_asks_nothing() -> None:
    async with client_of(Check("mongodb", broken)) as client:
        assert (await client.get("/livez")).json() == {"status": "alive"}
        assert (await client.head("/livez")).status_code == 200


async def test_ready_when_every_dependency_answers() -> None:
    status, body = await ready(Check("mongodb", fine), Check("redis", fine, required=False))
    assert (status, body["status"]) == (200, "ready")
    assert body["checks"]["mongodb"]["state"] == "ok"


async def test_an_optional_dependency_down_is_degraded_not_dead() -> None:
    status, body = await ready(Check("mongodb", fine), Check("redis", broken, required=False))
    assert (status, body["status"]) == (200, "degraded")
    assert body["checks"]["redis"]["ok"] is False


async def test_a_required_dependency_that_works_in_part_is_degraded_and_says_how() -> None:
    status, body = await ready(Check("mongodb", halved))
    assert (status, body["status"]) == (200, "degraded")
    assert (body["checks"]["mongodb"]["ok"], body["checks"]["mongodb"]["state"]) == (True, "read-only")


async def test_why_a_check_failed_is_logged_without_what_it_said(caplog: pytest.LogCaptureFixture) -> None:
    await ready(Check("mongodb", broken))
    assert "mongodb is not ready: ConnectionError" in caplog.text
    assert "hunter2" not in caplog.text


async def test_a_required_dependency_down_or_silent_is_unready() -> None:
    assert (await ready(Check("mongodb", broken)))[0] == 503
    status, body = await ready(Check("mongodb", silent, timeout=0.05))
    assert (status, body["checks"]["mongodb"]["state"]) == (503, "timed out")


async def test_readiness_ends_first_when_shutting_down() -> None:
    status, body = await ready(Check("mongodb", fine), draining=lambda: True)
    assert (status, body["status"]) == (503, "draining")


async def test_startup_is_told_apart_from_readiness() -> None:
    begun: list[bool] = []
    async with client_of(Check("mongodb", broken), started=lambda: bool(begun)) as client:
        assert (await client.get("/startupz")).status_code == 503
        assert (await client.get("/readyz")).json()["status"] == "starting"
        begun.append(True)
        assert (await client.get("/startupz")).json() == {"status": "started"}
        assert (await client.get("/readyz")).status_code == 503


async def test_a_thousand_probes_are_one_question_a_second() -> None:
    probe, clock = Counted(), ManualClock()
    async with client_of(Check("mongodb", probe), clock=clock) as client:
        answers = await asyncio.gather(*(client.get("/readyz") for _ in range(50)))
        assert {answer.status_code for answer in answers} == {200}
        assert probe.runs == 1
        clock.advance(0.9)
        await client.get("/readyz")
        assert probe.runs == 1
        clock.advance(0.2)
        await client.get("/readyz")
        assert probe.runs == 2


async def test_a_probe_that_ignores_its_cancellation_does_not_pile_up() -> None:
    probe, clock = Counted(deaf=True), ManualClock()
    async with client_of(Check("mongodb", probe, timeout=0.05), clock=clock) as client:
        for _ in range(5):
            assert (await client.get("/readyz")).status_code == 503
            clock.advance(2)
        assert probe.runs == 1
        probe.let_go.set()
        await asyncio.sleep(0)
        clock.advance(2)
        assert (await client.get("/readyz")).status_code == 200, "it is asked again once the old question has ended"


async def test_one_who_asks_and_goes_away_takes_no_answer_from_the_others() -> None:
    release = asyncio.Event()

    async def slow() -> None:
        await release.wait()

    async with client_of(Check("mongodb", slow, timeout=30)) as client:
        gone = asyncio.create_task(client.get("/readyz"))
        waiting = asyncio.create_task(client.get("/readyz"))
        await asyncio.sleep(0.05)
        gone.cancel()
        await asyncio.sleep(0)
        release.set()
        assert (await waiting).status_code == 200


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Check("a", fine, timeout=0),
        lambda: health_routes([Check("a", fine), Check("a", fine)]),
        lambda: health_routes([], keep=-1),
        lambda: Draining(delay=-1),
    ],
)
def test_what_cannot_work_is_told(wrong: Any) -> None:
    with pytest.raises(ConfigurationError):
        wrong()


def test_a_file_means_draining_as_soon_as_it_exists(tmp_path: Path) -> None:
    draining = Draining(file=tmp_path / "drain")
    assert not draining()
    (tmp_path / "drain").touch()
    assert draining()


APP = """
import contextlib
import os
from starlette.applications import Starlette
from smriti_scale.monitoring import Draining, health_routes

draining = Draining(delay=float(os.environ.get("DELAY", "0")), file=os.environ.get("SCALE_DRAIN_FILE"))

@contextlib.asynccontextmanager
async def lifespan(app):
    with draining.watching():
        yield
    print("lifespan is over", flush=True)

app = Starlette(lifespan=lifespan, routes=health_routes(draining=draining))
"""


STREAM = """
import asyncio
from starlette.responses import StreamingResponse
from starlette.routing import Route

async def stream(request):
    async def lines():
        while not draining():
            yield "on\\n"
            await asyncio.sleep(0.02)
        yield "over\\n"
    return StreamingResponse(lines())

app.router.routes.append(Route("/stream", stream))
"""


def _wait_until_draining(client: httpx.Client) -> None:
    deadline = time.monotonic() + 60
    while (status := client.get("/readyz").status_code) != 503:
        assert status == 200
        assert time.monotonic() < deadline
    assert client.get("/livez").status_code == 200, "requests are still served, on new connections too"


@pytest.mark.long
@pytest.mark.parametrize("options", [(), ("--loop", "uvloop"), ("--workers", "2")], ids=" ".join)
def test_uvicorn_serves_on_while_it_drains_and_then_stops(options: tuple[str, ...], tmp_path: Path) -> None:
    with served_by_uvicorn(APP, tmp_path, *options, DELAY="2") as server:
        headers = {"Connection": "close"}
        with httpx.Client(base_url=server.url, headers=headers, transport=httpx.HTTPTransport(retries=5)) as client:
            assert client.get("/readyz").status_code == 200
            server.process.send_signal(signal.SIGTERM)
            _wait_until_draining(client)
        output, _ = server.process.communicate(timeout=60)
    assert "lifespan is over" in output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_without_a_delay_the_server_stops_at_once_and_streams_are_told(number: signal.Signals, tmp_path: Path) -> None:
    streaming = APP + STREAM
    with served_by_uvicorn(streaming, tmp_path) as server:
        with httpx.stream("GET", f"{server.url}/stream", timeout=60) as answer:
            lines = answer.iter_lines()
            assert next(lines) == "on"
            server.process.send_signal(number)
            assert list(lines)[-1] == "over"
        output, _ = server.process.communicate(timeout=60)
    assert "lifespan is over" in output


def test_a_second_signal_is_not_kept_back(tmp_path: Path) -> None:
    with served_by_uvicorn(APP, tmp_path, DELAY="3600") as server:
        with httpx.Client(base_url=server.url, headers={"Connection": "close"}) as client:
            server.process.send_signal(signal.SIGTERM)
            _wait_until_draining(client)
        server.process.send_signal(signal.SIGTERM)
        output, _ = server.process.communicate(timeout=60)
    assert "lifespan is over" in output


@pytest.mark.long
def test_smriti_scale_serve_drains_all_its_workers(tmp_path: Path) -> None:
    command = ["-c", "from smriti_scale.cli import main; main()", "serve", "--drain-delay", "2", "--workers", "2"]
    with served_by(command, APP, tmp_path, {}) as server:
        with httpx.Client(base_url=server.url, headers={"Connection": "close"}) as client:
            assert client.get("/readyz").status_code == 200
            server.process.send_signal(signal.SIGTERM)
            _wait_until_draining(client)
            assert {client.get("/readyz").status_code for _ in range(10)} == {503}
        output, _ = server.process.communicate(timeout=60)
    assert output.count("lifespan is over") == 2
