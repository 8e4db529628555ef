"""A real worker tree for the tests of this room, started once for each pytest process."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio

ROOT = Path(__file__).parents[2]
SCRIPT = Path(sys.executable).with_name("smriti-scale")


@dataclass
class Worker:
    """A worker's process group and its log."""

    process: subprocess.Popen[bytes]
    log: Path

    def kill_tree(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> int:
        """Warm shutdown; what does not end is killed."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill_tree()
            return -9


def start_worker(
    url: str,
    prefix: str,
    *,
    app: str = "tests.tasks.worker_app",
    concurrency: int = 2,
    environment: dict[str, str] | None = None,
) -> Worker:
    log = Path(tempfile.mkdtemp(prefix="tasks-")) / "worker.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [SCRIPT, "tasks", "worker", "--app", app, "--concurrency", str(concurrency)],
            cwd=ROOT,
            env={**os.environ, "TASKS_REDIS_URL": url, "TASKS_PREFIX": prefix, **(environment or {})},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Worker(process, log)


def await_ready(worker: Worker, *, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while b" ready." not in worker.log.read_bytes():
        if worker.process.poll() is not None or time.monotonic() > deadline:
            worker.stop()
            pytest.fail(f"the worker did not start:\n{worker.log.read_text()}")
        time.sleep(0.05)


def load_app(url: str, prefix: str, *, name: str = "worker_app") -> Any:
    """The module of tasks as a web process has it, with this broker; not the one another test imported."""
    os.environ["TASKS_REDIS_URL"], os.environ["TASKS_PREFIX"] = url, prefix
    try:
        spec = importlib.util.spec_from_file_location(f"tests.tasks.{name}", Path(__file__).with_name(f"{name}.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        del os.environ["TASKS_REDIS_URL"], os.environ["TASKS_PREFIX"]
    return module


@pytest.fixture(scope="session")
def worker_prefix(redis_url: str) -> Iterator[str]:
    prefix = f"test:{secrets.token_hex(8)}:"
    yield prefix
    with redis.Redis.from_url(redis_url) as client:
        for key in client.scan_iter(match=f"{prefix}*", count=1000):
            client.unlink(key)


@pytest.fixture(scope="session")
def worker(redis_url: str, worker_prefix: str) -> Iterator[Worker]:
    """A worker of `worker_app` on the shared Redis, under a prefix of its own."""
    started = start_worker(redis_url, worker_prefix)
    await_ready(started)
    yield started
    started.stop()


@pytest.fixture
async def tasks(worker: Worker, redis_url: str, worker_prefix: str) -> AsyncIterator[Any]:
    """The module `worker_app` as the web process sees it, with a worker running."""
    module = load_app(redis_url, worker_prefix)
    yield module
    await module.app.aclose()


Notes = Callable[..., Any]


@pytest.fixture
def notes(redis_client: redis.asyncio.Redis, worker_prefix: str) -> Notes:
    """`await notes(key, count)`: what the tasks noted under `key`, once there are `count` entries."""

    async def read(key: str, count: int, *, seconds: float = 30.0) -> list[str]:
        deadline = time.monotonic() + seconds
        while True:
            found = await redis_client.lrange(f"{worker_prefix}{key}", 0, -1)
            if len(found) >= count or time.monotonic() > deadline:
                return [bytes(entry).decode() for entry in found]  # type: ignore[arg-type]
            await asyncio.sleep(0.02)

    return read


@pytest.fixture
def key() -> str:
    return f"notes:{secrets.token_hex(6)}"
