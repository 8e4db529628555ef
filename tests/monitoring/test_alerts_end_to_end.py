"""Trouble in a real application, told to a real receiver: each once, and again when it is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient
from pymongo import AsyncMongoClient

from smriti_scale import Scale, ScaleSettings
from smriti_scale.local import LocalRedis
from smriti_scale.monitoring import Alerts, Dependency, Monitoring, Webhook, setup_monitoring
from smriti_scale.monitoring.system import System
from smriti_scale.testing import ManualClock
from tests.monitoring.sinks import HTTPSink

pytestmark = pytest.mark.long

GIGABYTE = 1_000_000_000


@dataclass
class Shop:
    """A monitored application, whose every minute has ten requests, and where its trouble can be made."""

    client: AsyncClient
    monitoring: Monitoring
    clock: ManualClock
    sink: HTTPSink
    machine: Path
    route: str = "/fine"

    async def serve(self, minutes: int) -> None:
        for _ in range(minutes):
            for _ in range(10):
                await self.client.get(self.route)
            await self.monitoring.look()
            self.clock.advance(60)
            self.monitoring.evaluator.tick()

    async def told(self, count: int) -> list[tuple[str, str, str]]:
        await self.sink.until(count)
        return [(body["kind"], body["key"], body["severity"]) for body in self.sink.bodies]

    def use_memory(self, share: float) -> None:
        (self.machine / "proc").mkdir(exist_ok=True)
        (self.machine / "proc/meminfo").write_text(
            f"MemTotal: 1000000 kB\nMemAvailable: {round(1_000_000 * (1 - share))} kB\n"
        )


@pytest.fixture
async def shop(http_sink: HTTPSink, mongo_uri: str, mongo_database_name: str, tmp_path: Path) -> AsyncIterator[Shop]:
    clock = ManualClock()
    alerts = Alerts([Webhook(http_sink.url)], clock=clock)
    monitoring = Monitoring(alerts=alerts, system=System(tmp_path, clock=clock), clock=clock)
    app = FastAPI()
    mongo: AsyncMongoClient[Any] = AsyncMongoClient(mongo_uri, event_listeners=[monitoring.command_listener])

    @app.get("/fine")
    async def fine() -> str:
        return "fine"

    @app.get("/slow")
    async def slow() -> str:
        clock.advance(1)
        return "at last"

    @app.get("/broken")
    async def broken() -> str:
        raise ConnectionError

    @app.get("/query")
    async def query(slow: bool = False) -> int:
        asked: dict[str, Any] = {"$where": "sleep(250) || true"} if slow else {}
        return len(await mongo[mongo_database_name].posts.find(asked).to_list())

    setup_monitoring(app, monitoring, lifespan=False)
    transport = ASGITransport(app, raise_app_exceptions=False)
    async with mongo, alerts, AsyncClient(transport=transport, base_url="http://shop") as client:
        await mongo[mongo_database_name].posts.insert_one({})
        shop = Shop(client, monitoring, clock, http_sink, tmp_path)
        shop.use_memory(0.4)
        await shop.serve(10)
        yield shop


def trouble(shop: Shop, kind: str) -> None:
    if kind == "memory":
        shop.use_memory(0.95)
    else:
        shop.route = f"/{kind}"


@pytest.mark.parametrize(
    ("kind", "name", "minutes"), [("slow", "latency", 60), ("broken", "errors", 12), ("memory", "memory", 12)]
)
async def test_trouble_raises_its_own_alert_once_and_clears_it(shop: Shop, kind: str, name: str, minutes: int) -> None:
    trouble(shop, kind)
    await shop.serve(minutes)
    expected = [("raised", f"slo:{name}", "page")]
    assert await shop.told(1) == expected
    page = await shop.client.get("/metrics")
    assert f'scale_alert_active{{alert="slo:{name}",severity="page"}} 1.0' in page.text
    await shop.serve(3)
    assert await shop.told(1) == expected
    shop.route = "/fine"
    shop.use_memory(0.4)
    await shop.serve(60)
    page = await shop.client.get("/metrics")
    assert f'scale_alert_active{{alert="slo:{name}",severity="page"}} 0.0' in page.text
    told = await shop.told(2)
    assert told[0] == expected[0]
    assert {key for _, key, _ in told} == {f"slo:{name}"}
    assert told[-1][0] in ("resolved", "eased")  # an hour of slowness also costs the budget of three days


async def test_slow_queries_raise_an_alert_once_and_clear_it(shop: Shop) -> None:
    async def ask(slow: bool, minutes: int) -> None:
        for _ in range(minutes):
            assert (await shop.client.get("/query", params={"slow": slow})).status_code == 200
            await shop.serve(1)

    await ask(slow=True, minutes=11)
    assert await shop.told(1) == [("raised", "slo:database", "page")]
    await ask(slow=False, minutes=25)
    assert await shop.told(2) == [("raised", "slo:database", "page"), ("resolved", "slo:database", "page")]


async def test_a_killed_redis_raises_one_alert_and_clears_it_while_the_service_goes_on(
    http_sink: HTTPSink,
    mongo_uri: str,
    mongo_database_name: str,
    own_redis: Callable[..., Awaitable[LocalRedis]],
) -> None:
    server = await own_redis()
    redis = Dependency("redis", breakers=("cache *", "ratelimit", "redis *"), after=0, title="Redis is away")
    settings = ScaleSettings(
        _env_file=None,
        mongodb_uri=mongo_uri,
        database_name=mongo_database_name,
        redis_url=server.uri,
        min_pool_size=0,
        default_limits=("1000/hour",),
    )
    scale = Scale(settings, alerts=Alerts([Webhook(http_sink.url)], dependencies=[redis], resolve_after=0))
    app = FastAPI(lifespan=scale.lifespan)

    @scale.cache.cached(ttl=0.01, key="posts:{user_id}")
    async def posts_of(user_id: str) -> list[str]:
        return [user_id]

    @app.get("/users/{user_id}/posts")
    async def posts(user_id: str) -> list[str]:
        return await posts_of(user_id)

    scale.install(app)
    monitoring = scale.monitoring
    assert monitoring is not None
    transport = ASGITransport(app)
    async with app.router.lifespan_context(app), AsyncClient(transport=transport, base_url="http://shop") as client:

        async def serve_until(active: bool) -> None:
            async with asyncio.timeout(40):
                while bool(monitoring.alerts.active()) != active:
                    assert (await client.get("/users/42/posts")).status_code == 200
                    monitoring.evaluator.tick()
                    await asyncio.sleep(0.05)

        assert (await client.get("/users/42/posts")).json() == ["42"]
        await server.kill()
        await serve_until(active=True)
        for _ in range(30):
            assert (await client.get("/users/42/posts")).status_code == 200
            monitoring.evaluator.tick()
        await http_sink.until(1)
        await server.restart()
        await serve_until(active=False)
        await http_sink.until(2)
    assert [(body["kind"], body["key"]) for body in http_sink.bodies] == [
        ("raised", "dependency:redis"),
        ("resolved", "dependency:redis"),
    ]
