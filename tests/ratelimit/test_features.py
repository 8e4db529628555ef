"""Shadow mode, tiers, bans, events, headers and bodies."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI, Request
from redis.asyncio import Redis
from starlette.responses import PlainTextResponse, Response

from smriti_scale.errors import ConfigurationError
from smriti_scale.events import Event, Events, LimitAllowed, LimitExceeded, LimitShadowExceeded
from smriti_scale.ratelimit import BanPolicy, RateLimiter, Tiers, client_address, setup_rate_limiting
from smriti_scale.ratelimit.headers import seconds_of
from smriti_scale.redis_link import RedisLink
from tests.ratelimit.serving import client_of, statuses


def app_with(limiter: RateLimiter, **options: Any) -> FastAPI:
    app = FastAPI()
    setup_rate_limiting(app, limiter, **options)

    @app.get("/x/{item}")
    async def x(item: str) -> str:
        return item

    return app


async def test_shadow_mode_counts_and_reports_and_refuses_nothing() -> None:
    seen: list[Event] = []
    limiter = RateLimiter(client_address(), default_limits=["1/minute"], shadow=True, events=Events(seen.append))
    assert await statuses(app_with(limiter), "/x/1", 3) == [200] * 3
    assert seen == [
        LimitAllowed("1 per 1 minute", "/x/{item}"),
        LimitShadowExceeded("1 per 1 minute", "/x/{item}"),
        LimitShadowExceeded("1 per 1 minute", "/x/{item}"),
    ]


async def test_events_name_rule_and_route_and_never_the_caller() -> None:
    seen: list[Event] = []
    limiter = RateLimiter(client_address(), default_limits=["1/minute"], events=Events(seen.append))
    await statuses(app_with(limiter), "/x/secret", 2)
    assert seen == [LimitAllowed("1 per 1 minute", "/x/{item}"), LimitExceeded("1 per 1 minute", "/x/{item}", "limit")]
    assert "198.51.100.7" not in repr(seen)
    assert "secret" not in repr(seen)


async def test_tiers_give_each_plan_its_limit_and_name_it_in_events() -> None:
    seen: list[Event] = []
    limiter = RateLimiter(client_address(), events=Events(seen.append))
    plans = Tiers({"free": "1/minute", "pro": "3/minute"}, plan=lambda request: request.headers.get("x-plan"))
    app = FastAPI()
    setup_rate_limiting(app, limiter)

    @app.get("/x")
    @limiter.limit(plans)
    async def x(request: Request) -> str:
        return "x"

    assert await statuses(app, "/x", 2) == [200, 429]
    assert await statuses(app, "/x", 1, **{"x-plan": "made up"}) == [429]
    assert await statuses(app, "/x", 4, **{"x-plan": "pro"}) == [200, 200, 200, 429]
    assert {(event.tier, event.limit) for event in seen if isinstance(event, LimitExceeded)} == {
        ("free", "1 per 1 minute"),
        ("pro", "3 per 1 minute"),
    }


@pytest.mark.parametrize(("limits", "default"), [({}, None), ({"free": "often"}, None), ({"free": "1/minute"}, "pro")])
def test_tiers_that_cannot_work_are_refused(limits: dict[str, str], default: str | None) -> None:
    with pytest.raises(ConfigurationError):
        Tiers(limits, plan=lambda request: None, default=default)


@pytest.mark.parametrize("storage", ["memory", "redis"])
async def test_who_keeps_coming_is_banned_and_can_be_pardoned(storage: str, redis_url: str, redis_prefix: str) -> None:
    seen: list[Event] = []
    limiter = RateLimiter(
        client_address(),
        default_limits=["1/minute"],
        storage_uri=redis_url if storage == "redis" else None,
        key_prefix=redis_prefix,
        redis_timeout=5.0,
        ban=BanPolicy(refusals=2, within=60, duration=300),
        events=Events(seen.append),
    )
    app = app_with(limiter)

    @app.get("/other")
    async def other() -> str:
        return "other"

    assert await statuses(app, "/x/1", 3) == [200, 429, 429]
    async with client_of(app) as client:
        banned = await client.get("/other")
    assert banned.status_code == 429
    assert banned.json() == {"error": "Too many refused requests"}
    assert 290 <= int(banned.headers["retry-after"]) <= 300
    assert isinstance(seen[-1], LimitExceeded)
    assert seen[-1].reason == "banned"
    assert await statuses(app, "/other", 1, address="203.0.113.5") == [200]
    assert (await limiter.peek("198.51.100.7")).banned_until is not None
    await limiter.reset("198.51.100.7")
    assert (await limiter.peek("198.51.100.7")).banned_until is None
    assert await statuses(app, "/other", 1) == [200]
    await limiter.aclose()


async def test_the_drafts_fields_stand_behind_a_flag() -> None:
    limiter = RateLimiter(client_address(), default_limits=["2/minute;10/hour"], ietf_headers=True)
    async with client_of(app_with(limiter)) as client:
        answer = await client.get("/x/1")
    assert answer.headers["ratelimit-policy"] == '"2-per-1-minute";q=2;w=60, "10-per-1-hour";q=10;w=3600'
    assert answer.headers["ratelimit"] in (
        '"2-per-1-minute";r=1;t=60, "10-per-1-hour";r=9;t=3600',
        '"2-per-1-minute";r=1;t=59, "10-per-1-hour";r=9;t=3599',
    )
    assert "x-ratelimit-limit" not in answer.headers


async def test_a_problem_body_can_be_chosen_and_a_date_for_retry_after() -> None:
    limiter = RateLimiter(client_address(), default_limits=["1/minute"], retry_after="http-date")
    async with client_of(app_with(limiter, body="problem")) as client:
        await client.get("/x/1")
        answer = await client.get("/x/1")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "title": "Too Many Requests",
        "status": 429,
        "detail": "Rate limit exceeded: 1 per 1 minute",
    }
    wait = seconds_of(answer.headers["retry-after"], __import__("time").time())
    assert wait is not None
    assert 30 < wait <= 61


async def test_an_unknown_body_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'json' or 'problem'"):
        setup_rate_limiting(FastAPI(), RateLimiter(client_address()), body="xml")  # type: ignore[arg-type]


async def test_what_the_application_says_itself_stays() -> None:
    limiter = RateLimiter(client_address(), default_limits=["5/minute"], headers_enabled=True)
    app = FastAPI()
    setup_rate_limiting(app, limiter)

    @app.get("/later")
    async def later() -> Response:
        return PlainTextResponse("busy", status_code=503, headers={"Retry-After": "7200", "X-RateLimit-Limit": "mine"})

    async with client_of(app) as client:
        answer = await client.get("/later")
    assert answer.headers.get_list("retry-after") == ["7200"]
    assert answer.headers.get_list("x-ratelimit-limit") == ["mine"]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("120", 120.0), ("Tue, 14 Nov 2023 22:14:20 GMT", 60.0), ("soon", None), ("", None), ("-5", None)],
)
def test_retry_after_is_read_in_both_forms(value: str, seconds: float | None) -> None:
    assert seconds_of(value, 1_700_000_000.0) == seconds


async def test_the_middleware_set_up_twice_counts_once() -> None:
    limiter = RateLimiter(client_address(), default_limits=["2/minute"], headers_enabled=True)
    app = app_with(limiter)
    setup_rate_limiting(app, limiter)
    async with client_of(app) as client:
        answer = await client.get("/x/1")
    assert answer.headers.get_list("x-ratelimit-remaining") == ["1"]


async def test_the_applications_end_closes_the_limiter(redis_url: str, redis_prefix: str) -> None:
    limiter = RateLimiter(
        client_address(), default_limits=["2/minute"], storage_uri=redis_url, key_prefix=redis_prefix, redis_timeout=5.0
    )
    app = app_with(limiter)
    async with app.router.lifespan_context(app):
        assert await statuses(app, "/x/1", 3) == [200, 200, 429]
        assert limiter._engine.redis is not None
        client = limiter._engine.redis.link.client
    assert limiter._engine.redis.link.client is not client
    await limiter.aclose()


async def test_a_link_that_is_given_carries_limits_and_stays_open_and_a_given_client_does_too(
    redis_url: str, redis_prefix: str
) -> None:
    link = RedisLink(redis_url)
    async with Redis.from_url(redis_url) as client:
        given: tuple[RedisLink | Redis, ...] = (link, client)
        for number, redis in enumerate(given):
            prefix = f"{redis_prefix}{number}"
            limiter = RateLimiter(
                client_address(), default_limits=["2/minute"], redis=redis, key_prefix=prefix, redis_timeout=5.0
            )
            app = app_with(limiter)
            async with app.router.lifespan_context(app):
                assert await statuses(app, "/x/1", 3) == [200, 200, 429]
                assert limiter._engine.redis is not None
                pipe = limiter._engine.redis.link.pipe
            # The limiter's own connection is closed with it; what belongs to others is not.
            assert (limiter._engine.redis.link.pipe is pipe) is (redis is link)
            await limiter._engine.redis.link.aclose()
        assert await client.ping()
    await link.aclose()


async def test_headers_that_the_application_set_in_part_are_completed_not_doubled() -> None:
    limiter = RateLimiter(client_address(), default_limits=["5/minute"], headers_enabled=True)
    app = FastAPI()
    setup_rate_limiting(app, limiter)

    @app.get("/part")
    async def part() -> Response:
        return PlainTextResponse("x", headers={"X-RateLimit-Remaining": "mine"})

    async with client_of(app) as client:
        headers = (await client.get("/part")).headers
    assert headers.get_list("x-ratelimit-limit") == ["5"]
    assert headers.get_list("x-ratelimit-remaining") == ["4"]
    assert len(headers.get_list("x-ratelimit-reset")) == len(headers.get_list("retry-after")) == 1
    assert 1 <= int(headers["retry-after"]) <= 60
