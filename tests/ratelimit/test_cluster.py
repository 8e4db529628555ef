"""A real Redis Cluster of three nodes: one script a slot, all or nothing all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fastapi import FastAPI, Request
from redis.crc import key_slot

from smriti_scale.ratelimit import BanPolicy, LeasePolicy, RateLimiter, client_address, setup_rate_limiting
from tests.ratelimit.checks import STRATEGIES, Store, check, redis_store
from tests.ratelimit.serving import statuses
from tests.redis_topologies import SLOTS, Servers, servers, start_cluster

pytestmark = [
    pytest.mark.long,
    # redis-py's cluster client forgets connections of nodes that it learns under another name.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[tuple[str, Servers]]:
    """Three nodes without replicas: the URL, and the servers."""
    async with servers(tmp_path) as made:
        yield await start_cluster(made), made


def callers_on_different_nodes(prefix: str) -> list[str]:
    """One caller for each third of the slots."""
    found: dict[int, str] = {}
    for number in range(200):
        found.setdefault(key_slot(f"{prefix}:{{c{number}}}".encode()) * 3 // SLOTS, f"c{number}")
    return list(found.values())


async def test_limits_of_callers_on_three_nodes_are_charged_together_or_not_at_all(
    cluster: tuple[str, Servers],
) -> None:
    url, _ = cluster
    one, two, three = callers_on_different_nodes("rl")
    store = redis_store(url, "rl")
    for strategy in STRATEGIES:
        checks = [
            check("10/hour", strategy, who=one),
            check("3/hour", strategy, who=two),
            check("9/hour", strategy, who=three),
        ]
        answers = await asyncio.gather(*(store.decide(checks) for _ in range(3)))
        assert all(answer.allowed for answer in answers)
        for _ in range(4):
            assert not (await store.decide(checks)).allowed
        # What the other nodes had reserved for the refused requests came back.
        assert [await Store(store).remaining(asked) for asked in checks] == [7, 0, 6]
    limits, _ = await store.peek(one)
    assert {limit.strategy for limit in limits} == set(STRATEGIES)
    await store.reset(one)
    assert await store.peek(one) == ([], 0.0)
    await store.clear()
    assert await store.peek(two) == ([], 0.0)
    await store.link.aclose()


async def test_a_crowd_on_a_cluster_is_counted_exactly(cluster: tuple[str, Servers]) -> None:
    url, _ = cluster
    one, two, _three = callers_on_different_nodes("rl")
    store = redis_store(url, "rl")
    checks = [check("50/hour", who=one), check("30/hour", who=two)]
    answers = await asyncio.gather(*(store.decide(checks) for _ in range(200)))
    # Reserving and refunding may refuse at the very edge, but never admits too much.
    assert sum(answer.allowed for answer in answers) <= 30
    while (await store.decide(checks)).allowed:
        pass
    assert [await Store(store).remaining(asked) for asked in checks] == [20, 0]
    await store.link.aclose()


async def test_a_crowd_that_leases_on_a_cluster_stays_within_the_limits(cluster: tuple[str, Servers]) -> None:
    url, _ = cluster
    one, two, _three = callers_on_different_nodes("ratelimit")
    instances = [
        RateLimiter(client_address(), storage_uri=url, redis_timeout=5.0, leases=LeasePolicy(size=20, share=0.2))
        for _ in range(3)
    ]
    checks = (check("500/hour", who=one), check("300/hour", who=two))
    admitted = 0
    for _ in range(20):
        answers = await asyncio.gather(
            *(limiter._engine.decide(checks, None) for limiter in instances for _ in range(20))
        )
        admitted += sum(answer.allowed for answer in answers)
    assert 300 - 3 * 20 <= admitted <= 300
    for limiter in instances:
        await limiter.aclose()
    store = redis_store(url, "ratelimit")
    assert [await Store(store).remaining(asked) for asked in checks] == [500 - admitted, 300 - admitted]
    await store.link.aclose()


async def test_bans_and_refusals_may_lie_on_different_nodes(cluster: tuple[str, Servers]) -> None:
    url, _ = cluster
    one, two, _three = callers_on_different_nodes("rl")
    store = redis_store(url, "rl")
    ban = BanPolicy(refusals=2, within=60, duration=60)
    shared = check("1/hour", who=two)
    answers = [await store.decide([shared], ban=ban, client=one) for _ in range(4)]
    assert [answer.source for answer in answers] == ["redis", "redis", "redis", "banned"]
    await store.link.aclose()


async def test_an_application_on_a_cluster_outlives_a_node(cluster: tuple[str, Servers]) -> None:
    url, made = cluster
    limiter = RateLimiter(
        lambda request: request.headers["x-name"], storage_uri=url, redis_timeout=2.0, leases=LeasePolicy(size=5)
    )
    app = FastAPI()
    setup_rate_limiting(app, limiter)

    @app.get("/x")
    @limiter.limit("5/hour")
    @limiter.limit("1000/hour", key_func=lambda: "everybody")
    async def x(request: Request) -> str:
        return "x"

    for name in callers_on_different_nodes("ratelimit"):
        assert await statuses(app, "/x", 7, **{"x-name": name}) == [200] * 5 + [429] * 2
    made.kill(list(made.running)[2])
    for number in range(20):
        (code,) = await statuses(app, "/x", 1, **{"x-name": f"new {number}"})
        assert code in (200, 429)
    await limiter.aclose()
