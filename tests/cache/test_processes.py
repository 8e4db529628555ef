"""Several real processes: one factory call among all, and a leader that is killed."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio


class Worker:
    """A process of the service, see `tests/cache/worker.py`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def said(self, name: str) -> Any:
        """The next thing of this name that it says."""
        assert self.process.stdout is not None
        while line := await asyncio.wait_for(self.process.stdout.readline(), 60):
            message = json.loads(line)
            if name in message:
                return message
        raise AssertionError(f"the worker ended without saying {name!r}")

    def tell(self, *, key: str, callers: int, seconds: float) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"key": key, "callers": callers, "seconds": seconds}).encode() + b"\n")


MakeWorkers = Callable[..., Awaitable[list[Worker]]]


@pytest_asyncio.fixture
async def workers(redis_url: str, redis_prefix: str) -> AsyncIterator[MakeWorkers]:
    """Starts processes that share a namespace."""
    started: list[asyncio.subprocess.Process] = []

    async def start(count: int, *, lease: float = 5.0) -> list[Worker]:
        command = (sys.executable, "-m", "tests.cache.worker", redis_url, redis_prefix, str(lease))
        for _ in range(count):
            pipe = asyncio.subprocess.PIPE
            started.append(await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe))
        made = [Worker(process) for process in started[-count:]]
        for worker in made:
            assert (await worker.said("ready"))["ready"]
        return made

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.long
async def test_four_processes_with_125_cold_callers_each_make_one_call(workers: MakeWorkers) -> None:
    fleet = await workers(4)
    for round_ in range(5):
        for worker in fleet:
            worker.tell(key=f"k{round_}", callers=125, seconds=0.2)
        answers = [await worker.said("calls") for worker in fleet]
        assert sum(answer["calls"] for answer in answers) == 1
        assert len({tuple(answer["results"]) for answer in answers}) == 1


@pytest.mark.long
async def test_a_killed_leader_delays_others_by_its_lease_not_the_ttl(workers: MakeWorkers) -> None:
    leader, follower = await workers(2, lease=2.0)
    leader.tell(key="k", callers=1, seconds=600)
    await leader.said("loading")
    follower.tell(key="k", callers=50, seconds=0.01)
    await asyncio.sleep(3)  # longer than the lease: the leader renews it, so nobody else may load
    leader.process.kill()
    killed = time.monotonic()
    answer = await follower.said("calls")
    assert answer == {"calls": 1, "results": [f"by {follower.process.pid}"]}
    # The lease is 2 s and the ttl 600 s; between them lies any machine that is merely busy.
    assert time.monotonic() - killed < 60
