"""Who gets the dashboard, how its answers are marked, and its stream over real HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from httpx import ASGITransport, AsyncClient, Response
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from smriti_scale.cache import Cache, HTTPCacheMiddleware
from smriti_scale.compression import setup_compression
from smriti_scale.errors import ConfigurationError
from smriti_scale.monitoring import Monitoring, loopback_only, setup_dashboard, setup_monitoring
from smriti_scale.monitoring.dashboard import Dashboard
from smriti_scale.scale import Scale
from smriti_scale.settings import ScaleSettings
from smriti_scale.testing import ManualClock
from tests.monitoring.dashboard_serving import TOKEN, Served, served


async def hello(request: Request) -> Response:
    return PlainTextResponse("hello")  # type: ignore[return-value]


def make(**options: Any) -> tuple[Starlette, Dashboard]:
    """An application with one route, counted and shown."""
    app = Starlette(routes=[Route("/hello/{name}", hello)])
    monitoring = Monitoring(sample_interval=0.2)
    if "allow" not in options:
        options.setdefault("token", TOKEN)
    dashboard = setup_dashboard(app, monitoring, **options)
    setup_monitoring(app, monitoring)
    return app, dashboard


def client_of(app: Any, *, base: str = "http://localhost", peer: str = "127.0.0.1", **options: Any) -> AsyncClient:
    return AsyncClient(transport=ASGITransport(app, client=(peer, 1234)), base_url=base, **options)


BEARER = {"Authorization": f"Bearer {TOKEN}"}


# --- who gets it


@pytest.mark.parametrize(
    "options",
    [
        {"token": None},
        {"token": TOKEN, "allow": loopback_only},
        {"token": "short"},
        {"token": TOKEN, "path": "_scale"},
        {"token": TOKEN, "path": "/"},
        {"token": TOKEN, "path": "/{name}"},
        {"token": TOKEN, "interval": 0},
    ],
)
def test_a_dashboard_without_a_proper_guard_or_place_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        setup_dashboard(Starlette(), Monitoring(), **options)


PATHS = ["/_scale/", "/_scale/data.json", "/_scale/live"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer another-token-entirely"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Cookie": f"smriti_scale_dashboard={TOKEN}"},
        {"Cookie": "smriti_scale_dashboard=9999999999.ab.cd"},
        {"Cookie": "smriti_scale_dashboard=nan.ab."},
        {"Cookie": "smriti_scale_dashboard=\xff\xfe.\xff"},
    ],
)
async def test_without_the_token_there_is_nothing_to_see(path: str, headers: dict[str, str]) -> None:
    app, _ = make()
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    async with client_of(app) as client:
        answer = await client.get(path, headers=raw)
    assert answer.status_code == 401
    assert answer.headers["content-type"].startswith("text/html" if path == "/_scale/" else "application/json")
    assert "requests" not in answer.text


async def test_the_token_is_traded_for_a_cookie_that_opens_the_page() -> None:
    app, _ = make(title="<Smriti>")
    async with client_of(app) as client:
        assert 'action="login"' in (await client.get("/_scale/")).text
        entered = await client.post("/_scale/login", data={"token": f" {TOKEN}\n"})
        assert entered.status_code == 303
        assert entered.headers["location"] == "./"
        page = await client.get("/_scale/")
        assert page.status_code == 200
        assert "<title>&lt;Smriti&gt;</title>" in page.text
        assert TOKEN not in page.text
        assert (await client.get("/_scale/data.json")).json()["title"] == "<Smriti>"
        assert (await client.get("/_scale/logout")).status_code == 303  # a link logs nobody out
        assert (await client.get("/_scale/")).status_code == 200
        await client.post("/_scale/logout")
        assert (await client.get("/_scale/")).status_code == 401


@pytest.mark.parametrize(
    ("base", "root_path", "option", "expected"),
    [
        ("http://localhost", "", None, "Path=/_scale; SameSite=strict"),
        ("http://127.0.0.1:8000", "", None, "Path=/_scale; SameSite=strict"),
        ("http://shop.example", "", None, "Path=/_scale; SameSite=strict; Secure"),
        ("https://shop.example", "/api", None, "Path=/api/_scale; SameSite=strict; Secure"),
        ("http://shop.example", "", False, "Path=/_scale; SameSite=strict"),
        ("http://localhost", "", True, "Path=/_scale; SameSite=strict; Secure"),
    ],
)
async def test_the_cookie_stays_with_its_site_its_path_and_away_from_scripts(
    base: str, root_path: str, option: bool | None, expected: str
) -> None:
    app, _ = make(cookie_secure=option, session_seconds=600)
    transport = ASGITransport(app, root_path=root_path)
    async with AsyncClient(transport=transport, base_url=base) as client:
        entered = await client.post(f"{root_path}/_scale/login", data={"token": TOKEN})
    cookie = entered.headers["set-cookie"]
    assert cookie.startswith("smriti_scale_dashboard=")
    assert TOKEN not in cookie
    assert cookie.partition("; ")[2] == f"HttpOnly; Max-Age=600; {expected}"


async def test_a_login_ends_and_is_renewed_while_the_page_is_used(clock: ManualClock) -> None:
    app, _ = make(clock=clock, session_seconds=1000)
    async with client_of(app) as client:
        await client.post("/_scale/login", data={"token": TOKEN})
        clock.jump(400)
        assert "set-cookie" not in (await client.get("/_scale/")).headers
        clock.jump(400)
        assert "set-cookie" in (await client.get("/_scale/")).headers
        clock.jump(900)
        assert (await client.get("/_scale/data.json")).status_code == 200
        clock.jump(200)
        assert (await client.get("/_scale/data.json")).status_code == 401


async def test_a_cookie_of_another_token_or_an_altered_one_opens_nothing() -> None:
    app, _ = make()
    other, _ = make(token="another-token-for-the-tests")
    async with client_of(other) as client:
        await client.post("/_scale/login", data={"token": "another-token-for-the-tests"})
        foreign = client.cookies["smriti_scale_dashboard"]
    async with client_of(app) as client:
        await client.post("/_scale/login", data={"token": TOKEN})
        own = client.cookies["smriti_scale_dashboard"]
    expiry, nonce, signature = own.split(".")
    altered = f"{int(expiry) + 1}.{nonce}.{signature}"
    for cookie, status in ((own, 200), (foreign, 401), (altered, 401), (own[:-1], 401)):
        async with client_of(app, cookies={"smriti_scale_dashboard": cookie}) as client:
            assert (await client.get("/_scale/data.json")).status_code == status


@pytest.mark.parametrize("body", [b"token=wrong", b"", b"token", b"\xff\xfe", b"x" * 5000, b"token=" + b"y" * 9000])
async def test_a_wrong_form_says_so_and_sets_no_cookie(body: bytes) -> None:
    app, _ = make()
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    async with client_of(app) as client:
        answer = await client.post("/_scale/login", content=body, headers=headers)
    assert answer.status_code == 401
    assert "That is not the token" in answer.text
    assert "set-cookie" not in answer.headers


async def test_another_site_cannot_log_a_visitor_in() -> None:
    app, _ = make()
    async with client_of(app, headers={"Sec-Fetch-Site": "cross-site"}) as client:
        answer = await client.post("/_scale/login", data={"token": TOKEN})
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers


async def staff(request: Request) -> bool:
    if "x-maintenance" in request.headers:
        raise HTTPException(503)
    return request.headers.get("x-user") == "asha"


@pytest.mark.parametrize("allow", [staff, lambda request: request.headers.get("x-user") == "asha"])
async def test_a_callable_decides_sync_or_async_about_every_answer(allow: Any) -> None:
    app, _ = make(allow=allow)
    async with client_of(app) as client:
        for path in (*PATHS[:2], "/_scale/dashboard.js", "/_scale/style.css"):
            assert (await client.get(path)).status_code == 403
            assert (await client.get(path, headers={"X-User": "asha"})).status_code == 200
        page = await client.get("/_scale/", headers={"X-User": "asha"})
        assert "<html data-open" in page.text  # nobody can log out of this
        assert (await client.post("/_scale/login", data={"token": TOKEN})).status_code == 303


async def test_what_a_callable_raises_is_the_answer() -> None:
    app, _ = make(allow=staff)
    async with client_of(app) as client:
        assert (await client.get("/_scale/", headers={"X-Maintenance": "1"})).status_code == 503


@pytest.mark.parametrize(
    ("peer", "base", "headers", "status"),
    [
        ("127.0.0.1", "http://localhost:8000", {}, 200),
        ("::1", "http://[::1]:8000", {}, 200),
        ("127.8.9.10", "http://app.localhost", {}, 200),
        ("10.0.0.7", "http://localhost", {}, 403),
        ("127.0.0.1", "http://evil.example", {}, 403),  # DNS rebinding
        ("127.0.0.1", "http://localhost", {"X-Forwarded-For": "203.0.113.9"}, 403),
        ("127.0.0.1", "http://localhost", {"Forwarded": "for=203.0.113.9"}, 403),
        ("testclient", "http://localhost", {}, 403),
    ],
)
async def test_loopback_only_lets_in_this_machine_by_its_own_name_alone(
    peer: str, base: str, headers: dict[str, str], status: int
) -> None:
    app, _ = make(allow=loopback_only)
    async with client_of(app, peer=peer, base=base) as client:
        assert (await client.get("/_scale/", headers=headers)).status_code == status


# --- how its answers are


def compressed_by_ours(app: Starlette) -> None:
    setup_compression(app, minimum_size=0)


def compressed_by_starlettes(app: Starlette) -> None:
    app.add_middleware(GZipMiddleware, minimum_size=0)


@pytest.mark.parametrize("compressed", [compressed_by_ours, compressed_by_starlettes])
async def test_no_answer_is_cached_compressed_framed_or_indexed(compressed: Callable[[Starlette], None]) -> None:
    app, _ = make()
    compressed(app)
    cache = Cache(None, namespace="dashboard")
    app.add_middleware(HTTPCacheMiddleware, cache=cache)
    async with client_of(app, headers=BEARER) as client:
        paths = ["/_scale", *PATHS[:2], *(f"/_scale/{name}" for name in ("dashboard.js", "style.css", "icon.svg"))]
        answers = [await client.get(path) for path in paths]
        answers.append(await client.get("/_scale/", headers={"Authorization": ""}))
        answers.append(await client.get("/_scale/data.json?window=2d"))
        answers.append(await client.head("/_scale/live"))
    await cache.aclose()
    for answer in answers:
        assert "no-store" in answer.headers["cache-control"]
        assert answer.headers.get("content-encoding", "identity") == "identity"
        assert "noindex" in answer.headers["x-robots-tag"]
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert [answer.status_code for answer in answers] == [307, 200, 200, 200, 200, 200, 401, 400, 200]


async def test_the_page_holds_nothing_inline_and_nothing_from_elsewhere() -> None:
    app, _ = make()
    async with client_of(app, headers=BEARER) as client:
        pages = [
            (await client.get("/_scale/")).text,
            (await client.get("/_scale/", headers={"Authorization": ""})).text,
        ]
        script, style = [(await client.get(f"/_scale/{name}")).text for name in ("dashboard.js", "style.css")]
    for page in pages:
        assert "<style" not in page
        assert "style=" not in page
        assert " on" not in "".join(part.partition(">")[0] for part in page.split("<")[1:])
        assert page.count("<script") == page.count('src="dashboard.js"')
        assert "{{" not in page
    for text in (*pages, script.replace("http://www.w3.org/2000/svg", ""), style):
        assert "http:" not in text
        assert "https:" not in text
    assert "innerHTML" not in script


async def test_it_can_live_under_a_path_and_a_prefix_and_before_what_takes_the_rest() -> None:
    inner = Starlette(routes=[Route("/{rest:path}", hello)])
    monitoring = Monitoring()
    setup_dashboard(inner, monitoring, path="/ops/board/", token=TOKEN)
    outer = Starlette(routes=[Mount("/api", inner)])
    async with client_of(outer, headers=BEARER) as client:
        moved = await client.get("/api/ops/board")
        assert moved.headers["location"] == "board/"
        assert (await client.get("/api/ops/board/data.json")).status_code == 200
        assert (await client.get("/api/other")).text == "hello"


def families(text: str) -> dict[tuple[str, str], float]:
    return {
        (sample.name, sample.labels.get("route", "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "le" not in sample.labels
    }


async def test_the_json_has_the_figures_of_metrics_and_does_not_count_itself() -> None:
    app, _ = make()
    async with client_of(app, headers=BEARER) as client:
        for _ in range(7):
            await client.get("/hello/asha")
        await client.get("/nowhere")
        for _ in range(3):
            await client.get("/_scale/")
            await client.get("/_scale/dashboard.js")
        data = (await client.get("/_scale/data.json?window=start")).json()
        scraped = families((await client.get("/metrics")).text)
    assert {row["route"]: row["requests"] for row in data["routes"]} == {"/hello/{name}": 7, "(unmatched)": 1}
    for row in data["routes"]:
        assert scraped["scale_http_requests_total", row["route"]] == row["requests"]
        assert scraped["scale_http_request_duration_seconds_count", row["route"]] == row["requests"]
    assert data["traffic"]["requests"] == 8
    assert data["window"] == {"name": "start", "seconds": None}


async def test_looks_are_shared_and_a_newer_one_is_taken_when_the_last_is_old(clock: ManualClock) -> None:
    app, _ = make(clock=clock, interval=4.0)
    async with client_of(app, headers=BEARER) as client:
        first = (await client.get("/_scale/data.json")).json()["at"]
        clock.advance(1)
        assert (await client.get("/_scale/data.json?window=1h")).json()["at"] == first
        clock.advance(2)
        assert (await client.get("/_scale/data.json")).json()["at"] == first + 3


# --- the stream


async def events(answer: Response) -> AsyncIterator[dict[str, Any]]:
    async for line in answer.aiter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


async def connect(server: Served) -> AsyncClient:
    return AsyncClient(base_url=server.url, headers={**BEARER, "Accept-Encoding": "gzip, br, zstd"}, timeout=20)


async def none_open(dashboard: Dashboard) -> None:
    """Wait until the end of every connection was noticed."""
    while dashboard.streams.open:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("compressed", [compressed_by_ours, compressed_by_starlettes])
async def test_snapshots_stream_as_they_are_made_through_all_middleware(
    compressed: Callable[[Starlette], None],
) -> None:
    app, dashboard = make(interval=0.05)
    compressed(app)
    cache = Cache(None, namespace="dashboard")
    app.add_middleware(HTTPCacheMiddleware, cache=cache)
    async with served(app) as server, await connect(server) as client, cache:
        async with client.stream("GET", "/_scale/live?window=start") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.headers["x-accel-buffering"] == "no"
            assert "content-encoding" not in answer.headers or answer.headers["content-encoding"] == "identity"
            seen = []
            async for picture in events(answer):
                seen.append(picture["traffic"]["requests"])
                if seen[-1] >= 3:
                    break
                await client.get("/hello/asha")
            assert seen == sorted(seen)
            assert dashboard.streams.open == 1
        await none_open(dashboard)


async def test_streams_are_bounded_and_a_place_is_free_again_when_one_ends() -> None:
    app, dashboard = make(interval=0.05, max_streams=2)
    async with served(app) as server, await connect(server) as client:
        async with client.stream("GET", "/_scale/live") as one, client.stream("GET", "/_scale/live") as two:
            await anext(events(one))
            await anext(events(two))
            refused = await client.get("/_scale/live")
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "10"
            assert (await client.get("/_scale/data.json")).status_code == 200
        await none_open(dashboard)
        async with client.stream("GET", "/_scale/live") as again:
            assert again.status_code == 200


async def test_a_stream_ends_by_itself_so_that_the_guard_is_asked_again() -> None:
    app, _ = make(interval=0.05, stream_seconds=0.3)
    async with served(app) as server, await connect(server) as client:
        async with client.stream("GET", "/_scale/live") as answer:
            pictures = [picture async for picture in events(answer)]
        assert len(pictures) > 1


async def test_streams_end_when_the_application_is_to_stop() -> None:
    draining = False
    app, _ = make(interval=0.05, stopping=lambda: draining)
    async with served(app) as server, await connect(server) as client:
        async with client.stream("GET", "/_scale/live") as answer:
            pictures = events(answer)
            await anext(pictures)
            draining = True
            async for _ in pictures:
                pass
        assert (await client.get("/_scale/live")).status_code == 503


async def test_an_open_page_does_not_keep_uvicorn_from_stopping() -> None:
    app, _ = make(interval=0.05, stream_seconds=3600.0)
    async with (
        served(app) as server,
        await connect(server) as client,
        client.stream("GET", "/_scale/live") as answer,
    ):
        pictures = events(answer)
        await anext(pictures)
        server.server.should_exit = True  # what its signal handler does
        async for _ in pictures:
            pass
        async with asyncio.timeout(30):
            await server.ended


async def test_a_client_that_vanishes_leaves_nothing_behind() -> None:
    app, dashboard = make(interval=0.05)
    async with served(app) as server:
        for _ in range(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
            writer.write(f"GET /_scale/live HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
            await reader.readuntil(b"data: ")
            writer.transport.abort()
        await none_open(dashboard)
    assert not [task for task in asyncio.all_tasks() if "_disconnected" in repr(task.get_coro())]


# --- in Scale


def installed(mongo_uri: str, **settings: Any) -> Starlette:
    app = Starlette(routes=[Route("/hello/{name}", hello)])
    Scale(ScaleSettings(_env_file=None, mongodb_uri=mongo_uri, **settings)).install(app)
    return app


@pytest.mark.parametrize(
    ("settings", "anonymous", "with_token"),
    [
        ({"environment": "development"}, 200, 200),
        ({"environment": "test"}, 404, 404),
        ({"environment": "production", "secret_key": "s" * 40}, 404, 404),
        ({"environment": "production", "secret_key": "s" * 40, "dashboard_token": TOKEN}, 401, 200),
        ({"environment": "development", "dashboard_token": TOKEN}, 401, 200),
        ({"environment": "development", "monitoring": "off"}, 404, 404),
    ],
)
async def test_in_production_it_is_off_unless_a_token_is_set(
    mongo_uri: str, settings: dict[str, Any], anonymous: int, with_token: int
) -> None:
    app = installed(mongo_uri, **settings)
    async with client_of(app) as client:
        assert (await client.get("/_scale/")).status_code == anonymous
        assert (await client.get("/_scale/", headers=BEARER)).status_code == with_token
    async with client_of(app, peer="10.1.2.3", base="http://shop.example") as client:
        assert (await client.get("/_scale/")).status_code in (401, 403, 404)


async def test_scale_puts_it_where_the_settings_say(mongo_uri: str) -> None:
    app = installed(mongo_uri, dashboard_path="/ops/board")
    async with client_of(app) as client:
        assert (await client.get("/ops/board/")).status_code == 200
        assert (await client.get("/_scale/")).status_code == 404
