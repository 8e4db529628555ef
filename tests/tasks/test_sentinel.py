"""The broker behind a real Sentinel, through a failover."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from smriti_scale.errors import TaskError
from smriti_scale.local.binaries import find_redis_server
from smriti_scale.local.ports import free_ports
from smriti_scale.tasks import make_celery, publish
from tests.tasks.test_transport import Taker

pytestmark = pytest.mark.long


@dataclass
class Watched:
    """A primary, its replica, and the sentinel that watches them."""

    url: str
    primary: subprocess.Popen[bytes]
    replica_port: int


def await_that(holds: object, what: str) -> None:
    assert callable(holds)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if holds():
                return
        except redis.RedisError:
            pass
        time.sleep(0.1)
    pytest.fail(f"waited in vain for {what}")


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    binary = str(find_redis_server(None))
    primary_port, replica_port, sentinel_port = free_ports(3)
    configuration = tmp_path / "sentinel.conf"
    configuration.write_text(
        f"port {sentinel_port}\nbind 127.0.0.1\ndir {tmp_path}\n"
        f"sentinel monitor main 127.0.0.1 {primary_port} 1\n"
        "sentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 5000\n"
    )
    common = ["--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    commands = [
        [binary, "--port", str(primary_port), *common],
        [binary, "--port", str(replica_port), *common, "--replicaof", "127.0.0.1", str(primary_port)],
        [binary, str(configuration), "--sentinel"],
    ]
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]
    sentinel = redis.Redis(port=sentinel_port)
    replica = redis.Redis(port=replica_port)
    await_that(lambda: replica.info("replication")["master_link_status"] == "up", "the replica")
    await_that(lambda: len(sentinel.sentinel_slaves("main")) == 1, "the sentinel")
    yield Watched(f"redis+sentinel://127.0.0.1:{sentinel_port}/main/0", processes[0], replica_port)
    sentinel.close()
    replica.close()
    for process in processes:
        process.kill()
        process.wait()


async def test_tasks_follow_the_primary_through_a_failover(watched: Watched) -> None:
    app = make_celery("tests.sentinel", watched.url, queues=("default", "other"))

    @app.task(name="job")
    def job(value: int) -> None: ...

    await publish(job, 1)
    taker = Taker(app)
    message = await asyncio.to_thread(taker.take)
    assert message.headers["argsrepr"] == "(1,)"
    message.ack()
    taker.close()
    state = await app.queue_monitor.measure()
    assert sum(queue.depth for queue in state.queues) == 0

    watched.primary.kill()
    watched.primary.wait()
    for _ in range(600):
        try:
            await publish(job, 2)
        except (TaskError, TimeoutError):
            await asyncio.sleep(0.1)
        else:
            break
    else:
        pytest.fail("publishing did not follow the failover")
    taker = Taker(app)
    message = await asyncio.to_thread(taker.take)
    assert message.headers["argsrepr"] == "(2,)"
    message.ack()
    taker.close()
    await app.aclose()
