"""Two instances of a service share results, load once, and see each other's writes.

`REDIS_URL=… python examples/minimal/cache.py`; without the variable a Redis is started.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass

from smriti_scale.cache import Cache, CachedFunction
from smriti_scale.local import LocalRedis

TITLES = {"42": ["By the sea", "In the hills"]}


@dataclass
class Post:
    title: str


def make_instance(cache: Cache) -> CachedFunction[[str], list[Post]]:
    """What one process of the service has."""

    @cache.cached(ttl=300, key="posts:{user_id}", tags=["user:{user_id}"], stale=60)
    async def posts_of(user_id: str) -> list[Post]:
        await asyncio.sleep(0.05)  # the database
        return [Post(title) for title in TITLES[user_id]]

    return posts_of


async def main() -> None:
    async with AsyncExitStack() as stack:
        url = os.environ.get("REDIS_URL") or (await stack.enter_async_context(LocalRedis())).uri
        one = await stack.enter_async_context(Cache(url, namespace="example-cache"))
        other = await stack.enter_async_context(Cache(url, namespace="example-cache"))
        await one.clear()
        posts_here, posts_there = make_instance(one), make_instance(other)

        await asyncio.gather(*(posts_of("42") for posts_of in (posts_here, posts_there) for _ in range(100)))
        print(f"200 callers at once on two instances: {one.stats().loads + other.stats().loads} call of the function")

        started = time.perf_counter()
        for _ in range(1000):
            await posts_here("42")
        print(f"a hit in memory, with a copy for each caller: {(time.perf_counter() - started) * 1000:.1f} µs")

        TITLES["42"].append("At home")
        await one.invalidate_tags("user:42")
        print(f"after a write here, there: {[post.title for post in await posts_there('42')]}")


if __name__ == "__main__":
    asyncio.run(main())
