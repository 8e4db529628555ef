"""A latency probe in a process of its own: one kept-alive connection, a request every 2 ms.

`python -m tests.benchmarks._latency PORT PATH SECONDS` prints the latencies in milliseconds, as JSON. A process of its
own, so that whoever makes load meanwhile is not what is measured.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time


async def latencies(port: int, path: str, seconds: float) -> list[float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    taken = []
    gc.disable()
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        writer.write(request)
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(2)
        taken.append((time.perf_counter() - began) * 1e3)
        await asyncio.sleep(0.002)
    writer.close()
    return taken


if __name__ == "__main__":
    print(json.dumps(asyncio.run(latencies(int(sys.argv[1]), sys.argv[2], float(sys.argv[3])))))
