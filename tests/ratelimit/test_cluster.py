"""A real Redis Cluster of three nodes: one script a slot, all or nothing all the same."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from fastapi import FastAPI, Request
from redis.crc import key_slot

from smriti_scale.local.binaries import find_redis_server
from smriti_scale.local.ports import HOST
from smriti_scale.ratelimit import BanPolicy, LeasePolicy, RateLimiter, setup_rate_limiting
from tests.cache.topologies import cluster_ports
from tests.ratelimit.checks import STRATEGIES, Store, check, redis_store
from tests.ratelimit.serving import statuses

pytestmark = [
    pytest.mark.long,
    # redis-py's cluster client forgets connections of nodes that it learns under another name.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

SLOTS = 16_384


@contextlib.asynccontextmanager
async def running_cluster(folder: Path) -> AsyncIterator[tuple[str, list[asyncio.subprocess.Process]]]:
    """A cluster without replicas; its URL and processes."""
    ports = cluster_ports(3)
    binary = str(find_redis_server())
    processes = []
    for port in ports:
        home = folder / str(port)
        home.mkdir()
        options = ["--port", str(port), "--bind", HOST, "--dir", str(home), "--save", "", "--cluster-enabled", "yes"]
        options += ["--cluster-node-timeout", "2000", "--cluster-require-full-coverage", "no", "--loglevel", "warning"]
        processes.append(await asyncio.create_subprocess_exec(binary, *options, stdout=asyncio.subprocess.DEVNULL))
    clients: list[Any] = [redis.asyncio.Redis(host=HOST, port=port) for port in ports]
    try:
        for number, client in enumerate(clients):
            await answering(client)
            await client.execute_command("CLUSTER", "ADDSLOTS", *range(SLOTS * number // 3, SLOTS * (number + 1) // 3))
            await client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for client in clients:
            for turn in range(300):
                if turn % 20 == 0:  # a handshake that is lost is forgotten by the nodes
                    for port in ports[1:]:
                        await clients[0].execute_command("CLUSTER", "MEET", HOST, port)
                info = await client.execute_command("CLUSTER", "INFO")
                if b"cluster_state:ok" in info and b"cluster_slots_assigned:16384" in info:  # each knows of all
                    break
                await asyncio.sleep(0.1)
        yield f"redis+cluster://{HOST}:{ports[0]},{HOST}:{ports[1]}", processes
    finally:
        for client in clients:
            await client.aclose()
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def answering(client: Any) -> None:
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(redis.ConnectionError):
                await client.execute_command("PING")
                return
            await asyncio.sleep(0.1)


def callers_on_different_nodes(prefix: str) -> list[str]:
    """One caller for each third of the slots."""
    found: dict[int, str] = {}
    for number in range(200):
        found.setdefault(key_slot(f"{prefix}:{{c{number}}}".encode()) * 3 // SLOTS, f"c{number}")
    return list(found.values())


async def test_limits_of_callers_on_three_nodes_are_charged_together_or_not_at_all(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as (url, _):
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


async def test_a_crowd_on_a_cluster_is_counted_exactly(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as (url, _):
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


async def test_bans_and_refusals_may_lie_on_different_nodes(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as (url, _):
        one, two, _three = callers_on_different_nodes("rl")
        store = redis_store(url, "rl")
        ban = BanPolicy(refusals=2, within=60, duration=60)
        shared = check("1/hour", who=two)
        answers = [await store.decide([shared], ban=ban, client=one) for _ in range(4)]
        assert [answer.source for answer in answers] == ["redis", "redis", "redis", "banned"]
        await store.link.aclose()


async def test_an_application_on_a_cluster_outlives_a_node(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as (url, processes):
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
        processes[2].kill()
        await processes[2].wait()
        for number in range(20):
            (code,) = await statuses(app, "/x", 1, **{"x-name": f"new {number}"})
            assert code in (200, 429)
        await limiter.aclose()
