from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, Request, WebSocket
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route

from smriti_scale.ratelimit import (
    RateLimiter,
    RateLimitExceeded,
    RateLimitMiddleware,
    client_address,
    setup_rate_limiting,
)
from tests.ratelimit.serving import client_of, handshake, statuses


def limiter_for(storage: str, redis_url: str, redis_prefix: str, **options: Any) -> RateLimiter:
    uri = redis_url if storage == "redis" else "memory://"
    options.setdefault("redis_timeout", 5.0)
    return RateLimiter(client_address(), storage_uri=uri, key_prefix=redis_prefix, **options)


@pytest.mark.parametrize("storage", ["memory", "redis"])
async def test_a_decorated_route_is_limited_and_another_client_is_not(
    storage: str, redis_url: str, redis_prefix: str
) -> None:
    limiter = limiter_for(storage, redis_url, redis_prefix)
    app = FastAPI()
    setup_rate_limiting(app, limiter)

    @app.get("/x/{item}")
    @limiter.limit("3/minute")
    async def x(request: Request, item: str) -> dict[str, str]:
        return {"item": item}

    @app.get("/sync")
    @limiter.limit("3/minute")
    def sync(request: Request) -> dict[str, str]:
        return {}

    assert await statuses(app, "/x/1", 4) == [200, 200, 200, 429]
    assert await statuses(app, "/x/2", 1) == [429]
    assert await statuses(app, "/x/1", 1, address="203.0.113.9") == [200]
    assert await statuses(app, "/sync", 4) == [200, 200, 200, 429]
    await limiter.aclose()


@pytest.mark.parametrize("storage", ["memory", "redis"])
async def test_defaults_reach_included_routers_by_template(storage: str, redis_url: str, redis_prefix: str) -> None:
    limiter = limiter_for(storage, redis_url, redis_prefix, default_limits=["2/minute"], headers_enabled=True)
    app = FastAPI()
    router = APIRouter()

    @router.get("/items/{item}")
    async def item(item: str) -> dict[str, str]:
        return {"item": item}

    app.include_router(router, prefix="/api")
    setup_rate_limiting(app, limiter)
    async with client_of(app) as client:
        answers = [await client.get(f"/api/items/{number}") for number in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["1", "0", "0"]
    assert 1 <= int(answers[2].headers["retry-after"]) <= 60
    assert answers[2].json() == {"error": "Rate limit exceeded: 2 per 1 minute"}
    await limiter.aclose()


async def test_the_applications_own_handler_answers_and_retry_after_is_there() -> None:
    limiter = RateLimiter(client_address(), default_limits=["1/minute"])
    app = Starlette(routes=[Route("/x", lambda request: PlainTextResponse("x"))])
    setup_rate_limiting(app, limiter)

    async def handler(request: Request, error: Exception) -> Response:
        assert isinstance(error, RateLimitExceeded)
        return JSONResponse({"code": "RATE_LIMITED", "detail": error.detail}, status_code=429)

    app.add_exception_handler(RateLimitExceeded, handler)
    async with client_of(app) as client:
        await client.get("/x")
        answer = await client.get("/x")
    assert answer.json() == {"code": "RATE_LIMITED", "detail": "1 per 1 minute"}
    assert int(answer.headers["retry-after"]) in range(1, 61)


@pytest.mark.parametrize("headers", [False, True])
async def test_a_middleware_that_stands_twice_charges_once(headers: bool) -> None:
    limiter = RateLimiter(client_address(), default_limits=["3/minute"], headers_enabled=headers)
    app = Starlette(routes=[Route("/x", lambda request: PlainTextResponse("x"))])
    setup_rate_limiting(app, limiter)
    app.add_middleware(RateLimitMiddleware, limiter=limiter)
    assert await statuses(app, "/x", 4) == [200, 200, 200, 429]


@pytest.mark.parametrize("outer_headers", [False, True])
async def test_a_mounted_application_with_a_limiter_of_its_own_is_limited_by_both(outer_headers: bool) -> None:
    inner = FastAPI()

    @inner.get("/x")
    async def x() -> dict[str, str]:
        return {}

    outer = RateLimiter(client_address(), default_limits=["4/minute"], headers_enabled=outer_headers)
    own = RateLimiter(client_address(), default_limits=["2/minute"], headers_enabled=True)
    setup_rate_limiting(inner, own)
    app = Starlette(routes=[Mount("/inner", inner), Route("/y", lambda request: PlainTextResponse("y"))])
    setup_rate_limiting(app, outer)
    async with client_of(app) as client:
        answers = [await client.get("/inner/x") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["x-ratelimit-limit"] for answer in answers] == ["2", "2", "2"]
    assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["1", "0", "0"]
    assert await statuses(app, "/inner/x", 2) == [429, 429]
    assert (await own.peek("198.51.100.7")).limits[0].remaining == 0


async def test_a_handler_of_a_mounted_application_need_not_say_when_to_come_back() -> None:
    limiter = RateLimiter(client_address())

    @limiter.limit("1/minute")
    async def x(request: Request) -> Response:
        return PlainTextResponse("x")

    async def handler(request: Request, error: Exception) -> Response:
        return JSONResponse({"code": "RATE_LIMITED"}, status_code=429)

    inner = Starlette(routes=[Route("/x", x)], exception_handlers={RateLimitExceeded: handler})
    app = Starlette(routes=[Mount("/inner", inner, middleware=[Middleware(GZipMiddleware)])])
    setup_rate_limiting(app, limiter)
    async with client_of(app) as client:
        await client.get("/inner/x")
        answer = await client.get("/inner/x")
    assert answer.json() == {"code": "RATE_LIMITED"}
    assert int(answer.headers["retry-after"]) in range(1, 61)


@pytest.mark.parametrize("watched", [{}, {"headers_enabled": True}, {"retry_after": "http-date"}])
async def test_answers_are_watched_only_where_there_is_something_to_tell(watched: dict[str, Any]) -> None:
    limiter = RateLimiter(client_address(), **watched)
    app = Starlette()
    setup_rate_limiting(app, limiter)
    sends: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        sends.append(send)

    async def receive() -> Any: ...
    async def send(message: Any) -> None: ...

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "app": app}
    await RateLimitMiddleware(inner, limiter)(scope, receive, send)
    assert (sends == [send]) is (not watched)


async def test_websocket_handshakes_are_refused_before_they_are_accepted() -> None:
    limiter = RateLimiter(client_address())
    app = FastAPI()
    setup_rate_limiting(app, limiter)

    @app.websocket("/talk")
    @limiter.limit("1/minute")
    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    assert [message["type"] for message in await handshake(app, "/talk")] == ["websocket.accept", "websocket.close"]
    assert await handshake(app, "/talk") == [
        {"type": "websocket.close", "code": 1008, "reason": "Rate limit exceeded: 1 per 1 minute"}
    ]
    start, *_ = await handshake(app, "/talk", denial=True)
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 429)


async def test_a_request_leaves_no_cycle_to_the_garbage_collector() -> None:
    limiter = RateLimiter(client_address(), default_limits=["100/hour"], headers_enabled=True)

    class Server:
        """As servers are: `send` belongs to what also holds the scope."""

        def __init__(self) -> None:
            self.scope: dict[str, Any] = {
                "type": "http",
                "method": "GET",
                "path": "/nowhere",
                "raw_path": b"/nowhere",
                "headers": [],
                "query_string": b"",
                "client": ("198.51.100.7", 1),
                "state": {},
            }

        async def receive(self) -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(self, message: Any) -> None: ...

    gc.disable()
    try:
        server = Server()
        await RateLimitMiddleware(PlainTextResponse("x"), limiter)(server.scope, server.receive, server.send)
        item, names = server.scope["state"]["view_rate_limit"]  # slowapi's pair
        assert (str(item), names) == ("100 per 1 hour", ["198.51.100.7", "(unmatched)"])
        gone = weakref.ref(server)
        del server
        assert gone() is None
    finally:
        gc.enable()
