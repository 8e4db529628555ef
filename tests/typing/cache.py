"""Checked by mypy, never run: what a user's code sees of the cache's types."""

from __future__ import annotations

from typing import Any, assert_type

from smriti_scale.cache import Cache, CachedFunction, CacheStats, Invalidation

cache = Cache("redis://localhost", namespace="types")


@cache.cached(ttl=300, key="posts:{user_id}:{limit}", tags=["user:{user_id}"], stale=60)
async def posts_of(user_id: str, *, limit: int = 20) -> list[str]:
    return [user_id] * limit


class Repository:
    @cache.cached(60, key="row:{row_id}", exclude=["self"])
    async def row(self, row_id: int) -> bytes:
        return bytes(row_id)


async def load() -> int:
    return 1


async def use() -> None:
    assert_type(await posts_of("42", limit=5), list[str])
    assert_type(posts_of.key("42"), str)
    assert_type(await posts_of.refresh("42"), list[str])
    await posts_of.invalidate("42", limit=5)
    found = await posts_of.peek("42")
    if found is not None:
        assert_type(found.value, list[str])
        assert_type(found.age, float)
    posts_of(42)  # type: ignore[arg-type, unused-coroutine]
    posts_of("42", 5)  # type: ignore[call-arg, unused-coroutine] # limit is by keyword
    posts_of.key(user="42")  # type: ignore[call-arg]
    assert_type(await Repository().row(1), bytes)
    await Repository.row.invalidate(Repository(), 1)
    assert_type(await cache.get_or_set("k", load, 60), int)
    assert_type(await cache.get_many(["a"]), dict[str, Any])
    assert_type(cache.stats(), CacheStats)
    cache.on_invalidate(lambda change: None)
    function: CachedFunction[[int], str] = cache.cached(60)(double)
    assert_type(await function(1), str)


async def double(n: int) -> str:
    return str(2 * n)


def hook(change: Invalidation) -> None:
    assert_type(change.tags, tuple[str, ...])


cache.on_invalidate(hook)
