"""Caches for tests: each with a namespace of its own, closed afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio

from smriti_scale.cache import Cache
from smriti_scale.testing.manual_clock import ManualClock

MakeCache = Callable[..., Cache]


async def until(condition: Callable[[], Any], *, seconds: float = 20) -> None:
    """Wait for something that other tasks or processes bring about."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - it may come from anywhere
            await asyncio.sleep(0.002)


@pytest_asyncio.fixture
async def redis_cache(redis_url: str, redis_prefix: str) -> AsyncIterator[MakeCache]:
    """Makes caches that share a Redis and a namespace, as the processes of one service do."""
    async with AsyncExitStack() as opened:

        def make(url: Any = redis_url, **options: Any) -> Cache:
            # A machine that is busy with other tests is not a Redis in trouble: only fault tests mean the deadline.
            cache = Cache(url, **{"namespace": redis_prefix.rstrip(":"), "timeout": 5.0, **options})
            opened.push_async_callback(cache.aclose)
            return cache

        yield make


@pytest_asyncio.fixture
async def memory_cache(clock: ManualClock) -> AsyncIterator[Cache]:
    """A cache in memory alone, on the hand-moved clock."""
    async with Cache(None, namespace="memory", clock=clock) as cache:
        yield cache


@pytest.fixture(params=["memory", "redis", "both"])
def any_cache(request: pytest.FixtureRequest, clock: ManualClock) -> Cache:
    """The test runs with memory alone, with Redis alone, and with both; on the hand-moved clock."""
    if request.param == "memory":
        cache: Cache = request.getfixturevalue("memory_cache")
        return cache
    make: MakeCache = request.getfixturevalue("redis_cache")
    return make(clock=clock, max_entries=0) if request.param == "redis" else make(clock=clock)
