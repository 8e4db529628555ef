"""Redis slow, silent, refusing, gone: limits go on, requests never fail for it, and Redis is taken up again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request

from smriti_scale.events import BreakerChanged, Event, Events, LimitFellBack
from smriti_scale.ratelimit import RateLimiter, client_address, setup_rate_limiting
from smriti_scale.testing import FaultProxy
from tests.ratelimit.serving import client_of

Proxies = Callable[..., Awaitable[FaultProxy]]


def app_with(limiter: RateLimiter) -> FastAPI:
    app = FastAPI()
    setup_rate_limiting(app, limiter)

    @app.get("/x")
    @limiter.limit("8/hour")
    async def x(request: Request) -> str:
        return "x"

    @app.get("/sync")
    @limiter.limit("8/hour")
    def sync(request: Request) -> str:
        return "sync"

    @app.get("/login")
    @limiter.limit("8/hour", on_redis_failure="deny")
    async def login(request: Request) -> str:
        return "login"

    @app.get("/free")
    async def free() -> str:
        return "free"

    return app


def limiter_on(uri: str, prefix: str, **options: Any) -> RateLimiter:
    return RateLimiter(client_address(), storage_uri=uri, key_prefix=prefix, **options)


def breaker_of(limiter: RateLimiter) -> str:
    return limiter.breaker.state


async def codes(client: httpx.AsyncClient, path: str, times: int) -> list[int]:
    return [(await client.get(path)).status_code for _ in range(times)]


@pytest.mark.parametrize("fault", ["swallow", "refuse", "cut"])
async def test_limits_go_on_in_memory_at_this_instances_part_and_no_request_fails(
    fault: str, redis_url: str, redis_prefix: str, fault_proxy: Proxies
) -> None:
    proxy = await fault_proxy(redis_url)
    seen: list[Event] = []
    limiter = limiter_on(proxy.uri, redis_prefix, instances=4, events=Events(seen.append))
    async with client_of(app_with(limiter)) as client:
        await getattr(proxy, fault)()
        assert await codes(client, "/x", 4) == [200, 200, 429, 429]
        assert await codes(client, "/sync", 4) == [200, 200, 429, 429]
        denied = await client.get("/login")
        assert denied.status_code == 503
        assert int(denied.headers["retry-after"]) >= 1
    kinds = {event.policy for event in seen if isinstance(event, LimitFellBack)}
    assert kinds == {"memory", "deny"}
    assert any(isinstance(event, BreakerChanged) and event.state == "open" for event in seen)
    await limiter.aclose()


async def test_a_silent_redis_costs_its_deadline_a_few_times_and_then_nothing(
    redis_url: str, redis_prefix: str, fault_proxy: Proxies
) -> None:
    proxy = await fault_proxy(redis_url)
    limiter = limiter_on(proxy.uri, redis_prefix)
    async with client_of(app_with(limiter)) as client:
        await proxy.swallow()
        began = time.monotonic()
        await codes(client, "/x", 30)
        # Three deadlines open the breaker; thirty would take 1.5 s, and slowapi's client waits for ever.
        assert breaker_of(limiter) == "open"
        assert time.monotonic() - began < 20
    await limiter.aclose()


async def test_redis_is_taken_up_again_by_itself(redis_url: str, redis_prefix: str, fault_proxy: Proxies) -> None:
    proxy = await fault_proxy(redis_url)
    limiter = limiter_on(proxy.uri, redis_prefix, redis_timeout=1.0)
    async with client_of(app_with(limiter)) as client:
        assert await codes(client, "/x", 1) == [200]
        await proxy.refuse()
        assert await codes(client, "/x", 3) == [200] * 3
        assert breaker_of(limiter) == "open"
        await proxy.heal()
        for _ in range(200):
            await client.get("/login")
            if breaker_of(limiter) == "closed":
                break
            await asyncio.sleep(0.05)
        assert breaker_of(limiter) == "closed"
        assert (await client.get("/login")).status_code in (200, 429)
    await limiter.aclose()


async def test_a_redis_that_is_not_there_when_the_process_starts_is_no_error(redis_prefix: str) -> None:
    limiter = limiter_on("redis://127.0.0.1:1/0", redis_prefix)
    async with client_of(app_with(limiter)) as client:
        assert await codes(client, "/x", 9) == [200] * 8 + [429]
    await limiter.aclose()


async def test_the_limits_for_when_redis_fails_replace_all_others(redis_prefix: str) -> None:
    limiter = limiter_on("redis://127.0.0.1:1/0", redis_prefix, in_memory_fallback=["3/hour"])
    async with client_of(app_with(limiter)) as client:
        assert await codes(client, "/x", 4) == [200, 200, 200, 429]
        assert await codes(client, "/login", 4) == [200, 200, 200, 429]
    await limiter.aclose()


@pytest.mark.parametrize(("policy", "code"), [("allow", 200), ("deny", 503)])
async def test_a_limiter_can_be_set_to_fail_open_or_closed(policy: Any, code: int, redis_prefix: str) -> None:
    limiter = limiter_on("redis://127.0.0.1:1/0", redis_prefix, on_redis_failure=policy)
    async with client_of(app_with(limiter)) as client:
        assert await codes(client, "/x", 12) == [code] * 12
    await limiter.aclose()


async def test_a_request_that_is_cancelled_leaves_redis_usable(
    redis_url: str, redis_prefix: str, fault_proxy: Proxies
) -> None:
    proxy = await fault_proxy(redis_url)
    limiter = limiter_on(proxy.uri, redis_prefix, redis_timeout=10.0)
    app = app_with(limiter)
    async with client_of(app) as client:
        assert await codes(client, "/x", 1) == [200]
        await proxy.delay(0.3)
        tasks = [asyncio.create_task(client.get("/x")) for _ in range(5)]
        await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await proxy.heal()
        answers = await codes(client, "/x", 8)
    assert answers == sorted(answers)  # in step: each answer belongs to its request
    assert answers[-1] == 429
    assert breaker_of(limiter) == "closed"
    await limiter.aclose()


@pytest.mark.parametrize("leased", [False, True])
async def test_another_route_answers_while_redis_is_fifty_milliseconds_away(
    leased: bool, redis_url: str, redis_prefix: str, fault_proxy: Proxies
) -> None:
    """slowapi answered an unrelated route once in three seconds here. No clock decides: turns of the loop do."""
    from smriti_scale.ratelimit import LeasePolicy

    proxy = await fault_proxy(redis_url)
    limiter = limiter_on(proxy.uri, redis_prefix, redis_timeout=10.0, leases=LeasePolicy(ttl=0.2) if leased else None)
    async with client_of(app_with(limiter)) as client:
        await client.get("/x")
        await proxy.delay(0.05)
        limited = [asyncio.create_task(client.get("/x")) for _ in range(8)]
        await asyncio.sleep(0)
        answered = 0
        while not any(task.done() for task in limited):
            assert (await client.get("/free")).status_code == 200
            await asyncio.sleep(0)
            answered += 1
        assert answered >= 3
        await asyncio.gather(*limited)
    await limiter.aclose()
