"""`smriti-scale dev`: a MongoDB replica set and a Redis for as long as a terminal wants them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from smriti_scale.errors import ConfigurationError
from smriti_scale.local import LocalMongo, LocalRedis

_LOOK = 1.0
"""Seconds between looks at whether the servers still run."""


def command(
    replicas: Annotated[int, typer.Option(help="Nodes of the MongoDB replica set: 1 or 3.")] = 1,
    data_dir: Annotated[Path, typer.Option(help="Where the data is kept from run to run.")] = Path(".smriti"),
    mongo_port: Annotated[int | None, typer.Option(help="Port of the first mongod; else the last run's.")] = None,
    redis_port: Annotated[int | None, typer.Option(help="Port of Redis; else the last run's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object when ready.")] = False,
) -> None:
    """Run a MongoDB replica set and a Redis on this machine until Ctrl-C or SIGTERM."""
    for port in (mongo_port, redis_port):
        if port is not None and not 1 <= port <= 65_535:
            raise ConfigurationError(f"{port} is no port: give a number from 1 to 65535")
    mongo = LocalMongo(replicas, data_dir=data_dir / "mongo", port=mongo_port)
    redis = LocalRedis(data_dir=data_dir / "redis", port=redis_port)
    asyncio.run(_until_told(mongo, redis, data_dir, as_json=as_json))


async def _until_told(mongo: LocalMongo, redis: LocalRedis, data_dir: Path, *, as_json: bool) -> None:
    """Run both until a signal comes."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told.set)
    serving = asyncio.ensure_future(_serve(mongo, redis, data_dir, as_json=as_json))
    telling = asyncio.ensure_future(told.wait())
    await asyncio.wait([serving, telling], return_when=asyncio.FIRST_COMPLETED)
    telling.cancel()
    serving.cancel()  # once: a second Ctrl-C must not cut the orderly stop short
    with contextlib.suppress(asyncio.CancelledError):
        await serving


async def _serve(mongo: LocalMongo, redis: LocalRedis, data_dir: Path, *, as_json: bool) -> None:
    stderr = Console(stderr=True)
    columns = (SpinnerColumn(finished_text="✓"), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=stderr) as progress:
        starting = {name: progress.add_task(f"{name}: starting", total=1) for name in ("Redis", "MongoDB")}

        def done(name: str, owned: bool) -> None:
            words = "ready" if owned else "given by its URI, left as it is"
            progress.update(starting[name], description=f"{name}: {words}", completed=1)

        async with redis:
            done("Redis", redis.owned)
            async with mongo:
                done("MongoDB", mongo.owned)
                progress.stop()
                _keep_out_of_git(data_dir)
                _announce(mongo, redis, data_dir, as_json=as_json)
                if not as_json:
                    stderr.print(f"Data in {data_dir}; Ctrl-C stops both.", highlight=False)
                while True:
                    await asyncio.sleep(_LOOK)
                    mongo.check()
                    redis.check()


def _announce(mongo: LocalMongo, redis: LocalRedis, data_dir: Path, *, as_json: bool) -> None:
    """Say where the servers are: for a program, or as lines to paste into a shell."""
    if as_json:
        processes = {"mongod": [member.pid for member in mongo.members], "redis": redis.pid}
        ready = {
            "mongodb_uri": mongo.uri,
            "redis_url": redis.uri,
            "data_dir": str(data_dir.absolute()),
            "pids": processes,
        }
        print(json.dumps(ready), flush=True)
        return
    print(f"export MONGODB_URI={shlex.quote(mongo.uri)}\nexport REDIS_URL={shlex.quote(redis.uri)}", flush=True)


def _keep_out_of_git(data_dir: Path) -> None:
    if data_dir.is_dir() and not (ignore := data_dir / ".gitignore").exists():
        ignore.write_text("*\n")
