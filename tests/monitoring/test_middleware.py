from __future__ import annotations

import asyncio
import random
import string
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, HTTPException
from httpx import ASGITransport, AsyncClient
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.types import Message, Scope
from starlette.websockets import WebSocket, WebSocketDisconnect

from smriti_scale.monitoring import Metrics, MonitoringMiddleware
from smriti_scale.testing import ManualClock
from tests.monitoring.figures import series, until, value

REQUESTS = "scale_http_requests_total"
DURATION = "scale_http_request_duration_seconds"
Endpoint = Callable[[Request], Awaitable[Response]]


def monitored(app: Starlette, **options: Any) -> Metrics:
    metrics = Metrics()
    app.add_middleware(MonitoringMiddleware, metrics=metrics, **options)
    return metrics


def client_of(app: Starlette) -> AsyncClient:
    return AsyncClient(transport=ASGITransport(app, raise_app_exceptions=False), base_url="http://test")


def http_scope(path: str, method: str = "GET") -> Scope:
    return {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "method": method,
        "scheme": "http", "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"",
        "headers": [(b"host", b"test")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
    }  # fmt: skip


async def never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


async def nowhere(message: Message) -> None: ...


async def ok(request: Request) -> Response:
    return PlainTextResponse("ok")


# --- labels


async def test_requests_are_counted_by_method_template_and_exact_status() -> None:
    app = FastAPI()
    router = APIRouter(prefix="/posts")

    @router.get("/{post_id}")
    async def post(post_id: int) -> dict[str, int]:
        if post_id == 9:
            raise HTTPException(410)
        return {"id": post_id}

    app.include_router(router, prefix="/api")
    app.mount("/inner", Starlette(routes=[Route("/things/{thing}", ok)]))
    metrics = monitored(app)
    async with client_of(app) as client:
        for path in ("/api/posts/1", "/api/posts/2", "/api/posts/9", "/api/posts/x", "/inner/things/a", "/none"):
            await client.get(path)
        await client.post("/api/posts/1")
        await client.request("BREW", "/api/posts/1")
    assert series(metrics, REQUESTS) == {
        ("GET", "/api/posts/{post_id}", "200"): 2,
        ("GET", "/api/posts/{post_id}", "410"): 1,
        ("GET", "/api/posts/{post_id}", "422"): 1,
        ("POST", "/api/posts/{post_id}", "405"): 1,
        ("OTHER", "/api/posts/{post_id}", "405"): 1,
        ("GET", "/inner/things/{thing}", "200"): 1,
        ("GET", "(unmatched)", "404"): 1,
    }
    assert value(metrics, f"{DURATION}_count", method="GET", route="/api/posts/{post_id}") == 4


@pytest.mark.long
async def test_a_hundred_thousand_random_paths_and_methods_make_a_handful_of_series() -> None:
    routes = [Route("/posts/{post_id}", ok), Mount("/static", app=PlainTextResponse("file")), Route("/", ok)]
    app = Starlette(routes=routes)

    async def answers_anything(scope: Scope, receive: Any, send: Any) -> None:
        scope["app"] = app  # as a Starlette app does before its middleware; the rest of it is not what is tested
        await send({"type": "http.response.start", "status": scope["status"], "headers": []})
        await send({"type": "http.response.body", "body": b""})

    metrics = Metrics()
    middleware = MonitoringMiddleware(answers_anything, metrics=metrics)
    chance = random.Random(1)

    async def send(message: Message) -> None: ...

    for _ in range(100_000):
        word = "".join(chance.choices(string.ascii_letters + "/%{}é", k=8))
        path = chance.choice(["/", "/posts/", "/static/", "/posts/1/"]) + word
        method = chance.choice(["GET", "POST", "".join(chance.choices(string.ascii_uppercase, k=5))])
        await middleware({**http_scope(path, method), "status": chance.choice([200, 404, 7, 999])}, never, send)
    counted = series(metrics, REQUESTS)
    assert sum(counted.values()) == 100_000
    assert {route for _, route, _ in counted} <= {"/posts/{post_id}", "/static/{path}", "/", "(unmatched)"}
    assert {status for _, _, status in counted} == {"200", "404", "(other)"}
    assert len(counted) <= 4 * 3 * 3
    assert len(middleware._known) <= 4 * 3 * 4


async def test_an_ignored_route_is_not_counted_though_it_is_in_progress() -> None:
    app = Starlette(routes=[Route("/livez", ok), Route("/", ok)])
    metrics = monitored(app, ignore=("/livez",))
    async with client_of(app) as client:
        await client.get("/livez")
        await client.get("/")
    assert series(metrics, REQUESTS) == {("GET", "/", "200"): 1}


# --- errors


async def test_an_exception_is_a_500_and_counted_by_its_class() -> None:
    async def broken(request: Request) -> Response:
        raise ZeroDivisionError

    app = Starlette(routes=[Route("/broken", broken)])
    metrics = monitored(app)
    async with client_of(app) as client:
        assert (await client.get("/broken")).status_code == 500
    assert series(metrics, REQUESTS) == {("GET", "/broken", "500"): 1}
    assert series(metrics, "scale_http_exceptions_total") == {("ZeroDivisionError", "GET", "/broken"): 1}
    assert value(metrics, "scale_http_requests_in_progress") == 0


async def test_an_answer_that_an_exception_breaks_off_counts_as_500() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"begun"
        raise ValueError

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(pieces())

    app = Starlette(routes=[Route("/export", endpoint)])
    metrics = monitored(app)
    async with client_of(app) as client:
        await client.get("/export")
    assert series(metrics, REQUESTS) == {("GET", "/export", "500"): 1}
    assert value(metrics, "scale_http_disconnects_total", method="GET", route="/export") == 0


async def test_a_background_task_that_fails_is_an_exception_but_no_failed_request() -> None:
    async def fails() -> None:
        raise KeyError

    async def endpoint(request: Request) -> Response:
        return PlainTextResponse("accepted", 202, background=BackgroundTask(fails))

    app = Starlette(routes=[Route("/jobs", endpoint)])
    metrics = monitored(app)
    async with client_of(app) as client:
        await client.get("/jobs")
    assert series(metrics, REQUESTS) == {("GET", "/jobs", "202"): 1}
    assert series(metrics, "scale_http_exceptions_total") == {("KeyError", "GET", "/jobs"): 1}


async def test_an_app_that_returns_without_an_answer_counts_as_500() -> None:
    async def silent(scope: Scope, receive: Any, send: Any) -> None: ...

    metrics = Metrics()
    await MonitoringMiddleware(silent, metrics=metrics)(http_scope("/"), never, nowhere)
    assert series(metrics, REQUESTS) == {("GET", "(unmatched)", "500"): 1}


# --- clients that leave


async def test_a_client_that_leaves_before_the_answer_is_a_499() -> None:
    async def waits(request: Request) -> Response:
        assert await request.is_disconnected()
        raise RuntimeError("nobody is there")

    app = Starlette(routes=[Route("/slow", waits)])
    metrics = monitored(app)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None: ...

    with pytest.raises(RuntimeError):
        await app(http_scope("/slow"), receive, send)
    assert series(metrics, REQUESTS) == {("GET", "/slow", "499"): 1}
    assert value(metrics, "scale_http_disconnects_total", method="GET", route="/slow") == 1
    assert series(metrics, "scale_http_exceptions_total") == {}


async def test_a_request_that_the_server_cancels_is_a_499() -> None:
    async def waits(request: Request) -> Response:
        await asyncio.Event().wait()
        raise AssertionError

    app = Starlette(routes=[Route("/slow", waits)])
    metrics = monitored(app)
    task = asyncio.create_task(app(http_scope("/slow"), never, nowhere))
    await until(lambda: value(metrics, "scale_http_requests_in_progress"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert series(metrics, REQUESTS) == {("GET", "/slow", "499"): 1}
    assert value(metrics, "scale_http_requests_in_progress") == 0


async def test_a_client_that_leaves_a_stream_keeps_its_status_and_counts_as_gone() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        while True:
            yield b"data: 1\n\n"

    async def events(request: Request) -> Response:
        return StreamingResponse(pieces(), media_type="text/event-stream")

    app = Starlette(routes=[Route("/events", events)])
    metrics = monitored(app)
    sent = 0

    async def send(message: Message) -> None:
        nonlocal sent
        sent += 1
        if sent > 3:
            raise OSError("gone")

    with pytest.raises((ClientDisconnect, ExceptionGroup)):
        await app(http_scope("/events"), never, send)
    assert series(metrics, REQUESTS) == {("GET", "/events", "200"): 1}
    assert value(metrics, "scale_http_disconnects_total", method="GET", route="/events") == 1
    assert value(metrics, "scale_http_stream_duration_seconds_count", method="GET", route="/events") == 1
    assert series(metrics, "scale_http_exceptions_total") == {}


# --- times and sizes


async def test_the_duration_ends_with_the_first_bytes_and_a_stream_has_its_own(clock: ManualClock) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        clock.advance(2)
        yield b"first"
        clock.advance(60)
        yield b"last"

    async def export(request: Request) -> Response:
        return StreamingResponse(pieces())

    app = Starlette(routes=[Route("/export", export)])
    metrics = monitored(app, clock=clock)
    async with client_of(app) as client:
        await client.get("/export")
    assert value(metrics, f"{DURATION}_sum", method="GET", route="/export") == 2
    assert value(metrics, "scale_http_stream_duration_seconds_sum", method="GET", route="/export") == 62
    assert value(metrics, "scale_http_response_size_bytes_sum", method="GET", route="/export") == 9


async def test_what_runs_after_the_answer_is_neither_duration_nor_progress(clock: ManualClock) -> None:
    during: list[float] = []

    async def later() -> None:
        clock.advance(100)
        during.append(value(metrics, "scale_http_requests_in_progress"))

    async def endpoint(request: Request) -> Response:
        during.append(value(metrics, "scale_http_requests_in_progress"))
        clock.advance(0.25)
        return PlainTextResponse("ok", background=BackgroundTask(later))

    app = Starlette(routes=[Route("/", endpoint)])
    metrics = monitored(app, clock=clock)
    async with client_of(app) as client:
        await client.get("/")
    assert during == [1, 0]
    assert value(metrics, f"{DURATION}_sum", method="GET", route="/") == 0.25
    assert value(metrics, f"{DURATION}_bucket", method="GET", route="/", le="0.2") == 0
    assert value(metrics, f"{DURATION}_bucket", method="GET", route="/", le="0.5") == 1


async def test_bodies_are_measured_as_they_pass() -> None:
    async def echo(request: Request) -> Response:
        return PlainTextResponse(await request.body() + b"!")

    async def body() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 1000

    app = Starlette(routes=[Route("/echo", echo, methods=["POST"])])
    metrics = monitored(app)
    async with client_of(app) as client:
        await client.post("/echo", content=body())
    assert value(metrics, "scale_http_request_size_bytes_sum", method="POST", route="/echo") == 3000
    assert value(metrics, "scale_http_response_size_bytes_sum", method="POST", route="/echo") == 3001


async def test_it_works_around_middleware_that_turns_answers_into_streams() -> None:
    async def passing(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    app = Starlette(routes=[Route("/", ok)])
    app.add_middleware(BaseHTTPMiddleware, dispatch=passing)
    metrics = monitored(app)
    async with client_of(app) as client:
        assert (await client.get("/")).text == "ok"
    assert series(metrics, REQUESTS) == {("GET", "/", "200"): 1}


# --- WebSockets


def websocket_app() -> tuple[Starlette, Metrics]:
    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            while (text := await websocket.receive_text()) != "fail":
                await websocket.send_text(text)
        except WebSocketDisconnect:
            return
        raise ValueError("told to")

    async def refuse(websocket: WebSocket) -> None:
        await websocket.close()

    async def wait(websocket: WebSocket) -> None:
        while (await websocket.receive())["type"] != "websocket.disconnect":
            pass

    routes = {"/talk/{room}": talk, "/refuse": refuse, "/wait": wait}
    app = Starlette(routes=[WebSocketRoute(path, endpoint) for path, endpoint in routes.items()])
    return app, monitored(app)


class Socket:
    """One WebSocket, spoken by hand."""

    def __init__(self, app: Starlette, path: str) -> None:
        self.incoming: asyncio.Queue[Message] = asyncio.Queue()
        self.outgoing: asyncio.Queue[Message] = asyncio.Queue()
        scope = {**http_scope(path), "type": "websocket", "scheme": "ws", "subprotocols": []}
        del scope["method"]
        self.incoming.put_nowait({"type": "websocket.connect"})
        self.served = asyncio.create_task(app(scope, self.incoming.get, self.outgoing.put))

    async def say(self, text: str) -> None:
        await self.incoming.put({"type": "websocket.receive", "text": text})


async def test_a_websocket_is_a_handshake_and_open_until_it_ends() -> None:
    app, metrics = websocket_app()
    socket = Socket(app, "/talk/7")
    assert (await socket.outgoing.get())["type"] == "websocket.accept"
    await socket.say("hello")
    assert (await socket.outgoing.get())["text"] == "hello"
    assert value(metrics, "scale_websockets_open") == 1
    await socket.incoming.put({"type": "websocket.disconnect", "code": 1000})
    await socket.served
    assert value(metrics, "scale_websockets_open") == 0
    assert series(metrics, REQUESTS) == {("WEBSOCKET", "/talk/{room}", "101"): 1}
    assert value(metrics, "scale_http_stream_duration_seconds_count", method="WEBSOCKET", route="/talk/{room}") == 1


async def test_a_websocket_that_is_refused_or_breaks_is_told_apart() -> None:
    app, metrics = websocket_app()
    await Socket(app, "/refuse").served
    failing = Socket(app, "/talk/8")
    await failing.say("fail")
    with pytest.raises(ValueError, match="told to"):
        await failing.served
    gone = Socket(app, "/wait")
    await gone.incoming.put({"type": "websocket.disconnect", "code": 1006})
    await gone.served
    assert series(metrics, REQUESTS) == {
        ("WEBSOCKET", "/talk/{room}", "101"): 1,
        ("WEBSOCKET", "/refuse", "403"): 1,
        ("WEBSOCKET", "/wait", "499"): 1,
    }
    assert value(metrics, "scale_websockets_open") == 0
    assert series(metrics, "scale_http_exceptions_total") == {("ValueError", "WEBSOCKET", "/talk/{room}"): 1}
