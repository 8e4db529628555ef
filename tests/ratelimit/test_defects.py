"""What is known to go wrong with slowapi and its kin, one test each; see the migration page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, Request, WebSocket
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route
from starlette.types import Message

from smriti_scale.ratelimit import RateLimiter, client_address, setup_rate_limiting
from tests.ratelimit.serving import client_of, handshake, statuses


def fastapi_with(limiter: RateLimiter) -> FastAPI:
    app = FastAPI()
    setup_rate_limiting(app, limiter)
    return app


async def test_a_dictionary_result_has_headers_and_needs_no_response_parameter() -> None:
    limiter = RateLimiter(client_address(), headers_enabled=True)
    app = fastapi_with(limiter)

    @app.get("/x")
    @limiter.limit("5/minute")
    async def x(request: Request) -> dict[str, int]:
        return {"x": 1}

    async with client_of(app) as client:
        answer = await client.get("/x")
    assert (answer.status_code, answer.headers["x-ratelimit-remaining"]) == (200, "4")


async def test_a_dictionary_result_is_no_error_even_without_the_middleware() -> None:
    limiter = RateLimiter(client_address(), headers_enabled=True)
    app = FastAPI()

    @app.get("/x")
    @limiter.limit("5/minute")
    async def x(request: Request) -> dict[str, int]:
        return {"x": 1}

    assert await statuses(app, "/x", 2) == [200, 200]


async def test_urls_of_one_route_share_its_limit() -> None:
    limiter = RateLimiter(client_address(), default_limits=["2/minute"])
    app = fastapi_with(limiter)

    @app.get("/decorated/{item}")
    @limiter.limit("2/minute")
    async def decorated(request: Request, item: str) -> str:
        return item

    @app.get("/default/{item}")
    async def default(item: str) -> str:
        return item

    for path in ("decorated", "default"):
        codes = [(await statuses(app, f"/{path}/{number}", 1))[0] for number in range(3)]
        assert codes == [200, 200, 429]


async def test_defaults_reach_routes_of_included_routers() -> None:
    limiter = RateLimiter(client_address(), default_limits=["1/minute"])
    app = fastapi_with(limiter)
    router = APIRouter()

    @router.get("/x")
    async def x() -> str:
        return "x"

    app.include_router(router, prefix="/api")
    assert await statuses(app, "/api/x", 2) == [200, 429]


async def test_a_streamed_response_is_started_once_and_stays_a_stream() -> None:
    limiter = RateLimiter(client_address(), default_limits=["5/minute"], headers_enabled=True)
    released = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"first"
        await released.wait()
        yield b"second"

    app = Starlette(routes=[Route("/stream", lambda request: StreamingResponse(chunks()))])
    setup_rate_limiting(app, limiter)
    sent: list[Message] = []

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)
        if message.get("body") == b"first":
            released.set()  # only a stream that passes at once gets here before the end

    scope: dict[str, Any] = {
        "type": "http", "method": "GET", "path": "/stream", "root_path": "", "query_string": b"", "headers": [],
        "client": ("1.2.3.4", 1), "asgi": {"spec_version": "2.4"},
    }  # fmt: skip
    await asyncio.wait_for(app(scope, receive, send), 30)
    assert [message["type"] for message in sent].count("http.response.start") == 1
    assert b"".join(message.get("body", b"") for message in sent) == b"firstsecond"
    assert (b"x-ratelimit-remaining", b"4") in sent[0]["headers"]


async def test_a_route_that_yields_is_limited_before_it_starts() -> None:
    limiter = RateLimiter(client_address())
    app = fastapi_with(limiter)
    started = []

    @app.get("/stream", response_class=StreamingResponse)
    @limiter.limit("1/minute")
    async def stream(request: Request) -> AsyncIterator[bytes]:
        started.append(True)
        yield b"one"

    assert await statuses(app, "/stream", 2) == [200, 429]
    assert len(started) == 1


async def test_websockets_are_limited_by_defaults_and_decorators() -> None:
    limiter = RateLimiter(client_address(), default_limits=["1/minute"])
    app = fastapi_with(limiter)

    @app.websocket("/plain")
    async def plain(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    @app.websocket("/limited")
    @limiter.limit("2/minute")
    async def limited(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    for path, admitted in (("/plain", 1), ("/limited", 2)):
        for _ in range(admitted):
            assert (await handshake(app, path))[0]["type"] == "websocket.accept"
        refused = (await handshake(app, path))[0]
        assert (refused["type"], refused["code"]) == ("websocket.close", 1008)
        denied = await handshake(app, path, denial=True)
        assert denied[0]["status"] == 429
        assert any(name == b"retry-after" for name, _ in denied[0]["headers"])


async def test_a_request_that_a_second_limit_refuses_is_not_charged_to_the_first() -> None:
    limiter = RateLimiter(client_address())
    app = fastapi_with(limiter)

    @app.get("/x")
    @limiter.limit("10/hour")
    @limiter.limit("2/minute")
    async def x(request: Request) -> str:
        return "x"

    assert await statuses(app, "/x", 6) == [200, 200, 429, 429, 429, 429]
    remaining = {limit.limit: limit.remaining for limit in (await limiter.peek("198.51.100.7")).limits}
    assert remaining == {"10 per 1 hour": 8, "2 per 1 minute": 0}


async def test_two_functions_of_one_name_have_a_limit_each() -> None:
    limiter = RateLimiter(client_address())
    app = fastapi_with(limiter)

    def make(path: str) -> None:
        @app.get(path)
        @limiter.limit("1/minute")
        async def handler(request: Request) -> str:
            return path

    make("/a")
    make("/b")
    assert await statuses(app, "/a", 2) == [200, 429]
    assert await statuses(app, "/b", 2) == [200, 429]


async def test_get_and_post_of_one_path_have_a_limit_each() -> None:
    limiter = RateLimiter(client_address())
    app = fastapi_with(limiter)

    @app.get("/posts")
    @limiter.limit("1/minute")
    async def read(request: Request) -> str:
        return "read"

    @app.post("/posts")
    @limiter.limit("1/minute")
    async def write(request: Request) -> str:
        return "write"

    assert await statuses(app, "/posts", 2) == [200, 429]
    assert await statuses(app, "/posts", 2, method="POST") == [200, 429]


@pytest.mark.parametrize("swallow", [True, False])
async def test_redis_down_is_never_a_500(swallow: bool) -> None:
    limiter = RateLimiter(
        client_address(), storage_uri="redis://127.0.0.1:1/0", swallow_errors=swallow, headers_enabled=True
    )
    app = fastapi_with(limiter)

    @app.get("/x")
    @limiter.limit("2/minute")
    async def x(request: Request) -> str:
        return "x"

    assert await statuses(app, "/x", 3) == [200, 200, 429]
    await limiter.aclose()


async def test_the_reset_header_is_a_whole_second_and_not_too_early() -> None:
    limiter = RateLimiter(client_address(), headers_enabled=True)
    app = fastapi_with(limiter)

    @app.get("/x")
    @limiter.limit("1/minute")
    async def x(request: Request) -> str:
        return "x"

    async with client_of(app) as client:
        answer = await client.get("/x")
    (limit,) = (await limiter.peek("198.51.100.7")).limits
    assert limit.reset_at < int(answer.headers["x-ratelimit-reset"]) <= limit.reset_at + 1


async def test_a_forged_forwarded_header_is_not_believed() -> None:
    limiter = RateLimiter(client_address(), default_limits=["1/minute"])
    app = fastapi_with(limiter)

    @app.get("/x")
    async def x() -> str:
        return "x"

    codes = [(await statuses(app, "/x", 1, **{"X-Forwarded-For": f"1.1.1.{n}"}))[0] for n in range(3)]
    assert codes == [200, 429, 429]


async def test_paths_that_no_route_serves_share_one_allowance() -> None:
    limiter = RateLimiter(client_address(), default_limits=["3/minute"])
    app = fastapi_with(limiter)
    codes = [(await statuses(app, f"/scan-{number}", 1))[0] for number in range(5)]
    assert codes == [404, 404, 404, 429, 429]
    assert [limit.scope for limit in (await limiter.peek("198.51.100.7")).limits] == ["(unmatched)"]


async def test_mounted_apps_and_static_files_are_limited_by_template() -> None:
    async def files(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("file")(scope, receive, send)

    limiter = RateLimiter(client_address(), default_limits=["1/minute"])
    inner = Starlette(routes=[Route("/items/{item}", lambda request: PlainTextResponse("item"))])
    app = Starlette(routes=[Mount("/sub", app=inner), Mount("/static", app=files)])
    setup_rate_limiting(app, limiter)
    assert [(await statuses(app, path, 1))[0] for path in ("/sub/items/1", "/sub/items/2")] == [200, 429]
    assert [(await statuses(app, path, 1))[0] for path in ("/static/a.css", "/static/b.css")] == [200, 429]


async def test_a_bad_limit_is_an_error_when_it_is_written_and_not_a_route_without_limit() -> None:
    limiter = RateLimiter(client_address())
    with pytest.raises(ValueError, match="is no rate limit"):
        limiter.limit("five a minute")
    with pytest.raises(ValueError, match="is no rate limit"):
        RateLimiter(client_address(), default_limits=["often"])
