"""MongoDB clients beside the bare drivers: what a command costs, pairs over two instances, a killed primary, the pool.

`CLIENTS_PAIRS` sets the number of pairs (10,000). CPU time is measured for the cost of a command, since other work on
the machine disturbs it least; both sides run by short turns in the same loop.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient
from pymongo.errors import WaitQueueTimeoutError
from pymongo.read_preferences import SecondaryPreferred
from pymongo.write_concern import WriteConcern

from smriti_scale.local import LocalMongo
from smriti_scale.mongo import MongoClients
from smriti_scale.mongo.clients import Driver
from tests.benchmarks._machine import measure
from tests.mongo.two_instances import Instances, lag_by_turns, primary_of, two_instances

PAIRS = int(os.environ.get("CLIENTS_PAIRS", "10000"))
ROUNDS, COMMANDS = 200, 10
DRIVERS: tuple[Driver, ...] = ("motor", "pymongo")
DEADLINES = {
    "maxPoolSize": 50,
    "socketTimeoutMS": 30_000,
    "waitQueueTimeoutMS": 5_000,
    "connectTimeoutMS": 5_000,
    "serverSelectionTimeoutMS": 15_000,
}


def mark(met: bool) -> str:
    return "✓" if met else "✗"


async def main() -> None:
    async with LocalMongo(replicas=3, test_commands=True) as server:
        for driver in DRIVERS:
            await overhead(server.uri, driver)
        for driver in DRIVERS:
            await pairs(server, driver)
        await killed(server)
        for driver in DRIVERS:
            await pool(server.uri, driver)


async def cost(operation: Callable[[], Awaitable[Any]]) -> float:
    """CPU microseconds of one, in this process."""
    started = time.process_time()
    for _ in range(COMMANDS):
        await operation()
    return (time.process_time() - started) / COMMANDS * 1e6


async def overhead(uri: str, driver: Driver) -> None:
    """The bare driver has the same deadlines; without any it does less, and hangs longer."""
    kind: Any = AsyncIOMotorClient if driver == "motor" else AsyncMongoClient
    bare: Any = kind(uri, **DEADLINES)
    plain = bare.get_database("cost", write_concern=WriteConcern("majority", wtimeout=15_000))
    reading = plain.with_options(read_preference=SecondaryPreferred()).posts
    async with MongoClients(uri, database="cost", driver=driver, min_pool_size=1) as mongo, mongo.consistent():
        await mongo.write.posts.delete_many({})
        await mongo.write.posts.insert_one({"_id": 1})
        ours_reading, ours_writing = mongo.read.posts, mongo.write.posts

        rows: dict[str, tuple[list[float], list[float]]] = {}
        for name, theirs, ours in (
            ("find, with a position", lambda: reading.find_one({"_id": 1}), lambda: ours_reading.find_one({"_id": 1})),
            (
                "find by the primary",
                lambda: plain.posts.find_one({"_id": 1}),
                lambda: ours_writing.find_one({"_id": 1}),
            ),
            (
                "update, majority",
                lambda: plain.posts.update_one({"_id": 1}, {"$inc": {"n": 1}}),
                lambda: ours_writing.update_one({"_id": 1}, {"$inc": {"n": 1}}),
            ),
        ):
            one, other = rows.setdefault(name, ([], []))
            for number in range(ROUNDS):  # in short turns, either first, so that both meet the same weather
                if number % 2:
                    one.append(await cost(theirs))
                    other.append(await cost(ours))
                else:
                    other.append(await cost(ours))
                    one.append(await cost(theirs))
    closing = bare.close()
    if closing is not None:
        await closing
    machine = await measure()
    print(f"\n{machine}")
    print(f"cost of a command, {driver}: CPU µs, medians of {ROUNDS} turns compared in pairs (≤ 10 % or 30 µs more)")
    for name, (one, other) in rows.items():
        base = statistics.median(one)
        more = statistics.median(ours - theirs for theirs, ours in zip(one, other, strict=True))
        times = statistics.median(ours / theirs for theirs, ours in zip(one, other, strict=True))
        print(
            f"  {mark(times <= 1.1 or more <= 30)} {name:<22} bare {base:6.0f}  ours {more:+5.0f} µs × {times:.2f} "
            f" ({machine.verdict(more, 30)})"
        )


async def pairs(server: LocalMongo, driver: Driver) -> None:
    """Write at one process, read at the other."""
    print(f"\n{PAIRS:,} × write, then read at another process, {driver} (0 stale, ≥ 60 % by secondaries)")
    primary = await primary_of(server)
    for consistent, name in ((False, "secondaryPreferred"), (True, "MongoClients")):
        async with two_instances(
            server.uri, f"pairs_{driver}_{consistent}", driver=driver, consistent=consistent
        ) as two:
            await two.pairs(100, primary=primary)
            await report(two, PAIRS, primary, f"{name}, no lag", consistent)
            async with lag_by_turns(server, 1.0):
                await report(two, max(100, PAIRS // 5), primary, f"{name}, 1 s of lag by turns", consistent)


async def report(two: Instances, count: int, primary: str, name: str, ours: bool) -> None:
    outcome = await two.pairs(count, primary=primary)
    share = outcome.by_secondary / outcome.pairs
    lagging = "lag by" in name
    met = outcome.stale == 0 and (share >= 0.6 if not lagging else outcome.p95 < 1000)
    print(
        f"  {mark(met) if ours else ' '} {name:<38} {count:>6} pairs  {outcome.stale:>4} stale  "
        f"{share:>4.0%} by secondaries  p50 {outcome.p50:6.1f}  p95 {outcome.p95:6.1f} ms",
        flush=True,
    )


async def killed(server: LocalMongo) -> None:
    """SIGKILL of the primary while two tasks write and one reads."""
    async with MongoClients(server.uri, database="killed", driver="pymongo", min_pool_size=2) as mongo:
        acknowledged: list[int] = []
        write_gaps, read_gaps, errors = [0.0], [0.0], 0
        stop = False

        async def write(first: int) -> None:
            nonlocal errors
            last = time.monotonic()
            number = first
            while not stop:
                try:
                    await mongo.write.posts.insert_one({"_id": number})
                    acknowledged.append(number)
                except Exception:
                    errors += 1
                number += 2
                write_gaps.append(time.monotonic() - last)
                last = time.monotonic()

        async def read() -> None:
            # Of no caller in particular: one that has just written waits for the write's node, as it must.
            async with mongo.consistent():
                last = time.monotonic()
                while not stop:
                    await mongo.read.posts.find_one({"_id": 0})
                    read_gaps.append(time.monotonic() - last)
                    last = time.monotonic()

        reader = asyncio.create_task(read())
        await asyncio.sleep(0.1)
        tasks = [asyncio.create_task(write(0)), asyncio.create_task(write(1)), reader]
        await asyncio.sleep(1)
        victim = await server.primary()
        await server.kill(victim)
        await asyncio.sleep(8)
        stop = True
        await asyncio.gather(*tasks)
        await server.heal()
        kept = {post["_id"] async for post in mongo.write.posts.find({})}
    lost = len(set(acknowledged) - kept)
    print("\nthe primary killed under load (none lost, reads never pause > 0.5 s, no errors)")
    print(f"  {mark(lost == 0)} acknowledged {len(acknowledged)}, lost {lost}")
    print(f"  {mark(max(read_gaps) <= 0.5)} longest pause of reads {max(read_gaps):.2f} s")
    print(f"  {mark(errors == 0)} writes failed {errors}, longest wait {max(write_gaps):.2f} s")


async def pool(uri: str, driver: Driver) -> None:
    """200 at once on 50 connections."""
    async with MongoClients(uri, database="pool", driver=driver, min_pool_size=0) as mongo:
        await mongo.write.posts.delete_many({})
        await mongo.write.posts.insert_one({"_id": 1})
        waits: list[float] = []

        async def one() -> None:
            started = time.monotonic()
            await mongo.write.posts.find_one({"$where": "sleep(20) || true"})
            waits.append(time.monotonic() - started)

        started = time.monotonic()
        outcomes = await asyncio.gather(*(one() for _ in range(200)), return_exceptions=True)
        taken = time.monotonic() - started
    failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    clear = all(isinstance(error, WaitQueueTimeoutError) for error in failed)
    print(f"\n200 requests at once on 50 connections, {driver} (all served, or a clear error)")
    print(
        f"  {mark(clear)} served {len(waits)}, timed out {len(failed)}; first {min(waits):.2f} s, median "
        f"{statistics.median(waits):.2f} s, last {max(waits):.2f} s of {taken:.2f} s"
    )
