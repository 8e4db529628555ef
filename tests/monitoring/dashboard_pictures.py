"""The pictures of the dashboard in the documentation, from a real run: some minutes of traffic on real servers.

`python -m tests.monitoring.dashboard_pictures docs/how-to/dashboard [minutes]`
"""

from __future__ import annotations

import asyncio
import math
import random
import shutil
import sys
import time
from pathlib import Path
from typing import Literal

from httpx import AsyncClient
from playwright.async_api import Browser, async_playwright, expect

from smriti_scale.local import LocalMongo, LocalRedis
from smriti_scale.mongo import Index, Indexes
from smriti_scale.scale import Scale
from tests.monitoring.dashboard_serving import served
from tests.monitoring.dashboard_shop import settings_of, shop

_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--force-color-profile=srgb"]


async def traffic(client: AsyncClient, seconds: float) -> None:
    """Visitors that come and go, some of them wrong."""
    numbers = [(await client.post("/posts")).json()["number"] for _ in range(50)]
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        popular = numbers[-1 - int(random.paretovariate(1.2)) % len(numbers)]
        path = random.choices(
            [
                f"/posts/{popular}",
                f"/authors/{random.randrange(7)}/posts",
                "/limited",
                "/nowhere",
                "/report",
                "/broken",
            ],
            [60, 20, 3, 2, 3, 0.15],
        )[0]
        await client.get(path)
        if random.random() < 0.08:
            numbers.append((await client.post("/posts")).json()["number"])
        await asyncio.sleep(random.expovariate(14 + 6 * math.sin(time.monotonic() / 20)))


async def picture(
    browser: Browser, url: str, to: Path, *, size: tuple[int, int], scheme: Literal["light", "dark"]
) -> None:
    """One PNG of what fits into the window."""
    page = await browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    await page.goto(f"{url}/_scale/")
    await expect(page.locator("#routes")).to_be_visible()
    taken = await page.screenshot(path=to, animations="disabled")
    print(f"{to}: {len(taken):,} bytes")  # noqa: T201
    await page.close()


async def main(folder: Path, minutes: float) -> None:
    """Start servers and the shop, let it be visited, take the pictures."""
    async with LocalMongo(replicas=3) as mongo, LocalRedis() as redis, async_playwright() as playwright:
        settings = settings_of(mongo.uri, redis.uri, "shop", indexes="apply", slow_query_ms=5.0)
        scale = Scale(settings, indexes=Indexes({"posts": [Index("number")]}))
        async with served(shop(scale)) as running, AsyncClient(base_url=running.url, timeout=60) as client:
            await asyncio.gather(*(traffic(client, minutes * 60) for _ in range(2)))
            visiting = asyncio.create_task(traffic(client, 30))
            browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=_FLAGS)
            await picture(browser, running.url, folder / "light.png", size=(1100, 900), scheme="light")
            await picture(browser, running.url, folder / "dark.png", size=(1100, 900), scheme="dark")
            await picture(browser, running.url, folder / "phone.png", size=(360, 780), scheme="light")
            await browser.close()
            await visiting


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 5.0))
