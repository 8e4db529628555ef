from __future__ import annotations

import asyncio
from typing import Any

import pytest
from httpx import ASGITransport, AsyncClient
from starlette.applications import Starlette

from smriti_scale.monitoring import Check, health_routes


async def fine() -> None: ...


async def broken() -> None:
    raise ConnectionError("mongodb://user:hunter2@host is down")


async def silent() -> None:
    await asyncio.sleep(60)


def client_of(*checks: Check, **options: Any) -> AsyncClient:
    app = Starlette(routes=health_routes(checks, **options))
    return AsyncClient(transport=ASGITransport(app), base_url="http://test")


async def ready(*checks: Check, **options: Any) -> tuple[int, dict[str, Any]]:
    async with client_of(*checks, **options) as client:
        answer = await client.get("/readyz")
    assert "hunter2" not in answer.text
    return answer.status_code, answer.json()


async def test_alive_asks_nothing() -> None:
    async with client_of(Check("mongodb", broken)) as client:
        assert (await client.get("/livez")).json() == {"status": "alive"}
        assert (await client.head("/livez")).status_code == 200


async def test_ready_when_every_dependency_answers() -> None:
    status, body = await ready(Check("mongodb", fine), Check("redis", fine, required=False))
    assert (status, body["status"]) == (200, "ready")
    assert body["checks"]["mongodb"]["ok"]


async def test_an_optional_dependency_down_is_degraded_not_dead() -> None:
    status, body = await ready(Check("mongodb", fine), Check("redis", broken, required=False))
    assert (status, body["status"]) == (200, "degraded")


async def test_why_a_check_failed_is_logged_without_what_it_said(caplog: pytest.LogCaptureFixture) -> None:
    await ready(Check("mongodb", broken))
    assert "mongodb is not ready: ConnectionError" in caplog.text
    assert "hunter2" not in caplog.text


async def test_a_required_dependency_down_or_silent_is_unready() -> None:
    assert (await ready(Check("mongodb", broken)))[0] == 503
    assert (await ready(Check("mongodb", silent, timeout=0.05)))[0] == 503


async def test_readiness_ends_first_when_shutting_down() -> None:
    status, body = await ready(Check("mongodb", fine), draining=lambda: True)
    assert (status, body["status"]) == (503, "draining")
