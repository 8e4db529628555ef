"""Rate limits: a limit for a login, defaults for all else, and where a caller stands. Needs `fastapi` and `httpx`.

Run it: `python examples/minimal/ratelimit.py`. With REDIS_URL set, limits are shared by all processes.
"""

from __future__ import annotations

import asyncio
import os

import httpx
from fastapi import FastAPI, Request

from smriti_scale.ratelimit import RateLimiter, client_address, setup_rate_limiting

limiter = RateLimiter(
    key_func=client_address(trusted_proxies=["10.0.0.0/8"]),
    default_limits=["100/minute"],
    headers_enabled=True,
    storage_uri=os.environ.get("REDIS_URL", "memory://"),
    key_prefix="example",
)
app = FastAPI()
setup_rate_limiting(app, limiter)


@app.post("/login")
@limiter.limit("3/minute", on_redis_failure="deny")
async def login(request: Request) -> dict[str, str]:
    return {"token": "…"}


@app.get("/posts/{post_id}")
async def post(post_id: str) -> dict[str, str]:
    return {"post": post_id}


async def main() -> None:
    transport = httpx.ASGITransport(app, client=("203.0.113.7", 50_000))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://api") as client,
    ):
        await limiter.reset("203.0.113.7")
        for _ in range(4):
            answer = await client.post("/login")
            print("POST /login", answer.status_code, answer.headers["x-ratelimit-remaining"], "left")
        print(answer.json(), "again in", answer.headers["retry-after"], "s")
        print("GET /posts/1", (await client.get("/posts/1")).status_code)
        for limit in (await limiter.peek("203.0.113.7")).limits:
            print(f"{limit.scope}: {limit.remaining} of {limit.amount} left")


if __name__ == "__main__":
    asyncio.run(main())
