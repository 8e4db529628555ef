from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import threading
from typing import Any

import pytest
from httpx import ASGITransport, AsyncClient
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from smriti_scale.errors import ConfigurationError
from smriti_scale.monitoring import Metrics, Monitoring, setup_monitoring
from smriti_scale.monitoring.exposition import Exposition
from tests.monitoring.figures import series, until

TOKEN = "a-token-of-some-length"
OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0; q=0.9, text/plain; q=0.5"}


def app_of(*routes: Any, **options: Any) -> tuple[Starlette, AsyncClient]:
    app = Starlette(routes=[Route("/", lambda request: PlainTextResponse("ok")), *routes])
    setup_monitoring(app, **options)
    return app, AsyncClient(transport=ASGITransport(app), base_url="http://test")


async def test_both_formats_parse_and_tell_the_same() -> None:
    app, client = app_of()
    async with client:
        await client.get("/")
        text = await client.get("/metrics")
        modern = await client.get("/metrics", headers=OPENMETRICS)
    assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert modern.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert text.headers["cache-control"] == "no-store"
    label = {"method": "GET", "route": "/", "status": "200"}
    for parse, body in ((prometheus, text.text), (openmetrics, modern.text)):
        samples = {
            sample.value
            for family in parse(body)
            for sample in family.samples
            if sample.name == "scale_http_requests_total" and sample.labels == label
        }
        assert samples == {1.0}
    assert "_created" not in text.text
    assert set(series(app.state.monitoring.metrics, "scale_http_requests_total")) == {("GET", "/", "200")}


async def test_prometheus_itself_accepts_the_page() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    monitoring = Monitoring()
    await monitoring.look()
    metrics = monitoring.metrics
    metrics.http_requests["GET", "/", "200"].inc()
    metrics.http_duration["GET", "/"].observe(0.1)
    metrics.limit_decisions["5 per 1 minute", 'a"b\\c\nd', "allowed", ""].inc()
    page, _ = await Exposition(metrics).render()
    command = [promtool, "check", "metrics"]
    checked = await asyncio.to_thread(subprocess.run, command, input=page, capture_output=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize(
    "given",
    [None, "", "Bearer", "Bearer ", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer é"],
)
async def test_without_the_token_nothing_is_shown(given: str | None) -> None:
    _, client = app_of(metrics_token=TOKEN)
    headers = [] if given is None else [(b"authorization", given.encode("latin-1"))]
    async with client:
        answer = await client.get("/metrics", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert "scale_" not in answer.text


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
async def test_with_the_token_it_is(scheme: str) -> None:
    _, client = app_of(metrics_token=TOKEN)
    async with client:
        answer = await client.get("/metrics", headers={"Authorization": f"{scheme} {TOKEN}"})
    assert answer.status_code == 200
    assert "scale_http_requests_in_progress" in answer.text


@pytest.mark.parametrize("token", ["", "  ", " padded ", "geheimnis-ä"])
def test_a_token_that_cannot_guard_is_refused(token: str) -> None:
    with pytest.raises(ConfigurationError, match="metrics_token"):
        app_of(metrics_token=token)


def test_a_path_without_its_slash_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="metrics_path"):
        app_of(metrics_path="metrics")


async def test_a_mount_at_the_root_does_not_hide_the_page() -> None:
    async def takes_all(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("the single page")(scope, receive, send)

    _, client = app_of(Mount("/", app=takes_all))
    async with client:
        assert "scale_" in (await client.get("/metrics")).text


async def test_no_path_means_no_page() -> None:
    _, client = app_of(metrics_path=None)
    async with client:
        assert (await client.get("/metrics")).status_code == 404


async def test_the_page_is_made_in_another_thread_and_once_for_all_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics()
    threads: list[int] = []
    go_on = threading.Event()
    gathered = metrics.gathered

    def watched() -> Any:
        threads.append(threading.get_ident())
        go_on.wait(30)
        return gathered()

    monkeypatch.setattr(metrics, "gathered", watched)
    exposition = Exposition(metrics)
    asking = [asyncio.create_task(exposition.render()) for _ in range(20)]
    await until(lambda: threads)
    asking[0].cancel()  # one who leaves takes nothing from the others
    go_on.set()
    pages = await asyncio.gather(*asking[1:])
    assert len(set(pages)) == 1
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()
    await exposition.render()
    assert len(threads) == 2


async def test_the_monitoring_lives_as_long_as_the_app() -> None:
    app, _ = app_of()
    monitoring: Monitoring = app.state.monitoring
    async with app.router.lifespan_context(app):
        assert monitoring._tasks
    assert not monitoring._tasks


def test_without_prometheus_client_construction_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "from smriti_scale.errors import MissingExtraError\n"
        "from smriti_scale.monitoring import Monitoring, health_routes\n"
        "try:\n    Monitoring()\nexcept MissingExtraError as error:\n    print(error)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'smriti_scale[metrics]'" in ran.stdout
