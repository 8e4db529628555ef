"""A process of a service, for tests: `python -m tests.cache.worker URL NAMESPACE LEASE`, told what to do on stdin.

Each line is a JSON object: `{"callers": 125, "key": "k", "seconds": 0.1}` calls that often at once, with a factory that
takes so long; the answer is `{"calls": …, "results": […]}`. "loading" is printed when the factory is called.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from smriti_scale.cache import Cache


async def serve(url: str, namespace: str, lease: float) -> None:
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with Cache(url, namespace=namespace, lease=lease, timeout=5.0) as cache:
        say({"ready": cache.stats().channel == "live"})
        while line := await lines.readline():
            order = json.loads(line)
            calls = 0

            async def load(seconds: float = order["seconds"]) -> str:
                nonlocal calls
                calls += 1
                say({"loading": os.getpid()})
                await asyncio.sleep(seconds)
                return f"by {os.getpid()}"

            callers = [cache.get_or_set(order["key"], load, 600) for _ in range(order["callers"])]
            results = await asyncio.gather(*callers)
            say({"calls": calls, "results": sorted(set(results))})


def say(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2], float(sys.argv[3])))
