"""An app and its figures: what a scraper reads after some traffic, and which index a slow query wants.

`MONGODB_URI=… python examples/minimal/monitoring.py`; without the variable a MongoDB is started.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack

import httpx
from fastapi import FastAPI

from smriti_scale.events import Events
from smriti_scale.local import LocalMongo
from smriti_scale.mongo import MongoClients, QueryGuard
from smriti_scale.monitoring import Monitoring, setup_monitoring

SHOWN = ("scale_http_requests_total", "scale_mongo_command_duration_seconds_count", "scale_mongo_pool_limit")


def make_app(uri: str) -> tuple[FastAPI, Monitoring, MongoClients]:
    events = Events()
    monitoring = Monitoring(events=events)
    guard = QueryGuard(slow_ms=0.001, events=events)  # as if every query were slow
    listeners = [monitoring.command_listener, guard]
    mongo = MongoClients(uri, database="example_monitoring", client_options={"event_listeners": listeners})
    monitoring.sample("mongodb", mongo.status)
    app = FastAPI()

    @app.get("/users/{user_id}/posts")
    async def posts(user_id: str) -> list[str]:
        found = mongo.read.posts.find({"user_id": user_id}).sort("created_at", -1)
        return [post["text"] async for post in found]

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError

    setup_monitoring(app, monitoring, metrics_token="for-prometheus-alone")  # noqa: S106 - an example
    return app, monitoring, mongo


async def main() -> None:
    async with AsyncExitStack() as stack:
        uri = os.environ.get("MONGODB_URI") or (await stack.enter_async_context(LocalMongo())).uri
        app, monitoring, mongo = make_app(uri)
        await stack.enter_async_context(mongo)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        client = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://example"))
        for path in ("/users/1/posts", "/users/2/posts", "/broken", "/wp-login.php", "/.env"):
            await client.get(path)
        await monitoring.look()
        page = await client.get("/metrics", headers={"Authorization": "Bearer for-prometheus-alone"})
        print(*(line for line in page.text.splitlines() if line.startswith(SHOWN)), sep="\n")
        for slow in monitoring.slow_queries:
            if slow.wants:
                print(f"{slow.shape}: {slow.count} times, wants {slow.wants}")


if __name__ == "__main__":
    asyncio.run(main())
