"""A small service on real servers with everything that the dashboard shows, and traffic for it."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from httpx import AsyncClient

from smriti_scale.scale import Scale
from smriti_scale.settings import ScaleSettings


def shop(scale: Scale) -> FastAPI:
    """The service."""
    app = FastAPI(lifespan=scale.lifespan)
    posts = "posts"

    @scale.cache.cached(ttl=60, key="post:{number}")
    async def title_of(number: int) -> str:
        found = await scale.mongo.read[posts].find_one({"number": number})
        return str(found["title"]) if found else ""

    @app.post("/posts")
    async def write(request: Request) -> dict[str, int]:
        number = random.randrange(1_000_000)
        await scale.mongo.write[posts].insert_one({"number": number, "title": f"Post {number}", "author": number % 7})
        return {"number": number}

    @app.get("/posts/{number}")
    async def read(number: int) -> dict[str, str]:
        return {"title": await title_of(number)}

    @app.get("/authors/{author}/posts")
    async def by(author: int) -> list[int]:
        cursor = scale.mongo.read[posts].find({"author": author}).sort("number", -1).limit(20)
        return [found["number"] async for found in cursor]

    @app.get("/report")
    async def report() -> dict[str, str]:
        await asyncio.sleep(0.26)
        return {"report": "long"}

    @app.get("/broken")
    async def broken() -> None:
        raise HTTPException(500)

    @app.get("/limited")
    @scale.limiter.limit("3/hour")
    async def limited(request: Request) -> dict[str, bool]:
        return {"ok": True}

    scale.install(app)
    return app


async def visit(client: AsyncClient, *, rounds: int = 5, broken: int = 3) -> None:
    """Every route, several times; some fail, some are refused, some do not exist."""
    for _ in range(rounds):
        written = (await client.post("/posts")).json()["number"]
        for _ in range(3):
            await client.get(f"/posts/{written}")
        await client.get("/authors/3/posts")
        await client.get("/limited")
    for path in ("/report", "/nowhere", *["/broken"] * broken):
        await client.get(path)


def settings_of(mongo_uri: str, redis_url: str, database: str, **others: Any) -> ScaleSettings:
    """Development, with every query slow enough to be shown and deadlines for a busy machine."""
    given: dict[str, Any] = {"slow_query_ms": 0.001, "min_pool_size": 1, **others}
    return ScaleSettings(
        _env_file=None,
        mongodb_uri=mongo_uri,
        redis_url=redis_url,
        database_name=database,
        namespace=database,
        cache_timeout=5,
        rate_limit_timeout=5,
        **given,
    )
