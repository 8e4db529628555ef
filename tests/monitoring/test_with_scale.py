"""The whole application: what its parts do is in its figures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient
from pydantic import SecretStr

from smriti_scale import Scale, ScaleSettings
from smriti_scale.cache import Cache
from smriti_scale.events import Events
from smriti_scale.monitoring import Finding, Monitoring
from tests.monitoring.figures import series, until, value
from tests.monitoring.sinks import HTTPSink, http_sink  # noqa: F401 - a fixture

TOKEN = "a-token-of-some-length"


def settings(**options: Any) -> ScaleSettings:
    return ScaleSettings(_env_file=None, min_pool_size=0, cache_timeout=5, rate_limit_timeout=5, **options)


def app_of(scale: Scale) -> FastAPI:
    app = FastAPI(lifespan=scale.lifespan)

    @scale.cache.cached(ttl=60, key="posts:{user_id}")
    async def posts_of(user_id: str) -> list[str]:
        return [post["text"] async for post in scale.mongo.read.posts.find({"user_id": user_id})]

    @app.get("/users/{user_id}/posts")
    async def posts(user_id: str) -> list[str]:
        return await posts_of(user_id)

    scale.install(app)
    return app


@pytest_asyncio.fixture
async def scale(mongo_uri: str, mongo_database_name: str, redis_url: str, redis_prefix: str) -> AsyncIterator[Scale]:
    yield Scale(
        settings(
            mongodb_uri=mongo_uri,
            database_name=mongo_database_name,
            redis_url=redis_url,
            namespace=redis_prefix.strip(":").replace(":", "."),
            default_limits=("1000/hour",),
            slow_query_ms=0.001,
            metrics_token=SecretStr(TOKEN),
        )
    )


async def test_a_request_shows_in_the_figures_of_all_that_served_it(scale: Scale) -> None:
    app = app_of(scale)
    monitoring = scale.monitoring
    assert monitoring is not None
    transport = ASGITransport(app)
    async with app.router.lifespan_context(app), AsyncClient(transport=transport, base_url="http://test") as client:
        for _ in range(3):
            assert (await client.get("/users/42/posts")).status_code == 200
        await monitoring.look()
        page = await client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
        assert (await client.get("/metrics")).status_code == 401
    metrics, route, cache = monitoring.metrics, "/users/{user_id}/posts", scale.cache.name
    assert value(metrics, "scale_http_requests_total", method="GET", route=route, status="200") == 3
    assert value(metrics, "scale_mongo_command_duration_seconds_count", collection="posts", command="find") == 1
    assert value(metrics, "scale_cache_requests_total", cache=cache, function="", result="hit_memory") == 2
    results = series(metrics, "scale_cache_requests_total")
    assert sum(count for (_, _, result), count in results.items() if result == "miss") == 1
    users = {user for (user,) in series(metrics, "scale_redis_call_duration_seconds_count")}
    assert users >= {f"cache {cache}", "ratelimit"}
    allowed = series(metrics, "scale_limit_decisions_total")
    assert allowed[("1000 per 1 hour", "allowed", route, "")] == 3
    assert sum(series(metrics, "scale_mongo_pool_limit").values()) >= 50
    assert any(shape.shape.startswith("find posts") for shape in monitoring.slow_queries)
    assert f'route="{route}"' in page.text
    assert series(metrics, "scale_sample_failures_total") == {}


async def test_a_scraper_is_not_refused_where_clients_are(mongo_uri: str) -> None:
    scale = Scale(settings(mongodb_uri=mongo_uri, application_limits=("2/hour",)))
    app = app_of(scale)
    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        assert [(await client.get("/metrics")).status_code for _ in range(5)] == [200] * 5
        assert [(await client.get("/nothing")).status_code for _ in range(3)] == [404, 404, 429]
    await scale.limiter.aclose()


async def test_looking_ends_before_the_clients_are_closed(scale: Scale) -> None:
    app = app_of(scale)
    async with app.router.lifespan_context(app):
        await until(lambda: scale.monitoring and series(scale.monitoring.metrics, "scale_mongo_pool_limit"))
    assert scale.mongo._opened == {}


@pytest.mark.parametrize(
    ("options", "served"),
    [
        ({}, True),
        ({"environment": "production", "secret_key": SecretStr("k" * 40)}, False),
        ({"environment": "production", "secret_key": SecretStr("k" * 40), "metrics_token": SecretStr(TOKEN)}, True),
        ({"metrics_path": "/internal/metrics"}, False),
        ({"monitoring": "off"}, False),
    ],
    ids=["development", "production without a token", "production with one", "elsewhere", "off"],
)
async def test_where_the_figures_are_served(options: dict[str, Any], served: bool, mongo_uri: str) -> None:
    scale = Scale(settings(mongodb_uri=mongo_uri, **options))
    app = FastAPI()
    scale.install(app)
    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        answer = await client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    assert (answer.status_code == 200) is served
    assert (scale.monitoring is None) is (options.get("monitoring") == "off")


async def test_a_redis_that_is_away_shows_as_errors_and_an_open_breaker(redis_prefix: str) -> None:
    events = Events()
    monitoring = Monitoring(events=events)
    async with Cache("redis://127.0.0.1:1/0", namespace=redis_prefix.strip(":"), events=events) as cache:
        assert await cache.get("anything") is None
    metrics = monitoring.metrics
    assert list(series(metrics, "scale_breaker_state").values()) == [2]
    assert series(metrics, "scale_redis_call_duration_seconds_count").keys() <= {(f"cache {cache.name}",)}


async def test_a_webhook_of_the_environment_is_told_of_an_alert(
    mongo_uri: str,
    http_sink: HTTPSink,  # noqa: F811
) -> None:
    scale = Scale(settings(mongodb_uri=mongo_uri, namespace="shop", alert_webhook=SecretStr(f"{http_sink.url}/in")))
    assert scale.monitoring is not None
    async with scale.lifespan():
        scale.monitoring.alerts.raise_alert(Finding("disk", "page", "the disk is full"))
        scale.monitoring.alerts.observe()
        await http_sink.until(1)
    body = http_sink.bodies[-1]
    assert (body["service"], body["key"], body["kind"]) == ("shop", "disk", "raised")
