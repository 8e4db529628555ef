"""What `Scale` makes of all this, on real servers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import sentry_sdk
from httpx import ASGITransport, AsyncClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from smriti_scale import Scale, ScaleSettings, context
from tests.monitoring.otlp import metrics, spans, values
from tests.monitoring.wire_sink import sink


async def asked(request: Request) -> Response:
    await request.app.state.scale.mongo.read.posts.find_one({"_id": 1})
    return PlainTextResponse(f"{context.request_id.get()}")


async def broken(request: Request) -> Response:
    raise RuntimeError("no")


@pytest.fixture
def scale_of(mongo_uri: str, redis_url: str, mongo_database_name: str) -> Callable[..., tuple[Scale, Starlette]]:
    def make(**settings: Any) -> tuple[Scale, Starlette]:
        given = {"mongodb_uri": mongo_uri, "redis_url": redis_url, "namespace": mongo_database_name, **settings}
        scale = Scale(ScaleSettings(environment="test", database_name=mongo_database_name, min_pool_size=0, **given))
        app = Starlette(
            routes=[Route("/asked", asked), Route("/users/{user_id}", asked), Route("/broken", broken)],
            lifespan=scale.lifespan,
        )
        scale.install(app)
        return scale, app

    return make


async def test_requests_are_named_and_probes_are_not_limited(scale_of: Any) -> None:
    scale, app = scale_of(application_limits="2/minute", server_timing=True)
    transport = ASGITransport(app, raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/startupz")).status_code == 503
        async with scale.lifespan(app):
            for path in ("/livez", "/startupz", "/readyz") * 3:
                assert (await client.get(path)).status_code == 200, path
            answer = await client.get("/asked", headers={"X-Request-ID": "order-4711"})
            assert (answer.text, answer.headers["x-request-id"]) == ("order-4711", "order-4711")
            assert 'desc="1 command"' in answer.headers["server-timing"]
            crashed = await client.get("/broken", headers={"X-Request-ID": "order-4712"})
            assert (crashed.status_code, crashed.headers["x-request-id"]) == (500, "order-4712")
            refused = await client.get("/asked")
            assert (refused.status_code, len(refused.headers["x-request-id"])) == (429, 32)
        assert (await client.get("/readyz")).json()["status"] == "draining"


async def test_errors_and_traces_of_an_installed_app_go_where_the_settings_say(scale_of: Any) -> None:
    with sink() as sentry, sink() as otlp:
        scale, app = scale_of(sentry_dsn=sentry.dsn, otel_endpoint=otlp.url, traces_sample_rate=1.0, release="7")
        transport = ASGITransport(app, raise_app_exceptions=False)
        try:
            async with AsyncClient(transport=transport, base_url="http://test") as client, scale.lifespan(app):
                await client.get("/users/ada@example.com")
                await client.get("/nowhere/ada@example.com")
                await client.get("/broken")
            sentry_sdk.flush(timeout=20)
        finally:
            sentry_sdk.get_client().close(timeout=0)
            sentry_sdk.get_global_scope().set_client(None)
        sent = [one["transaction"] for one in sentry.envelope_items("transaction")]
        assert sorted(sent) == ["(unmatched)", "/broken", "/users/{user_id}"]
        assert [one["transaction"] for one in sentry.envelope_items("event")] == ["/broken"]
        assert {span.name for span in spans(otlp)} >= {"GET /users/{user_id}", "GET", "GET /broken", "find posts"}
        assert {span.resource["service.version"] for span in spans(otlp)} == {"7"}
        counted = metrics(otlp)[-1]["scale_http_requests_total"].sum.data_points
        assert {values(point.attributes)["route"]: point.as_double for point in counted} == {
            "/users/{user_id}": 1.0,
            "(unmatched)": 1.0,
            "/broken": 1.0,
        }
        assert "ada@" not in sentry.text() + otlp.text()


@pytest.mark.long
@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_without_redis_it_is_degraded_and_without_a_primary_read_only(
    driver: str, scale_of: Any, own_mongo: Any, own_redis: Any
) -> None:
    mongo, redis = await own_mongo(replicas=3), await own_redis()
    scale, app = scale_of(mongodb_uri=mongo.uri, redis_url=redis.uri, mongodb_driver=driver)
    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client, scale.lifespan(app):

        async def until(expected: dict[str, str]) -> tuple[int, str]:
            async with asyncio.timeout(60):
                while True:
                    answer = await client.get("/readyz")
                    body = answer.json()
                    if {name: check["state"] for name, check in body["checks"].items()} == expected:
                        return answer.status_code, body["status"]
                    await asyncio.sleep(0.1)

        assert await until({"mongodb": "ok", "redis": "ok"}) == (200, "ready")
        await redis.kill()
        assert await until({"mongodb": "ok", "redis": "failed"}) == (200, "degraded")
        primary, (other, last) = await mongo.primary(), await mongo.secondaries()
        await mongo.kill(primary)
        await mongo.kill(other)  # one secondary is left, and no majority to elect a primary
        assert await until({"mongodb": "read-only", "redis": "failed"}) == (200, "degraded")
        await mongo.kill(last)
        assert await until({"mongodb": "failed", "redis": "failed"}) == (503, "unready")
