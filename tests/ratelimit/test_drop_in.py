"""What code written for slowapi relies on: its arguments, decorators, handlers, middleware and clock."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from slowapi import Limiter, _rate_limit_exceeded_handler
from slowapi.errors import RateLimitExceeded as SlowapiRateLimitExceeded
from slowapi.middleware import SlowAPIASGIMiddleware, SlowAPIMiddleware
from slowapi.util import get_remote_address
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from smriti_scale.errors import ConfigurationError
from smriti_scale.ratelimit import RateLimiter, RateLimitExceeded, setup_rate_limiting
from tests.ratelimit.serving import client_of, statuses


def slowapi_app(limiter: RateLimiter, middleware: Any = None) -> FastAPI:
    """Set up as slowapi's documentation says."""
    app = FastAPI()
    app.state.limiter = limiter
    app.add_exception_handler(SlowapiRateLimitExceeded, _rate_limit_exceeded_handler)  # type: ignore[arg-type]
    if middleware is not None:
        app.add_middleware(middleware)
    return app


@pytest.mark.parametrize("middleware", [None, SlowAPIMiddleware, SlowAPIASGIMiddleware])
async def test_an_app_set_up_for_slowapi_works_as_it_is(middleware: Any) -> None:
    limiter = RateLimiter(get_remote_address, default_limits=["3/minute"], headers_enabled=True)
    assert isinstance(limiter, Limiter)
    app = slowapi_app(limiter, middleware)

    @app.get("/decorated")
    @limiter.limit("2/minute")
    async def decorated(request: Request) -> Response:
        return PlainTextResponse("x")

    @app.get("/default")
    async def default() -> str:
        return "x"

    @app.get("/exempt")
    @limiter.exempt
    async def exempt() -> str:
        return "x"

    async with client_of(app) as client:
        answers = [await client.get("/decorated") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["1", "0", "0"]
    assert answers[2].json() == {"error": "Rate limit exceeded: 2 per 1 minute"}
    assert await statuses(app, "/default", 4) == ([200] * 3 + [429] if middleware else [200] * 4)
    assert await statuses(app, "/exempt", 5) == [200] * 5


async def test_slowapis_middleware_works_with_redis_too(redis_url: str, redis_prefix: str) -> None:
    limiter = RateLimiter(
        get_remote_address,
        default_limits=["2/minute"],
        storage_uri=redis_url,
        key_prefix=redis_prefix,
        redis_timeout=5.0,
    )
    app = slowapi_app(limiter, SlowAPIASGIMiddleware)

    @app.get("/x")
    async def x() -> str:
        return "x"

    assert await statuses(app, "/x", 3) == [200, 200, 429]
    await limiter.aclose()


async def test_every_argument_of_limit_means_what_it_did() -> None:
    limiter = RateLimiter(get_remote_address, default_limits=["3/minute"])
    app = FastAPI()
    setup_rate_limiting(app, limiter)

    @app.api_route("/methods", methods=["GET", "POST"])
    @limiter.limit("1/minute", methods=["POST"], error_message="not so fast")
    async def methods(request: Request) -> str:
        return "x"

    @app.api_route("/each", methods=["GET", "POST"])
    @limiter.limit("1/minute", per_method=True)
    async def each(request: Request) -> str:
        return "x"

    @app.get("/cost")
    @limiter.limit("10/minute", cost=lambda request: int(request.headers["x-cost"]))
    async def cost(request: Request) -> str:
        return "x"

    @app.get("/exempt")
    @limiter.limit("1/minute", exempt_when=lambda request: "x-staff" in request.headers)
    async def exempt(request: Request) -> str:
        return "x"

    @app.get("/both")
    @limiter.limit("5/minute", override_defaults=False)
    async def both(request: Request) -> str:
        return "x"

    @app.get("/key")
    @limiter.limit("1/minute", key_func=lambda: "everybody")
    async def key(request: Request) -> str:
        return "x"

    assert await statuses(app, "/methods", 3) == [200] * 3
    assert await statuses(app, "/methods", 2, method="POST") == [200, 429]
    async with client_of(app) as client:
        assert (await client.post("/methods")).json() == {"error": "Rate limit exceeded: not so fast"}
    assert await statuses(app, "/each", 2) == [200, 429]
    assert await statuses(app, "/each", 2, method="POST") == [200, 429]
    assert await statuses(app, "/cost", 3, **{"x-cost": "4"}) == [200, 200, 429]
    assert await statuses(app, "/cost", 1, **{"x-cost": "-100"}) == [200]
    assert await statuses(app, "/cost", 1, **{"x-cost": "4"}) == [429]
    assert await statuses(app, "/exempt", 3, **{"x-staff": "1"}) == [200] * 3
    assert await statuses(app, "/exempt", 2) == [200, 429]
    assert await statuses(app, "/both", 4) == [200, 200, 200, 429]
    assert await statuses(app, "/key", 1) == [200]
    assert await statuses(app, "/key", 1, address="203.0.113.5") == [429]


async def test_shared_and_application_limits_are_counted_together() -> None:
    limiter = RateLimiter(get_remote_address, application_limits=["5/minute"])
    app = FastAPI()
    setup_rate_limiting(app, limiter)
    shared = limiter.shared_limit("2/minute", scope="searches")

    @app.get("/a")
    @shared
    async def a(request: Request) -> str:
        return "a"

    @app.get("/b")
    @shared
    def b(request: Request) -> str:
        return "b"

    @app.get("/c")
    async def c() -> str:
        return "c"

    assert await statuses(app, "/a", 1) + await statuses(app, "/b", 2) == [200, 200, 429]
    assert await statuses(app, "/c", 4) == [200, 200, 200, 429]
    assert await statuses(app, "/b", 1) == [429]


async def test_limits_may_come_from_a_function_of_nothing_the_key_or_the_request() -> None:
    limiter = RateLimiter(lambda request: request.headers.get("x-key", "nobody"))
    app = FastAPI()
    setup_rate_limiting(app, limiter)
    amount = ["1/minute"]

    @app.get("/nothing")
    @limiter.limit(lambda: amount[0])
    async def nothing(request: Request) -> str:
        return "x"

    def by_key(key: str) -> str:
        return "2/minute" if key == "admin" else "1/minute"

    @app.get("/key")
    @limiter.limit(by_key)
    async def key(request: Request) -> str:
        return "x"

    def by_request(request: Request) -> str:
        return request.headers.get("x-limit", "1/minute")

    @app.get("/request")
    @limiter.limit(by_request)
    def request_(request: Request) -> str:
        return "x"

    assert await statuses(app, "/nothing", 2) == [200, 429]
    amount[0] = "2/minute"
    assert await statuses(app, "/nothing", 3) == [200, 200, 429]
    amount[0] = "nonsense"
    assert await statuses(app, "/nothing", 3) == [200] * 3
    assert await statuses(app, "/key", 2) == [200, 429]
    assert await statuses(app, "/key", 3, **{"x-key": "admin"}) == [200, 200, 429]
    assert await statuses(app, "/request", 3, **{"x-limit": "2/minute"}) == [200, 200, 429]


@pytest.mark.parametrize(("style", "codes"), [("route", [200, 429]), ("endpoint", [200, 429]), ("url", [200, 200])])
async def test_key_styles(style: Any, codes: list[int]) -> None:
    limiter = RateLimiter(get_remote_address, default_limits=["1/minute"], key_style=style)
    app = FastAPI()
    setup_rate_limiting(app, limiter)

    @app.get("/decorated/{item}")
    @limiter.limit("1/minute")
    async def decorated(request: Request, item: str) -> str:
        return item

    @app.get("/default/{item}")
    async def default(item: str) -> str:
        return item

    for path in ("decorated", "default"):
        assert [(await statuses(app, f"/{path}/{number}", 1))[0] for number in (1, 2)] == codes


async def test_request_filters_and_switching_off_let_requests_pass() -> None:
    limiter = RateLimiter(get_remote_address, default_limits=["1/minute"])
    app = FastAPI()
    setup_rate_limiting(app, limiter)
    passing = [True]
    limiter.request_filter(lambda: passing[0])

    @app.get("/x")
    @limiter.limit("1/minute")
    async def x(request: Request) -> str:
        return "x"

    assert await statuses(app, "/x", 3) == [200] * 3
    passing[0] = False
    assert await statuses(app, "/x", 2) == [200, 429]
    limiter.enabled = False
    assert await statuses(app, "/x", 3) == [200] * 3


async def test_classes_of_endpoints_are_limited_by_their_methods() -> None:
    limiter = RateLimiter(get_remote_address, default_limits=["3/minute"])

    class Posts(HTTPEndpoint):
        @limiter.limit("1/minute")
        async def get(self, request: Request) -> Response:
            return PlainTextResponse("get")

        async def post(self, request: Request) -> Response:
            return PlainTextResponse("post")

    app = Starlette(routes=[Route("/posts", Posts)])
    setup_rate_limiting(app, limiter)
    assert await statuses(app, "/posts", 2) == [200, 429]
    assert await statuses(app, "/posts", 4, method="POST") == [200, 200, 200, 429]


async def test_settings_come_from_slowapis_file(tmp_path: Any) -> None:
    config = tmp_path / "limits.env"
    config.write_text(
        "RATELIMIT_DEFAULT=2/minute\nRATELIMIT_HEADERS_ENABLED=1\nRATELIMIT_STRATEGY=moving-window\n"
        "RATELIMIT_HEADER_LIMIT=X-My-Limit\n"
    )
    limiter = RateLimiter(get_remote_address, config_filename=str(config))
    app = FastAPI()
    setup_rate_limiting(app, limiter)

    @app.get("/x")
    async def x() -> str:
        return "x"

    async with client_of(app) as client:
        answers = [await client.get("/x") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[0].headers["x-my-limit"] == "2"
    assert {limit.strategy for limit in (await limiter.peek("198.51.100.7")).limits} == {"moving-window"}


async def test_time_that_a_test_freezes_is_frozen_for_limits_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    now = [1_700_000_000.25]
    monkeypatch.setattr(time, "time", lambda: now[0])
    limiter = RateLimiter(get_remote_address, headers_enabled=True)
    app = FastAPI()
    setup_rate_limiting(app, limiter)

    @app.get("/x")
    @limiter.limit("1/minute; 5/hour")
    async def x(request: Request) -> str:
        return "x"

    async with client_of(app) as client:
        first, second = await client.get("/x"), await client.get("/x")
        assert (first.headers["x-ratelimit-limit"], first.headers["x-ratelimit-reset"]) == ("1", "1700000061")
        assert (second.status_code, second.headers["retry-after"]) == (429, "60")
        now[0] += 60
        assert (await client.get("/x")).status_code == 200


async def test_the_limiter_behind_it_can_be_asked_and_reset_synchronously(redis_url: str, redis_prefix: str) -> None:
    import asyncio

    from limits import parse

    item = parse("2/minute")
    for limiter in (
        RateLimiter(get_remote_address),
        RateLimiter(get_remote_address, storage_uri=redis_url, key_prefix=redis_prefix, redis_timeout=5.0),
    ):

        def ask(limiter: RateLimiter = limiter) -> list[bool]:
            answers = [limiter.limiter.hit(item, "someone", "job") for _ in range(3)]
            assert limiter.limiter.test(item, "someone", "job") is False
            assert limiter.limiter.get_window_stats(item, "someone", "job")[1] == 0
            limiter.limiter.clear(item, "someone", "job")
            answers.append(limiter.limiter.hit(item, "someone", "job"))
            limiter.reset()
            answers += [limiter.limiter.hit(item, "someone", "job") for _ in range(2)]
            assert limiter._storage.check()
            return answers

        assert await asyncio.to_thread(ask) == [True, True, False, True, True, True]
        await limiter.aclose()


async def test_a_function_without_a_request_is_refused_with_slowapis_words() -> None:
    limiter = RateLimiter(get_remote_address)
    with pytest.raises(ConfigurationError, match='^No "request" or "websocket" argument on function'):

        @limiter.limit("1/minute")
        async def x() -> str:
            return "x"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strategy": "leaky"}, "unknown strategy 'leaky'"),
        ({"storage_uri": "memcached://x"}, "'memcached' is not supported"),
        ({"key_style": "path"}, "unknown key_style"),
        ({"instances": 0}, "instances must be at least 1"),
    ],
)
def test_what_cannot_work_is_refused_with_what_to_do(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        RateLimiter(get_remote_address, **options)


async def test_a_handler_for_slowapis_error_or_the_status_is_used() -> None:
    for key in (SlowapiRateLimitExceeded, RateLimitExceeded, 429):
        limiter = RateLimiter(get_remote_address, default_limits=["1/minute"])
        app = FastAPI()

        async def handler(request: Request, error: Exception) -> Response:
            return JSONResponse({"mine": str(getattr(error, "detail", ""))}, status_code=429)

        app.add_exception_handler(key, handler)
        setup_rate_limiting(app, limiter)

        @app.get("/decorated")
        @limiter.limit("1/minute")
        async def decorated(request: Request) -> str:
            return "x"

        @app.get("/default")
        async def default() -> str:
            return "x"

        for path in ("/decorated", "/default"):
            async with client_of(app) as client:
                await client.get(path)
                answer = await client.get(path)
            assert answer.json() == {"mine": "1 per 1 minute"}
            assert int(answer.headers["retry-after"]) >= 1
