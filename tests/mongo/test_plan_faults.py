"""Applying under faults: an applier killed in mid-build, a primary killed, a node away. Servers of their own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import AsyncMongoClient
from pymongo.errors import PyMongoError

from smriti_scale.errors import IndexBuildFailed
from smriti_scale.mongo import Index, Indexes
from smriti_scale.mongo.catalog import BOOKKEEPING, index_stats, node_is_away
from smriti_scale.mongo.plan import Progress

pytestmark = pytest.mark.long

APPLIER = """
import asyncio, sys
from pymongo import AsyncMongoClient
from smriti_scale.mongo import Index, Indexes

INDEXES = Indexes({"posts": [Index("a", partial={"n": {"$gte": 0}}), Index("b", "a"), Index("n", unique=True)]})

async def main():
    async with AsyncMongoClient(sys.argv[1]) as client:
        plan = await INDEXES.plan(client.faults)
        await plan.apply(progress=lambda now: print(now.step.name, now.phase, now.fraction, flush=True))

asyncio.run(main())
"""

INDEXES = Indexes({"posts": [Index("a", partial={"n": {"$gte": 0}}), Index("b", "a"), Index("n", unique=True)]})


async def filled(db: Any, count: int) -> None:
    await db.posts.insert_many([{"n": n, "a": n * 7919 % 10007, "b": f"text {n % 97}" * 4} for n in range(count)])
    # An older form of the first declared index, so that there is something to rebuild.
    await db.posts.create_index("a")


@contextlib.asynccontextmanager
async def build_held_at(client: AsyncMongoClient[Any], number: int, *, release: bool = True) -> AsyncIterator[None]:
    """Hold index builds on the primary before the document of this number, so that they are caught in the middle."""
    point = "hangIndexBuildDuringCollectionScanPhaseBeforeInsertion"
    data = {"fieldsToMatch": {"n": number}}
    await client.admin.command({"configureFailPoint": point, "mode": "alwaysOn", "data": data})
    yield
    if release:
        await client.admin.command({"configureFailPoint": point, "mode": "off"})


async def in_progress(db: Any) -> set[str]:
    return {one["name"] for one in await index_stats(db, "posts") if one.get("building")}


async def start_applier(uri: str) -> subprocess.Popen[str]:
    return await asyncio.to_thread(
        subprocess.Popen,
        [sys.executable, "-c", APPLIER, uri],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=Path.cwd(),
    )


async def until_building(db: Any, applier: subprocess.Popen[str]) -> set[str]:
    async with asyncio.timeout(60):
        while not (building := await in_progress(db)):
            assert applier.poll() is None, applier.stdout and applier.stdout.read()
            await asyncio.sleep(0.02)
    return building


async def test_an_applier_killed_in_mid_build_is_taken_over_and_finished(own_mongo: Any) -> None:
    server = await own_mongo(replicas=1)
    async with AsyncMongoClient[Any](server.uri) as client:
        db = client.faults
        await filled(db, 2000)
        async with build_held_at(client, 1000):
            with await start_applier(server.uri) as applier:
                building = await until_building(db, applier)
                os.kill(applier.pid, signal.SIGKILL)
        assert building == {"a_1_v2", "b_1_a_1"}
        assert await db[BOOKKEEPING].find_one({"_id": "lease"}), "the dead applier's lease is still there"
        plan = await INDEXES.plan(db)
        assert not plan.is_empty
        # The next one waits for the dead one's lease to end, joins the build the server goes on with, and hides.
        async with asyncio.timeout(180):
            await plan.apply()
        assert (await INDEXES.plan(db)).is_empty
        found = await db.posts.index_information()
        assert sorted(found) == ["_id_", "a_1", "a_1_v2", "b_1_a_1", "n_1"]
        assert found["a_1"]["hidden"] is True
        again = await INDEXES.plan(db, drop_superseded=True, drop_after=0)
        assert [(step.kind, step.name) for step in again.changes] == [("drop", "a_1")]


async def test_a_primary_killed_in_mid_build_leaves_work_that_a_second_run_finishes(own_mongo: Any) -> None:
    server = await own_mongo(replicas=3)
    async with AsyncMongoClient[Any](server.uri) as client:
        db = client.faults
        await filled(db, 20_000)
        async with build_held_at(client, 1000, release=False):
            applier = await start_applier(server.uri)
        with applier:
            await until_building(db, applier)
            primary = await server.primary()
            await server.kill(primary)
            assert await asyncio.to_thread(applier.wait, timeout=120) != 0
        await server.restart(primary)
        async with asyncio.timeout(240):
            for _ in range(20):
                try:
                    await (await INDEXES.plan(db)).apply()
                    break
                except (IndexBuildFailed, PyMongoError):  # the election, the restarted node catching up
                    await asyncio.sleep(2)
        assert (await INDEXES.plan(db)).is_empty
        assert sorted(await db.posts.index_information()) == ["_id_", "a_1", "a_1_v2", "b_1_a_1", "n_1"]


async def test_with_a_node_away_nothing_is_dropped_unless_forced(own_mongo: Any) -> None:
    server = await own_mongo(replicas=3)
    async with AsyncMongoClient[Any](server.uri) as client:
        db = client.faults
        await db.posts.insert_one({"a": 1})
        await db.posts.create_index("a")
        secondary = (await server.secondaries())[0]
        await server.kill(secondary)
        indexes = Indexes({"posts": []})
        async with asyncio.timeout(60):
            plan = await indexes.plan(db, drop=["posts.a_1"])
        assert plan.refused
        assert "not every node said" in str(plan)
        assert not (await indexes.plan(db, drop=["posts.a_1"], force=True)).refused


async def test_with_a_node_away_a_majority_ends_a_build(own_mongo: Any) -> None:
    server = await own_mongo(replicas=3)
    async with AsyncMongoClient[Any](server.uri, heartbeatFrequencyMS=500) as client:
        db = client.faults
        await db.posts.insert_many([{"a": n} for n in range(100)])
        secondary = (await server.secondaries())[0]
        await server.kill(secondary)
        async with asyncio.timeout(60):
            while not await node_is_away(db):  # noqa: ASYNC110 - the driver tells nobody
                await asyncio.sleep(0.1)
            await Indexes({"posts": [Index("a")]}).apply(db)
        assert "a_1" in await db.posts.index_information()


async def test_progress_is_the_servers_own_percentage(db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smriti_scale.mongo.build._WATCH_EVERY", 0.02)
    await filled(db, 60_000)
    seen: list[Progress] = []
    await (await INDEXES.plan(db)).apply(progress=seen.append)
    assert any(now.fraction is not None and 0 < now.fraction < 1 for now in seen)
    assert any("scanning collection" in now.phase for now in seen)


async def test_processes_that_start_together_build_once(own_mongo: Any) -> None:
    server = await own_mongo(replicas=1)
    async with AsyncMongoClient[Any](server.uri) as client:
        db = client.faults
        await filled(db, 20_000)
        appliers = [await start_applier(server.uri) for _ in range(4)]
        told = [(await asyncio.to_thread(applier.communicate, timeout=120))[0] for applier in appliers]
        assert [applier.returncode for applier in appliers] == [0, 0, 0, 0], told
        assert sum("a_1_v2 done" in text or "b_1_a_1 done" in text for text in told) == 1, told
        assert (await INDEXES.plan(db)).is_empty
