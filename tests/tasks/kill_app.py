"""Two apps that do the same work, ours and plain Celery, for the runs in which something is killed midway.

The effect of a task is a document without any unique key: two effects are two documents.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from celery import Celery
from pymongo import AsyncMongoClient, MongoClient

from smriti_scale.tasks import MongoIdempotency, TaskPolicy, claim, idempotent, make_celery

URL = os.environ.get("TASKS_REDIS_URL", "redis://127.0.0.1:1/0")
MONGO = os.environ.get("TASKS_MONGO_URI", "mongodb://127.0.0.1:1")
DATABASE = os.environ.get("TASKS_DATABASE", "kill")
WORK_SECONDS = 0.01


@asynccontextmanager
async def lifespan() -> AsyncIterator[Any]:
    async with AsyncMongoClient[dict[str, Any]](MONGO) as client:
        database = client[DATABASE]
        app.idempotency = MongoIdempotency(database.once)
        yield database


app = make_celery(
    "tests.kill",
    URL,
    policy=TaskPolicy(time_limit=60, lease=2.0, retry_backoff=0.2, max_retries=20),
    lifespan=lifespan,
)


@app.task(bind=True)
@idempotent("effect:{number}", ttl=600, lease=2.0)
async def effect(self: Any, number: int) -> None:
    time.sleep(WORK_SECONDS)  # noqa: ASYNC251 - a body that keeps its process busy, as plain Celery's does
    async with claim().transaction() as session:
        await self.state.effects.insert_one({"number": number}, session=session)


plain = Celery("tests.kill.plain", broker=URL)
_clients: dict[int, MongoClient[dict[str, Any]]] = {}


@plain.task(shared=False)
def plain_effect(number: int) -> None:
    time.sleep(WORK_SECONDS)
    client = _clients.setdefault(os.getpid(), MongoClient(MONGO))
    client[DATABASE].effects.insert_one({"number": number})
