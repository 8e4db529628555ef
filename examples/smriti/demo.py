"""`make demo`: a three-node replica set, Redis and the service, toured over HTTP, then left running until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from httpx import AsyncClient, HTTPError
from motor.motor_asyncio import AsyncIOMotorClient
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from examples.smriti.indexes import INDEXES
from examples.smriti.seed import seed
from examples.smriti.tour import Tour
from smriti_scale.errors import LocalServerError, PortTaken, ScaleError
from smriti_scale.local import LocalMongo, LocalRedis
from smriti_scale.mongo import MongoClients

DATABASE = "smriti_demo"
POSTS = 2_000
HOST = "127.0.0.1"
WEB = [sys.executable, "-m", "uvicorn", "--factory", "examples.smriti.app:create_app"]
WEB += ["--log-level", "warning", "--no-access-log"]
WORKER = [
    *(sys.executable, "-m", "smriti_scale.cli", "tasks", "worker", "--app", "examples.smriti.worker:celery"),
    *("--concurrency", "1", "--log-level", "error", "--beat"),
]

console = Console()


async def demo(*, port: int, once: bool, data_dir: Path) -> bool:
    """Start everything, tour it, and keep serving unless `once`.

    Returns:
        Whether every step of the tour did what it should.
    """
    require_free(port)
    async with contextlib.AsyncExitStack() as stack:
        with progress() as bars:
            starting = bars.add_task("a replica set of three nodes, and Redis", total=2)
            # Redis starts empty each time: limits counted in the last run must not refuse this one's visitors.
            redis = await stack.enter_async_context(LocalRedis())
            bars.advance(starting)
            mongo = await stack.enter_async_context(LocalMongo(replicas=3, data_dir=data_dir / "mongo"))
            bars.advance(starting)
            await prepare(mongo.uri, bars)
            settings = {
                "MONGODB_URI": mongo.uri,
                "REDIS_URL": redis.uri,
                "DATABASE_NAME": DATABASE,
                "STORAGE_FOLDER": str(data_dir / "files"),
                "PUBLIC_URL": f"http://{HOST}:{port}",
                "CRON_SECRET": secrets.token_urlsafe(16),
                "SCALE_RATE_LIMIT_TIMEOUT": "1",  # a laptop that starts five servers at once may be slow for a moment
            }
            serving = bars.add_task("the service, and a worker", total=2)
            log = stack.enter_context((data_dir / "worker.log").open("ab"))
            await stack.enter_async_context(running(WORKER, settings, output=log))
            bars.advance(serving)
            web = await stack.enter_async_context(running([*WEB, "--host", HOST, "--port", str(port)], settings))
            await ready(port, web)
            bars.advance(serving)
        base = f"http://{HOST}:{port}"
        went_well = await tour(base, mongo, cron_secret=settings["CRON_SECRET"])
        if once or not went_well:
            return went_well
        console.print(f"\nServing on [bold]{base}[/] until Ctrl-C")
        console.print(f"  web client  {base}/")
        console.print(f"  API docs    {base}/docs")
        console.print(f"  dashboard   {base}/_scale")
        console.print(f"  figures     {base}/metrics")
        console.print(f"  health      {base}/readyz")
        console.print(f"  MongoDB     {mongo.uri}")
        console.print(f"  Redis       {redis.uri}")
        await asyncio.Event().wait()
    return True


async def prepare(mongo_uri: str, bars: Progress) -> None:
    """Apply the indexes, and seed the posts that are not there yet."""
    async with MongoClients(mongo_uri, database=DATABASE, min_pool_size=0) as mongo:
        indexing = bars.add_task("indexes", total=1)
        await (await INDEXES.plan(mongo.write)).apply()
        bars.advance(indexing)
        present = await mongo.write.posts.estimated_document_count()
        seeding = bars.add_task(f"{POSTS:,} posts", total=POSTS, completed=min(present, POSTS))
        if present < POSTS:
            async for written in seed(mongo.write, posts=POSTS):
                bars.update(seeding, completed=written)


@contextlib.asynccontextmanager
async def running(
    command: list[str], settings: dict[str, str], *, output: IO[bytes] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process of the service, stopped as a deployment would stop it: SIGTERM, and time to finish."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=output,
        stderr=output,
        env={**os.environ, **settings},
        start_new_session=True,  # Ctrl-C reaches us alone; we stop it in order
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), timeout=10)
            except TimeoutError:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()


async def ready(port: int, web: asyncio.subprocess.Process) -> None:
    """Wait until the service answers.

    Raises:
        ScaleError: it did not come up.
    """
    async with AsyncClient(base_url=f"http://{HOST}:{port}") as client:
        for _ in range(300):
            if web.returncode is not None:
                raise ScaleError(f"the service ended at once, with exit code {web.returncode}: see above")
            with contextlib.suppress(HTTPError):
                if (await client.get("/readyz")).status_code == 200:
                    return
            await asyncio.sleep(0.1)
    raise ScaleError("the service was not ready within 30 s")


async def tour(base: str, mongo: LocalMongo, *, cron_secret: str) -> bool:
    """Walk the tour and print it as a table."""
    table = Table(title="A tour over HTTP", title_justify="left")
    table.add_column("step")
    table.add_column("result")
    table.add_column("ms", justify="right")
    went_well = True
    async with AsyncClient(base_url=base, timeout=30) as client:
        walk = Tour(
            client,
            cron_secret=cron_secret,
            secondary_reads=lambda: secondary_reads(mongo),
            hurry=lambda: make_quotes_due(mongo),
        )
        async for step in walk.steps():
            went_well = step.ok
            mark = "[green]✓[/]" if step.ok else "[red]✗[/]"
            table.add_row(f"{mark} {step.title}", step.result, f"{step.ms:,.1f}")
    console.print(table)
    return went_well


async def secondary_reads(mongo: LocalMongo) -> int:
    """How many queries on the posts the secondaries have served, by their own count (`top`)."""
    reads = 0
    for member in await mongo.secondaries():
        client: AsyncIOMotorClient[dict[str, object]] = AsyncIOMotorClient(member.uri)
        try:
            totals = (await client.admin.command("top"))["totals"]
        finally:
            client.close()
        served = totals.get(f"{DATABASE}.posts", {})
        reads += sum(served.get(kind, {}).get("count", 0) for kind in ("queries", "commands"))
    return reads


async def make_quotes_due(mongo: LocalMongo) -> None:
    """The moment of each person's quote is drawn for some time of their day: a tour cannot wait for it."""
    async with MongoClients(mongo.uri, database=DATABASE, min_pool_size=0) as clients:
        now = {"$set": {"scheduled_push_time_utc": datetime.now(UTC)}}
        await clients.write.user_daily_quotes.update_many({"push_sent": False}, now)


def progress() -> Progress:
    return Progress(
        SpinnerColumn(finished_text="[green]✓[/]"),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


def require_free(port: int) -> None:
    """Better told now than after a minute of starting servers.

    Raises:
        PortTaken: something listens there.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as taken:
            raise PortTaken(f"port {port} is in use: choose another with PORT={port + 1} make demo") from taken


async def run(arguments: argparse.Namespace) -> int:
    """The demo as a task that SIGTERM and SIGINT cancel, so that everything is stopped in order."""
    work = asyncio.create_task(demo(port=arguments.port, once=arguments.once, data_dir=arguments.data_dir))
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_number, work.cancel)
    try:
        return 0 if await work else 1
    except asyncio.CancelledError:
        console.print("\nStopped.")
        return 0 if not arguments.once else 130
    except (LocalServerError, ScaleError) as error:
        console.print(f"[red]{error}[/]")
        return 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--once", action="store_true", help="exit after the tour; non-zero if a step fails")
    parser.add_argument("--data-dir", type=Path, default=Path(".smriti"))
    sys.exit(asyncio.run(run(parser.parse_args())))
