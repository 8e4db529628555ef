"""Runs 1,000 tasks and kills something midway: the worker tree, or Redis. For the tests and for the benchmark."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pymongo import AsyncMongoClient
from redis import Redis
from redis.exceptions import RedisError

from smriti_scale.local.binaries import find_redis_server
from smriti_scale.local.ports import free_ports

ROOT = Path(__file__).parents[2]
SCRIPT = Path(sys.executable).with_name("smriti-scale")
Flavour = Literal["ours", "plain"]
Victim = Literal["worker", "redis"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    Attributes:
        done: tasks with at least one effect.
        twice: tasks with more than one.
        parked: messages still among the unacknowledged ones.
        seconds: from the kill to the last effect.
        dead: dead letters.
    """

    done: int
    twice: int
    parked: int
    seconds: float
    dead: int


class AofRedis:
    """A Redis with its log on disk, to be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.port = free_ports(1)[0]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._command = [
            *(str(find_redis_server(None)), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder)),
            *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                with Redis.from_url(self.url) as client:
                    client.ping()
                return
            except RedisError:
                time.sleep(0.02)
        raise TimeoutError("redis did not start")

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()


async def run(
    flavour: Flavour,
    victim: Victim,
    *,
    redis: AofRedis,
    mongo_uri: str,
    database: str,
    folder: Path,
    tasks: int = 1000,
    kill_at: int = 300,
    patience: float = 60.0,
) -> Outcome:
    """One run; Redis must be up."""
    environment = {"TASKS_REDIS_URL": redis.url, "TASKS_MONGO_URI": mongo_uri, "TASKS_DATABASE": database}
    async with AsyncMongoClient[dict[str, Any]](mongo_uri) as client:
        effects = client[database].effects
        await client[database].create_collection("effects")
        await client[database].create_collection("once")
        await _publish(flavour, tasks, environment)
        worker = _start_worker(flavour, environment, folder / "worker.log")
        try:
            while await effects.estimated_document_count() < kill_at:
                assert worker.poll() is None, (folder / "worker.log").read_text()
                await asyncio.sleep(0.01)
            if victim == "worker":
                os.killpg(worker.pid, signal.SIGKILL)
                worker.wait()
                killed_at = time.monotonic()
                worker = _start_worker(flavour, environment, folder / "worker.log")
            else:
                redis.kill()
                killed_at = time.monotonic()
                redis.start()
            last, changed_at = -1, killed_at
            while time.monotonic() - changed_at < patience:
                done = len(await effects.distinct("number"))
                if done != last:
                    last, changed_at = done, time.monotonic()
                if done == tasks:
                    break
                await asyncio.sleep(0.05)
            finished_at = changed_at
            await asyncio.sleep(3.0)  # long enough for a second delivery to have its effect
            counted = Counter([document["number"] async for document in effects.find({})])
            with Redis.from_url(redis.url) as broker:
                parked = int(broker.zcard("unacked_index"))
                dead = int(broker.zcard("smriti_scale:dead:index"))
        finally:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
    return Outcome(
        done=len(counted),
        twice=sum(count > 1 for count in counted.values()),
        parked=parked,
        seconds=finished_at - killed_at,
        dead=dead,
    )


async def _publish(flavour: Flavour, tasks: int, environment: dict[str, str]) -> None:
    code = f"""
import asyncio
from tests.tasks import kill_app
from smriti_scale.tasks import Delivery, publish

async def ours():
    patient = Delivery(timeout=120)
    await asyncio.gather(*(publish(kill_app.effect, n, delivery=patient) for n in range({tasks})))
    await kill_app.app.aclose()

if {flavour == "ours"}:
    asyncio.run(ours())
else:
    for n in range({tasks}):
        kill_app.plain_effect.delay(n)
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, cwd=ROOT, env={**os.environ, **environment, "PYTHONPATH": str(ROOT)}
    )
    assert await process.wait() == 0


def _start_worker(flavour: Flavour, environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    if flavour == "ours":
        command = [str(SCRIPT), "tasks", "worker", "--app", "tests.tasks.kill_app:app", "--concurrency", "4"]
    else:
        command = [
            *(sys.executable, "-m", "celery", "-A", "tests.tasks.kill_app:plain"),
            *("worker", "-c", "4", "--loglevel", "warning"),
        ]
    with log.open("ab") as out:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
