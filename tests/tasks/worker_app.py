"""The app that the tests' workers run."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import redis.asyncio
from celery.exceptions import SoftTimeLimitExceeded

from smriti_scale import context
from smriti_scale.errors import PermanentFailure
from smriti_scale.tasks import TaskPolicy, idempotent, make_celery

URL = os.environ.get("TASKS_REDIS_URL", "redis://127.0.0.1:1/0")
PREFIX = os.environ.get("TASKS_PREFIX", "")


@asynccontextmanager
async def lifespan() -> AsyncIterator[redis.asyncio.Redis]:
    async with redis.asyncio.Redis.from_url(URL, decode_responses=True) as client:
        await client.rpush(f"{PREFIX}opened", os.getpid())
        yield client


app = make_celery(
    "tests.tasks",
    URL,
    policy=TaskPolicy(
        time_limit=6.0,
        soft_time_limit=4.0,
        lease=2.0,
        max_retries=2,
        retry_backoff=0.05,
        max_deliveries=3,
    ),
    queues=("default", "other"),
    routes={"tests.tasks.worker_app.elsewhere": "other"},
    lifespan=lifespan,
    key_prefix=PREFIX,
)


async def note(task: Any, key: str, value: str) -> None:
    await task.state.rpush(f"{PREFIX}{key}", value)


@app.task(bind=True)
async def echo(self: Any, key: str, value: Any = None) -> None:
    await note(self, key, str(value))


@app.task(bind=True)
async def elsewhere(self: Any, key: str) -> None:
    await note(self, key, self.request.delivery_info["routing_key"])


@app.task(bind=True)
async def tell_context(self: Any, key: str) -> None:
    await note(self, key, repr(sorted(context.capture().items())))


@app.task(bind=True)
async def tell_pid(self: Any, key: str) -> None:
    await note(self, key, str(os.getpid()))


@app.task(bind=True)
def plain_body(self: Any, key: str) -> None:
    self.scale.worker_loop.run(note(self, key, f"{context.request_id.get()}"))


@app.task(bind=True)
async def fails(self: Any, key: str, times: int) -> None:
    await note(self, key, f"try {self.request.retries}")
    if self.request.retries < times:
        raise RuntimeError("not yet")


@app.task(bind=True)
async def hopeless(self: Any, key: str) -> None:
    await note(self, key, "tried")
    raise PermanentFailure("the file is not there and never will be")


@app.task(bind=True, soft_time_limit=1)
async def overruns(self: Any, key: str) -> None:
    try:
        await asyncio.sleep(60)
    finally:
        await note(self, key, "tidied up")


@app.task(bind=True, soft_time_limit=1, time_limit=2)
def hangs(self: Any, key: str) -> None:
    self.scale.worker_loop.run(note(self, key, "begun"))
    while True:
        with suppress(SoftTimeLimitExceeded):
            time.sleep(60)


@app.task(bind=True)
def kills_its_process(self: Any, key: str) -> None:
    self.scale.worker_loop.run(note(self, key, "begun"))
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(bind=True)
@idempotent("once:{key}", ttl=60, lease=1.0)
async def once(self: Any, key: str) -> str:
    await note(self, key, "effect")
    await asyncio.sleep(1.5)  # longer than the lease: it must be renewed
    return "done"


@app.task(bind=True)
async def slow(self: Any, key: str, seconds: float) -> None:
    await note(self, key, "begun")
    await asyncio.sleep(seconds)
    await note(self, key, "ended")
