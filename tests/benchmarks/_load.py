"""A load generator in a process of its own: raw keep-alive connections, each asking its own request over and over.

Reads `{"host", "port", "seconds", "requests": [{"path", "token"}]}` from standard input, one connection a request;
prints `{"rate", "p50", "p95", "p99", "refused"}`: requests a second, milliseconds, answers other than 200.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any


async def _connection(job: dict[str, Any], request: dict[str, str], until: float) -> tuple[list[float], int]:
    reader, writer = await asyncio.open_connection(job["host"], job["port"], limit=2**22)
    head = f"GET {request['path']} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {request['token']}\r\n\r\n".encode()
    times: list[float] = []
    refused = 0
    while (began := time.perf_counter()) < until:
        writer.write(head)
        answer = await reader.readuntil(b"\r\n\r\n")
        _, _, length = answer.lower().partition(b"content-length:")
        await reader.readexactly(int(length.partition(b"\r\n")[0]))
        times.append(time.perf_counter() - began)
        refused += not answer.startswith(b"HTTP/1.1 200")
    writer.close()
    return times, refused


async def main() -> None:
    job = json.load(sys.stdin)
    began = time.perf_counter()
    until = began + job["seconds"]
    done = await asyncio.gather(*(_connection(job, request, until) for request in job["requests"]))
    seconds = time.perf_counter() - began
    times = sorted(each for times, _ in done for each in times)

    def percentile(part: float) -> float:
        return 1000 * times[min(len(times) - 1, int(part * len(times)))]

    print(
        json.dumps(
            {
                "rate": len(times) / seconds,
                "p50": percentile(0.50),
                "p95": percentile(0.95),
                "p99": percentile(0.99),
                "refused": sum(refused for _, refused in done),
            }
        )
    )


if __name__ == "__main__":
    asyncio.run(main())
