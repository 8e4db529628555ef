"""The dashboard of a small service: `python examples/minimal/dashboard.py serve` and open http://localhost:8000/_scale.

Without `serve` it asks itself some questions and prints what the page would show.
"""

from __future__ import annotations

import asyncio
import sys

import httpx
import uvicorn
from fastapi import FastAPI, HTTPException

from smriti_scale.monitoring import Monitoring, loopback_only, setup_dashboard, setup_monitoring, snapshot

app = FastAPI()
monitoring = Monitoring()
setup_dashboard(app, monitoring, allow=loopback_only, title="Example")  # token=... where others can reach it
setup_monitoring(app, monitoring)


@app.get("/posts/{number}")
async def post(number: int) -> dict[str, int]:
    await asyncio.sleep(0.002 * number)
    return {"number": number}


@app.get("/broken")
async def broken() -> None:
    raise HTTPException(500)


async def main() -> None:
    transport = httpx.ASGITransport(app)
    async with monitoring, httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        await asyncio.gather(*(client.get(f"/posts/{number}") for number in range(40)))
        await client.get("/broken")
    picture = snapshot(monitoring)  # what the page draws, and /_scale/data.json serves
    print(f"{picture['traffic']['requests']:.0f} requests, {picture['traffic']['error_ratio']:.1%} of them errors")
    for row in picture["routes"]:
        print(f"{row['method']} {row['route']:16} {row['requests']:4.0f} × p95 {row['p95'] * 1000:.0f} ms")


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        uvicorn.run(app, port=8000)
    else:
        asyncio.run(main())
