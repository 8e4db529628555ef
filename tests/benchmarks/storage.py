"""Storage: memory and time for 200 MB, beside reading the whole file first, as is usual."""

from __future__ import annotations

import asyncio
import multiprocessing
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from smriti_scale.storage import LocalStore, ObjectStore, S3Store

SIZE = 200 * 1024 * 1024
MEMORY_BUDGET = {"local": 32.0, "s3": 96.0}
"""MB beyond an idle process: pieces of 256 KB on disk; parts of 8 MB, two under way, over HTTP."""


async def stream() -> AsyncIterator[bytes]:
    piece = bytes(64 * 1024)
    for _ in range(SIZE // len(piece)):
        yield piece


async def pass_through(store: ObjectStore) -> None:
    await store.put("big", stream(), max_size=SIZE)
    size = 0
    async for piece in store.get("big"):
        size += len(piece)
    assert size == SIZE
    await store.aclose()


def memory(field: str) -> float:
    """`VmRSS` (now) or `VmHWM` (the most so far) of this process, in MB. Linux."""
    status = Path("/proc/self/status").read_text()
    return float(status.partition(f"{field}:")[2].split()[0]) / 1024


def reset_peak() -> float:
    """Forget the peak, which a new process has from its parent; returns what is used now."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def measure(kind: str, place: str, results: multiprocessing.Queue[tuple[float, float]]) -> None:
    async def run() -> None:
        if kind == "s3":
            store: ObjectStore = S3Store("bench", endpoint=place, access_key="a", secret_key="b")
        else:
            store = LocalStore(place)
        before = reset_peak()
        began = time.perf_counter()
        if kind == "whole":
            data = b"".join([piece async for piece in stream()])
            target = Path(place) / "whole"
            await asyncio.to_thread(target.write_bytes, data)
            assert len(await asyncio.to_thread(target.read_bytes)) == SIZE
        else:
            await pass_through(store)
        took = time.perf_counter() - began
        grown = memory("VmHWM") - before
        results.put((grown, took))

    asyncio.run(run())


def main() -> None:
    from moto.server import ThreadedMotoServer

    table = Table("200 MB in and out", "memory MB", "seconds", "", title="Storage")
    context = multiprocessing.get_context("spawn")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    import httpx

    httpx.put(f"{endpoint}/bench").raise_for_status()
    with tempfile.TemporaryDirectory() as folder:
        for kind, place in (("whole", folder), ("local", folder), ("s3", endpoint)):
            results: multiprocessing.Queue[tuple[float, float]] = context.Queue()
            process = context.Process(target=measure, args=(kind, place, results))
            process.start()
            grown, took = results.get(timeout=300)
            process.join()
            budget = MEMORY_BUDGET.get(kind)
            mark = "" if budget is None else ("✓" if grown <= budget else f"✗ > {budget:g}")
            name = {"whole": "whole file in memory", "local": "LocalStore", "s3": "S3Store (moto)"}[kind]
            table.add_row(name, f"{grown:.0f}", f"{took:.1f}", mark)
    server.stop()
    Console().print(table)
