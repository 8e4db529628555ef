"""Programs that hold servers, run apart so that tests can end them the hard way, and looks at what they leave."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from smriti_scale.local._guardian import identity

HOLDER = """
import asyncio, json, os, signal, sys, time
from smriti_scale.local import LocalMongo, LocalRedis

# As in a terminal: what runs in the background, or under nohup, inherits these ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

def tell(server, pids, then):
    forked = os.fork() if then == "fork" else None
    if forked == 0:
        os.close(1)  # or whoever reads our output would wait for this one too
        time.sleep(600)
    records = [json.loads(path.read_text()) for path in server.data_dir.glob("*.pid.json")]
    guardians = [record["guardian"]["pid"] for record in records]
    told = {"folder": str(server.data_dir), "servers": pids, "guardians": guardians, "forked": forked}
    print(json.dumps(told), flush=True)

async def main(kind, folder, then):
    data_dir = folder or None
    if kind == "mongo":
        async with LocalMongo(data_dir=data_dir, use_environment=False) as server:
            tell(server, [member.pid for member in server.members], then)
            await hold(then)
    else:
        async with LocalRedis(data_dir=data_dir, use_environment=False) as server:
            tell(server, [server.pid], then)
            await hold(then)

async def hold(then):
    if then == "raise":
        raise RuntimeError("on purpose")
    if then == "exit":
        sys.exit(3)
    if then == "vanish":
        os._exit(4)
    if then != "return":
        await asyncio.sleep(600)

asyncio.run(main(*sys.argv[1:]))
"""


@dataclass(frozen=True, slots=True)
class Holder:
    """A running program and the processes it has started."""

    process: asyncio.subprocess.Process
    folder: Path
    servers: list[int]
    guardians: list[int]
    forked: int | None


@asynccontextmanager
async def holder(kind: str, *, folder: Path | None = None, then: str = "sleep") -> AsyncIterator[Holder]:
    """Runs a program that holds one server, and ends it at the latest with the context."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HOLDER, kind, str(folder or ""), then),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        told = json.loads(await asyncio.wait_for(process.stdout.readline(), 60))
        yield Holder(process, Path(told["folder"]), told["servers"], told["guardians"], told["forked"])
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def all_gone(pids: list[int], *, seconds: float = 20.0) -> bool:
    """Whether these processes end within the time."""
    deadline = time.monotonic() + seconds
    while any(identity(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.05)
    return True
