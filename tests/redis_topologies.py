"""Redis with Sentinel, and Redis Cluster, on loopback: servers of one test's own."""

from __future__ import annotations

import asyncio
import random
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis.asyncio
from redis.exceptions import RedisError

from smriti_scale.local.binaries import find_redis_server
from smriti_scale.local.ports import free_ports, is_free

SLOTS = 16384


@dataclass
class Servers:
    """Processes by port."""

    folder: Path
    running: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    async def start(self, port: int, *options: str, config: str | None = None) -> None:
        home = self.folder / str(port)
        home.mkdir()
        command = [str(find_redis_server())]
        if config is not None:
            (home / "redis.conf").write_text(config)
            command += [str(home / "redis.conf"), *options]
        else:
            command += ["--port", str(port), "--bind", "127.0.0.1", "--save", "", *options]
        with (home / "log").open("wb") as log:
            self.running[port] = subprocess.Popen(  # noqa: ASYNC220 - it is started, not waited for
                command, cwd=home, stdout=log, stderr=log
            )
        await eventually(lambda: ask(port, "PING"))

    def kill(self, port: int) -> None:
        process = self.running.pop(port)
        process.kill()
        process.wait()


async def ask(port: int, *command: str) -> Any:
    async with redis.asyncio.Redis(host="127.0.0.1", port=port, socket_timeout=5) as client:
        return await client.execute_command(*command)  # type: ignore[no-untyped-call]


async def eventually(question: Any, *, seconds: float = 40) -> Any:
    """The answer, once there is one that is not false."""
    async with asyncio.timeout(seconds):
        while True:
            with suppress(RedisError, OSError):
                if answer := await question():
                    return answer
            await asyncio.sleep(0.05)


@asynccontextmanager
async def servers(folder: Path) -> AsyncIterator[Servers]:
    made = Servers(folder)
    try:
        yield made
    finally:
        for port in list(made.running):
            made.kill(port)


async def start_sentinel(made: Servers) -> tuple[str, int]:
    """A primary, a replica and a sentinel; the URL and the primary's port."""
    primary, replica, sentinel = free_ports(3)
    await made.start(primary)
    await made.start(replica, "--replicaof", "127.0.0.1", str(primary))
    await made.start(
        sentinel,
        "--sentinel",
        config=(
            f"port {sentinel}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {primary} 1\n"
            "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n"
        ),
    )

    await eventually(lambda: ask(sentinel, "SENTINEL", "REPLICAS", "main"))

    async def replicates() -> bool:
        return "'master_link_status': 'up'" in str(await ask(replica, "INFO", "replication"))

    await eventually(replicates)
    return f"redis+sentinel://127.0.0.1:{sentinel}/main/0", primary


def cluster_ports(count: int) -> list[int]:
    """Free ports whose bus ports, by rule 10,000 above, are free too, and below those that connections draw from."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(20_000, 22_000)
        if port not in found and is_free(port) and is_free(port + 10_000):
            found.append(port)
    return found


async def start_cluster(made: Servers, nodes: int = 3) -> str:
    """Primaries that share the slots; the URL."""
    ports = cluster_ports(nodes)
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-require-full-coverage", "no")
    for port in ports:
        await made.start(port, *options)
    for number, port in enumerate(ports):
        first, last = number * SLOTS // nodes, (number + 1) * SLOTS // nodes - 1
        await ask(port, "CLUSTER", "ADDSLOTS", *map(str, range(first, last + 1)))
        await ask(port, "CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))

    async def agreed() -> bool:
        for port in ports[1:]:  # again: a handshake that is lost is forgotten by the nodes
            await ask(port, "CLUSTER", "MEET", "127.0.0.1", str(ports[0]))
        infos = [str(await ask(port, "CLUSTER", "INFO")) for port in ports]
        wanted = r"cluster_state\W+ok\b.*cluster_slots_assigned\W+16384\b"
        return all(re.search(wanted, info, re.DOTALL) for info in infos)

    await eventually(agreed)
    return "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in ports)
