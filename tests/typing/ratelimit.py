"""Checked by mypy, never run: what a user's code sees of the limiter's types."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import assert_type

from slowapi import Limiter
from starlette.applications import Starlette
from starlette.requests import Request

from smriti_scale.ratelimit import (
    BanPolicy,
    LeasePolicy,
    RateLimiter,
    Standing,
    Tiers,
    client_address,
    setup_rate_limiting,
)


async def limits(app: Starlette) -> None:
    limiter = RateLimiter(
        client_address(trusted_proxies=["10.0.0.0/8"]),
        ["5/minute"],
        leases=LeasePolicy(size=5),
        ban=BanPolicy(refusals=3, within=60, duration=60),
    )
    base: Limiter = limiter
    setup_rate_limiting(app, limiter, body="problem")

    @limiter.limit("5/minute", strategy="gcra", burst=3)
    async def route(request: Request, number: int) -> str:
        return base._key_prefix + str(number)

    @limiter.limit(Tiers({"free": "5/minute"}, plan=lambda request: "free"))
    def sync_route(request: Request) -> int:
        return 1

    @limiter.exempt
    async def exempt() -> bytes:
        return b""

    assert_type(await route(Request({"type": "http"}), 1), str)
    assert_type(sync_route(Request({"type": "http"})), int)
    assert_type(await exempt(), bytes)
    assert_type(await limiter.peek("x"), Standing)
    assert_type(limiter.reset("x"), Awaitable[None])
    await route(Request({"type": "http"}), "one")  # type: ignore[arg-type] # a decorated function keeps its signature
    limiter.limit("5/minute", strategy="leaky")  # type: ignore[arg-type]
