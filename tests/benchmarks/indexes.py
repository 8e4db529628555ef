"""What building 1,000,000 documents' index costs those who write and read meanwhile; and what planning costs.

The other way is what Mongoose, ODMantic and Beanie (told to) do for a changed index: drop first, then build.
`python -m tests.benchmarks indexes`; BENCH_DOCUMENTS sets the size.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from pymongo import AsyncMongoClient
from pymongo.monitoring import CommandStartedEvent

from smriti_scale.local import LocalMongo
from smriti_scale.mongo import Index, Indexes, QueryGuard
from smriti_scale.mongo.drivers import rows

DOCUMENTS = int(os.environ.get("BENCH_DOCUMENTS", "1000000"))
OLD = Index("user_id", partial={"live": True})
NEW = Indexes({"posts": [Index("user_id", ("created_at", -1)), Index("state", "user_id")]})
CHANGED = Indexes({"posts": [Index("user_id", partial={"live": {"$exists": True}})]})


async def main() -> None:
    async with LocalMongo(1) as server, AsyncMongoClient[Any](server.uri) as client:
        db = client.bench
        await fill(db)
        await building(db)
        await changing(db)
        await planning(db)
        listening()


async def fill(db: Any) -> None:
    started = time.perf_counter()
    for start in range(0, DOCUMENTS, 20_000):
        await db.posts.insert_many(
            [
                {"user_id": n * 7919 % 50_021, "created_at": n, "state": "open", "live": True, "body": "x" * 60}
                for n in range(start, min(start + 20_000, DOCUMENTS))
            ],
            ordered=False,
        )
    print(f"{DOCUMENTS:,} documents written in {time.perf_counter() - started:.0f} s\n")


async def building(db: Any) -> None:
    """Insert latency on an idle server, and while two indexes are built in one scan."""

    async def idle() -> None:
        await asyncio.sleep(3)

    async def write(n: int) -> None:
        await db.posts.insert_one({"user_id": n, "created_at": -n, "state": "new"})

    print(f"{'one insert at a time, ms':44} {'p50':>8} {'p95':>8} {'p99':>8} {'max':>8} {'build s':>8}")
    quiet = await beside(write, idle())
    line("idle", quiet)
    together = await beside(write, apply(NEW, db))
    line("while 2 indexes build in one scan (ours)", together)
    for index in NEW["posts"]:
        await db.posts.drop_index(index.name)

    async def one_after_another() -> None:
        for index in NEW["posts"]:
            await db.command({"createIndexes": "posts", "indexes": [index.to_server()]})

    apart = await beside(write, one_after_another())
    line("while they build one after another (peers)", apart)
    print(f"build time, peers ÷ ours: {apart[1] / together[1]:.1f}\n")


async def changing(db: Any) -> None:
    """The latency of a read that an index serves, while that index is changed."""

    async def read(n: int) -> None:
        await rows(db.posts.find({"user_id": n % 50_021, "live": True}, limit=20))

    await db.posts.drop_indexes()
    await db.command({"createIndexes": "posts", "indexes": [OLD.to_server()]})
    print(f"{'one read at a time, ms':44} {'p50':>8} {'p95':>8} {'p99':>8} {'max':>8} {'build s':>8}")
    quiet = await beside(read, asyncio.sleep(2))
    line("idle", quiet)
    ours = await beside(read, apply(CHANGED, db))
    line("built beside, then the old one hidden (ours)", ours)
    await db.posts.drop_indexes()
    await db.command({"createIndexes": "posts", "indexes": [OLD.to_server()]})

    async def drop_first() -> None:
        await db.posts.drop_index(OLD.name)
        await db.command({"createIndexes": "posts", "indexes": [CHANGED["posts"][0].to_server()]})

    theirs = await beside(read, drop_first())
    line("dropped first, then built (peers)", theirs)
    mark = "✓" if statistics.median(ours[0]) < statistics.median(theirs[0]) else "✗"
    print(f"median, peers ÷ ours: {statistics.median(theirs[0]) / statistics.median(ours[0]):.0f} {mark}\n")


async def planning(db: Any) -> None:
    """A plan in sync beside the floor: one `listIndexes` a collection."""
    indexes = Indexes({f"c{n}": [Index("a"), Index("b", "a"), Index("t", ttl=60)] for n in range(10)})
    await indexes.apply(db)

    async def floor() -> None:
        for name in indexes:
            await rows(db[name].list_indexes())

    plan = await median(lambda: indexes.plan(db))
    least = await median(floor)
    print(f"plan of 10 collections in sync: {plan * 1000:.1f} ms, {plan / least:.1f} × ten listIndexes\n")


def listening() -> None:
    """What the guard costs a command: nothing watched, and a command of production noted."""
    command = {"find": "posts", "filter": {"user_id": 5, "live": True}, "sort": {"created_at": -1}}
    event = CommandStartedEvent(command, "bench", 1, ("127.0.0.1", 27017), 1)
    for name, guard in {"not watching": QueryGuard(), "slow_ms set": QueryGuard(slow_ms=100)}.items():
        rounds = 200_000
        started = time.perf_counter()
        for _ in range(rounds):
            guard.started(event)
        print(f"QueryGuard, {name}: {(time.perf_counter() - started) / rounds * 1e6:.2f} µs a command")


async def apply(indexes: Indexes, db: Any) -> None:
    await indexes.apply(db)


async def beside(operation: Callable[[int], Awaitable[None]], work: Awaitable[Any]) -> tuple[list[float], float]:
    """The latencies of one operation after another while `work` goes on, and how long that took."""
    taken: list[float] = []
    started = time.perf_counter()
    task = asyncio.ensure_future(work)
    while not task.done():
        began = time.perf_counter()
        await operation(len(taken))
        taken.append(time.perf_counter() - began)
    await task
    return taken, time.perf_counter() - started


def line(name: str, measured: tuple[list[float], float]) -> None:
    taken, seconds = measured
    ordered = sorted(taken)
    marks = [ordered[min(int(len(ordered) * part), len(ordered) - 1)] * 1000 for part in (0.5, 0.95, 0.99, 1)]
    print(f"{name:44} {marks[0]:8.2f} {marks[1]:8.2f} {marks[2]:8.2f} {marks[3]:8.1f} {seconds:8.1f}")


async def median(operation: Callable[[], Awaitable[Any]]) -> float:
    taken = []
    for _ in range(10):
        started = time.perf_counter()
        await operation()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)
