"""The whole Smriti service under load: one worker, 16 connections of as many people, a replica set of three, Redis.

Each row is measured with the primitives on, and with `PRIMITIVES=off`. Both, and the bare route, run on uvicorn with
uvloop and httptools.

`SMRITI_BENCH_POSTS` sets another number of posts, `SMRITI_BENCH_SECONDS` how long each row is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

from httpx import AsyncClient, HTTPError
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from examples.smriti.auth.tokens import Tokens
from examples.smriti.indexes import INDEXES
from examples.smriti.seed import seed
from examples.smriti.settings import SmritiSettings
from smriti_scale.local import LocalMongo, LocalRedis
from smriti_scale.mongo import MongoClients
from tests.examples.smriti.serving import free_port, served

POSTS = int(os.environ.get("SMRITI_BENCH_POSTS", "100000"))
SECONDS = float(os.environ.get("SMRITI_BENCH_SECONDS", "5"))
USERS, CIRCLES, CONNECTIONS = 500, 200, 16
SLOWEST_P95 = 200.0
DEPTH = min(50_000, POSTS // 2)

# What a plain FastAPI + Motor backend of this shape reached on two shared cores, where the bare route reached 5,500;
# and how many times that is asked. A busy machine slows down all rows alike: each is judged by its part of the floor.
PLAIN_FLOOR = 5_500
PLAIN: dict[str, tuple[float, float]] = {
    "feed, first page": (320, 8),
    "feed, deep, by cursor": (10, 50),
    "feed, deep, by skip": (10, 5),
    "own posts": (326, 5),
    "profile": (659, 5),
    "circle feed": (266, 5),
    "circle list": (404, 5),
}
Requests = list[dict[str, str]]
console = Console(width=max(160, Console().width))


async def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as files:
        async with LocalMongo(replicas=3, use_environment=False) as server, LocalRedis() as redis:
            settings = SmritiSettings(
                _env_file=None,
                environment="test",
                mongodb_uri=server.uri,
                database_name="bench",
                redis_url=redis.uri,
                storage_folder=files,
                user_limit="100000000/minute",
            )
            people, circles = await _seeded(settings)
            secret = settings.secret_key.get_secret_value()
            tokens = [Tokens(secret).issue(person) for person in people]
            async with _bare() as base:
                floor = await _measured(base, [{"path": "/me", "token": token} for token in tokens])
            rows = {"bare FastAPI route with a JWT check": floor}
            without: dict[str, dict[str, float]] = {}
            for found, primitives in ((rows, "on"), (without, "off")):
                async with served(settings.model_copy(update={"primitives": primitives})) as base:
                    for name, requests in (await _rows(base, people, circles, tokens)).items():
                        found[name] = await _measured(base, requests)
    console.print(_table(rows, without, floor["rate"]))


async def _seeded(settings: SmritiSettings) -> tuple[list[str], list[str]]:
    """Fill the database; returns people who are in circles, and a circle of each."""
    async with MongoClients(settings.mongodb_uri, database=settings.database_name) as mongo:
        await (await INDEXES.plan(mongo.write)).apply()
        with Progress(console=console, transient=True) as progress:
            bar = progress.add_task(f"{POSTS:,} posts", total=POSTS)
            async for written in seed(mongo.write, posts=POSTS, users=USERS, circles=CIRCLES):
                progress.update(bar, completed=written)
        found = await mongo.write.circles.find({}, {"members": 1}).sort("_id", 1).to_list(CONNECTIONS)
    return [circle["members"][0]["user_id"] for circle in found], [str(circle["_id"]) for circle in found]


async def _rows(base: str, people: list[str], circles: list[str], tokens: list[str]) -> dict[str, Requests]:
    cursors = []
    async with AsyncClient(base_url=base, timeout=60) as client:
        for token in tokens:
            answer = await client.get(
                "/api/posts",
                params={"skip": DEPTH - 20, "limit": 20},
                headers={"Authorization": f"Bearer {token}"},
            )
            cursors.append(answer.json()["data"]["next_cursor"])

    def each(*paths: str) -> Requests:
        return [{"path": paths[n % len(paths)], "token": token} for n, token in enumerate(tokens)]

    return {
        "feed, first page": each("/api/posts?limit=20"),
        "feed, deep, by cursor": each(*(f"/api/posts?limit=20&cursor={cursor}" for cursor in cursors)),
        "feed, deep, by skip": each(f"/api/posts?limit=20&skip={DEPTH}"),
        "own posts": each("/api/posts/me"),
        "search": each("/api/posts/search?q=mango+river"),
        "profile": each(*(f"/api/users/{person}" for person in reversed(people))),
        "circle feed": each(*(f"/api/circles/{circle}/posts" for circle in circles)),
        "circle list": each("/api/circles"),
    }


async def _measured(base: str, requests: Requests) -> dict[str, float]:
    where = urlsplit(base)
    job: dict[str, Any] = {"host": where.hostname, "port": where.port, "requests": requests}
    for seconds in (1.0, SECONDS):  # the first warms up
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.benchmarks._load"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate(json.dumps({**job, "seconds": seconds}).encode())
    found: dict[str, float] = json.loads(out)
    return found


@contextlib.asynccontextmanager
async def _bare() -> AsyncIterator[str]:
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "tests.benchmarks._bare:app", "--no-access-log"),
        *("--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"),
    )
    try:
        async with AsyncClient(base_url=base) as client:
            for _ in range(300):
                with contextlib.suppress(HTTPError):
                    if (await client.get("/readyz")).is_success:
                        break
                await asyncio.sleep(0.1)
        yield base
    finally:
        process.terminate()
        await process.wait()


def _table(rows: dict[str, dict[str, float]], without: dict[str, dict[str, float]], floor: float) -> Table:
    title = f"{POSTS:,} posts, {USERS} people, {CIRCLES} circles; {CONNECTIONS} connections, one worker"
    table = Table(title=f"{title}; depth {DEPTH:,}", caption="off: PRIMITIVES=off, the same service without them")
    numbers = ("req/s", "p50 ms", "p95 ms", "p99 ms", "of floor", "asked", "× plain", "asked")
    for column in ("", *numbers, "", "off: req/s", "p50 ms", "p99 ms", "on/off"):
        table.add_column(column, justify="left" if column == "" else "right")
    for name, row in rows.items():
        plain, asked = PLAIN.get(name, (0.0, 0.0))
        part, wanted = row["rate"] / floor, plain * asked / PLAIN_FLOOR
        met = part >= wanted and row["p95"] < SLOWEST_P95 and not row["refused"]
        off = without.get(name)
        table.add_row(
            name,
            *(f"{row['rate']:,.0f}", *(f"{row[which]:.1f}" for which in ("p50", "p95", "p99"))),
            f"{part:.2f}",
            *((f"{wanted:.2f}", f"{row['rate'] / plain:.1f}", f"{asked:.0f}") if plain else ("", "", "")),
            "✓" if met else "✗",
            *((f"{off['rate']:,.0f}", f"{off['p50']:.1f}", f"{off['p99']:.1f}") if off else ("", "", "")),
            f"{row['rate'] / off['rate']:.1f}" if off else "",
        )
    return table
