"""Two instances behind no sticky session: what is written at one is read at the other, from a secondary.

`MONGODB_URI=… python examples/minimal/read_your_writes.py`; without the variable a replica set is started.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from contextlib import AsyncExitStack

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from smriti_scale.events import Event, Events
from smriti_scale.local import LocalMongo
from smriti_scale.mongo import MongoClients, ReadYourWritesMiddleware, handle_unavailable

# In production the secret comes from the environment and is the same in every process.
SECRET = os.environ.get("SECRET_KEY", "only for this example, never live")
POSTS = 200


def make_app(mongo: MongoClients) -> Starlette:
    """One instance of the service."""

    async def create(request: Request) -> Response:
        await mongo.write.posts.insert_one({"_id": request.path_params["number"]})
        return Response(status_code=201)

    async def show(request: Request) -> Response:
        post = await mongo.read.posts.find_one({"_id": request.path_params["number"]})
        return JSONResponse(post, status_code=404 if post is None else 200)

    routes = [Route("/posts/{number:int}", create, methods=["PUT"]), Route("/posts/{number:int}", show)]
    app = Starlette(routes=routes)
    app.add_middleware(ReadYourWritesMiddleware, mongo=mongo, secret=SECRET)
    handle_unavailable(app)
    return app


async def main() -> None:
    async with AsyncExitStack() as stack:
        uri = os.environ.get("MONGODB_URI")
        if uri is None:
            uri = (await stack.enter_async_context(LocalMongo(replicas=3))).uri
        seen: Counter[str] = Counter()

        def listen(event: Event) -> None:
            seen[type(event).__name__] += 1

        clients = []
        for _ in range(2):
            mongo = MongoClients(
                uri, database="read_your_writes", driver="pymongo", min_pool_size=2, events=Events(listen)
            )
            await stack.enter_async_context(mongo)
            await mongo.write.posts.delete_many({})
            transport = httpx.ASGITransport(make_app(mongo))
            clients.append(
                await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="https://example.org"))
            )
        here, there = clients
        stale = 0
        for number in range(POSTS):
            await here.put(f"/posts/{number}")
            there.cookies = here.cookies  # the browser's cookie goes to whatever instance answers
            stale += (await there.get(f"/posts/{number}")).status_code != 200
        by_primary = seen["ReadFellBackToPrimary"]
        print(f"{POSTS} posts written at one instance and read at the other: {stale} stale")
        print(f"read from secondaries: {POSTS - by_primary}, from the primary: {by_primary}")
        if stale:
            raise SystemExit(1)


if __name__ == "__main__":
    asyncio.run(main())
