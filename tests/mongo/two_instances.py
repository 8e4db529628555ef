"""Two server processes on one replica set, and a client that writes at one and reads at the other.

The application is this module as well (`uvicorn tests.mongo.two_instances:app`), told by its environment what to do.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient
from pymongo.read_preferences import SecondaryPreferred
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from smriti_scale.local import LocalMongo
from smriti_scale.mongo import MongoClients, ReadYourWritesMiddleware, handle_unavailable
from smriti_scale.testing import replication_lag

SECRET = "a secret of thirty-two characters"


def make_app(uri: str, database: str, *, driver: str, consistent: bool, write_timeout: float) -> Starlette:
    mongo = MongoClients(
        uri,
        database=database,
        driver=driver,  # type: ignore[arg-type]
        min_pool_size=4,
        write_timeout=write_timeout,
    )

    async def put(request: Request) -> Response:
        await mongo.write.posts.insert_one({"_id": request.path_params["number"]})
        return Response(status_code=204)

    async def get(request: Request) -> Response:
        reader = mongo.read if consistent else plain()
        cursor = reader.posts.find({"_id": request.path_params["number"]})
        found = [post async for post in cursor]
        host, port = cursor.address
        return JSONResponse({"found": bool(found), "node": f"{host}:{port}"})

    bare: dict[str, Any] = {}

    def plain() -> Any:
        """The same reads by the driver alone."""
        if not bare:
            kind: Any = AsyncIOMotorClient if driver == "motor" else AsyncMongoClient
            bare["database"] = kind(uri).get_database(database, read_preference=SecondaryPreferred())
        return bare["database"]

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with mongo:
            yield

    routes = [
        Route("/posts/{number:int}", put, methods=["PUT"]),
        Route("/posts/{number:int}", get),
    ]
    app = Starlette(routes=routes, lifespan=lifespan)
    handle_unavailable(app)
    if consistent:
        app.add_middleware(ReadYourWritesMiddleware, mongo=mongo, secret=SECRET)
    return app


def app() -> Starlette:
    """What `uvicorn --factory` calls."""
    return make_app(
        os.environ["URI"],
        os.environ["DATABASE"],
        driver=os.environ["DRIVER"],
        consistent=os.environ["CONSISTENT"] == "1",
        write_timeout=float(os.environ["WRITE_TIMEOUT"]),
    )


@dataclass
class Outcome:
    """What a run of pairs showed. Times in milliseconds, of the read requests."""

    pairs: int = 0
    stale: int = 0
    by_secondary: int = 0
    times: list[float] = field(default_factory=list)

    @property
    def p50(self) -> float:
        return statistics.median(self.times)

    @property
    def p95(self) -> float:
        return statistics.quantiles(self.times, n=20)[-1]


class Instances:
    """Two processes of the application, and an HTTP client for each."""

    def __init__(self, clients: list[httpx.AsyncClient]) -> None:
        self.clients = clients
        self._numbers = itertools.count(1)

    async def pairs(self, count: int, *, primary: str, at_once: int = 8) -> Outcome:
        """Write at one instance, then read at the other, so many times."""
        outcome = Outcome()
        left = iter(range(count))

        async def worker() -> None:
            for turn in left:
                await self._pair(turn, outcome, primary)

        async with asyncio.TaskGroup() as workers:
            for _ in range(at_once):
                workers.create_task(worker())
        return outcome

    async def _pair(self, turn: int, outcome: Outcome, primary: str) -> None:
        number = next(self._numbers)
        here, there = self.clients[turn % 2], self.clients[1 - turn % 2]
        written = await here.put(f"/posts/{number}")
        written.raise_for_status()
        token = written.headers.get("X-Consistency-Token")
        started = time.perf_counter()
        read = await there.get(f"/posts/{number}", headers={"X-Consistency-Token": token} if token else {})
        outcome.times.append((time.perf_counter() - started) * 1000)
        answer = read.raise_for_status().json()
        outcome.pairs += 1
        outcome.stale += not answer["found"]
        outcome.by_secondary += answer["node"] != primary


@asynccontextmanager
async def two_instances(
    uri: str, database: str, *, driver: str = "pymongo", consistent: bool = True, write_timeout: float = 15.0
) -> AsyncIterator[Instances]:
    """Start both, wait until they answer, stop them at the end."""
    environment = {
        **os.environ,
        "URI": uri,
        "DATABASE": database,
        "DRIVER": driver,
        "CONSISTENT": "1" if consistent else "0",
        "WRITE_TIMEOUT": str(write_timeout),
    }
    processes, clients = [], []
    try:
        for _ in range(2):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            command = [sys.executable, "-m", "uvicorn", "tests.mongo.two_instances:app", "--factory"]
            command += ["--port", str(port), "--log-level", "warning", "--no-access-log", "--timeout-keep-alive", "300"]
            processes.append(subprocess.Popen(command, env=environment))  # noqa: ASYNC220 - a fork, no wait
            clients.append(httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60))
        for client in clients:
            await _answering(client)
        yield Instances(clients)
    finally:
        for client in clients:
            await client.aclose()
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(timeout=30)


async def _answering(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                await client.get("/posts/0")
            except httpx.TransportError:
                await asyncio.sleep(0.1)
            else:
                return


async def primary_of(server: LocalMongo) -> str:
    primary = await server.primary()
    return f"{primary.host}:{primary.port}"


@asynccontextmanager
async def lag_by_turns(server: LocalMongo, seconds: float) -> AsyncIterator[None]:
    """Now one secondary stands still for so long, now the other: a majority is always there, a fresh node is not."""
    secondaries = await server.secondaries()
    stop = asyncio.Event()

    async def turns() -> None:
        for member in itertools.cycle(secondaries):
            async with replication_lag(server, members=[member]):
                try:
                    await asyncio.wait_for(stop.wait(), seconds)
                except TimeoutError:
                    continue
                return

    task = asyncio.create_task(turns())
    try:
        yield
    finally:
        stop.set()
        await task
