"""The promises under lag and failover, with two server processes and servers of their own."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from typing import Any

import httpx
import pytest
from pymongo import AsyncMongoClient

from smriti_scale.local import LocalMongo
from tests.mongo.two_instances import lag_by_turns, primary_of, two_instances

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("fault_mongo")]


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_no_pair_is_stale_and_secondaries_do_most_of_the_work(fault_mongo: LocalMongo, driver: str) -> None:
    async with two_instances(fault_mongo.uri, f"pairs_{driver}", driver=driver) as instances:
        calm = await instances.pairs(1000, primary=await primary_of(fault_mongo))
        assert (calm.pairs, calm.stale) == (1000, 0)
        assert calm.by_secondary >= 0.6 * calm.pairs
        async with lag_by_turns(fault_mongo, 1.0):
            lagging = await instances.pairs(400, primary=await primary_of(fault_mongo))
        assert (lagging.pairs, lagging.stale) == (400, 0)
        assert lagging.p95 < 1000  # milliseconds: nobody waits the lag out


async def test_without_tokens_the_same_run_is_stale(fault_mongo: LocalMongo) -> None:
    """The control: the proof above would notice."""
    async with (
        two_instances(fault_mongo.uri, "pairs_plain", consistent=False) as instances,
        lag_by_turns(fault_mongo, 1.0),
    ):
        plain = await instances.pairs(300, primary=await primary_of(fault_mongo))
    assert plain.stale > 0


async def test_the_primary_is_killed_under_load(fault_mongo: LocalMongo) -> None:
    """No acknowledged write is lost, reads go on, writes answer 204 or 503, and resume."""
    numbers = itertools.count(1)
    acknowledged: set[int] = set()
    statuses: Counter[int] = Counter()
    read_statuses: Counter[int] = Counter()
    gaps: list[float] = []
    resumed = asyncio.Event()
    killed_at = 0.0
    stop = False

    async def write(client: httpx.AsyncClient) -> None:
        while not stop:
            number = next(numbers)
            started = time.monotonic()
            answer = await client.put(f"/posts/{number}")
            statuses[answer.status_code] += 1
            if answer.status_code == 204:
                acknowledged.add(number)
                if killed_at and started > killed_at + 0.5:
                    resumed.set()
            elif answer.status_code == 503:
                assert int(answer.headers["Retry-After"]) >= 1
                await asyncio.sleep(0.05)

    async def read(client: httpx.AsyncClient) -> None:
        last = time.monotonic()
        while not stop:
            answer = await client.get("/posts/0")
            read_statuses[answer.status_code] += 1
            now = time.monotonic()
            gaps.append(now - last)
            last = now

    async with two_instances(fault_mongo.uri, "killed", write_timeout=3.0) as instances:
        tasks = [asyncio.create_task(job(client)) for client in instances.clients for job in (write, write, read)]
        await asyncio.sleep(2)
        victim = await fault_mongo.primary()
        killed_at = time.monotonic()
        await fault_mongo.kill(victim)
        async with asyncio.timeout(60):
            await resumed.wait()
        stop = True
        await asyncio.gather(*tasks)
        assert set(statuses) <= {204, 503}
        assert set(read_statuses) == {200}
        assert max(gaps) < 5  # the figure (0.5 s) is the benchmark's; this only sees a standstill
        await fault_mongo.heal()
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(fault_mongo.uri)
    async with client:
        kept = {post["_id"] async for post in client.killed.posts.find({})}
    assert acknowledged
    assert acknowledged <= kept


async def test_without_a_majority_writes_end_in_503_and_reads_go_on(fault_mongo: LocalMongo) -> None:
    async with two_instances(fault_mongo.uri, "no_majority", write_timeout=1.0) as instances:
        client = instances.clients[0]
        assert (await client.put("/posts/1")).status_code == 204
        for victim in [await fault_mongo.primary(), (await fault_mongo.secondaries())[0]]:
            await fault_mongo.kill(victim)
        refused = await client.put("/posts/2")
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        assert str(fault_mongo.members[0].port) not in refused.text
        read = await client.get("/posts/1")
        assert (read.status_code, read.json()["found"]) == (200, True)
        await fault_mongo.heal()
        async with asyncio.timeout(60):
            while (await client.put("/posts/3")).status_code != 204:
                pass
