"""A Celery app whose workers trace their tasks; the environment says where to."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from smriti_scale.mongo import MongoClients
from smriti_scale.monitoring import Telemetry
from smriti_scale.tasks import make_celery, publish

telemetry = Telemetry("worker", endpoint=os.environ["OTLP_SINK"], traces_sample_rate=0.0)
telemetry.trace_tasks()


@asynccontextmanager
async def lifespan() -> AsyncIterator[MongoClients]:
    mongo = MongoClients(
        os.environ["MONGODB_URI"],
        database="worker",
        client_options={"event_listeners": [telemetry.command_listener]},
    )
    async with mongo:
        yield mongo


app = make_celery(
    "otel", os.environ["TASKS_REDIS_URL"], key_prefix=os.environ["TASKS_PREFIX"], lifespan=lifespan, eager=False
)


@app.task(name="first", bind=True)
async def first(self: Any) -> None:
    await self.state.read.things.find_one({"_id": "secret-value"})
    await publish(second)


@app.task(name="second", max_retries=0)
async def second() -> None:
    raise ValueError("no")
