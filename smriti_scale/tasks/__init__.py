"""Background tasks on Celery that are not lost, and published without blocking the event loop."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Loaded on first use: the web process may need `publish` alone, and Celery takes a moment to import.
_MODULE_OF = {
    "DeadLetter": "dead_letters",
    "DeadLetters": "dead_letters",
    "Delivery": "publishing",
    "MongoIdempotency": "idempotency_mongo",
    "Outbox": "outbox",
    "PublishAfterResponseMiddleware": "after_response",
    "QueueMonitor": "queues",
    "RedisIdempotency": "idempotency_redis",
    "TaskPolicy": "policy",
    "claim": "idempotency",
    "idempotent": "idempotency",
    "make_celery": "celery",
    "publish": "publishing",
}

if TYPE_CHECKING:
    from smriti_scale.tasks.after_response import PublishAfterResponseMiddleware
    from smriti_scale.tasks.celery import make_celery
    from smriti_scale.tasks.dead_letters import DeadLetter, DeadLetters
    from smriti_scale.tasks.idempotency import claim, idempotent
    from smriti_scale.tasks.idempotency_mongo import MongoIdempotency
    from smriti_scale.tasks.idempotency_redis import RedisIdempotency
    from smriti_scale.tasks.outbox import Outbox
    from smriti_scale.tasks.policy import TaskPolicy
    from smriti_scale.tasks.publishing import Delivery, publish
    from smriti_scale.tasks.queues import QueueMonitor

__all__ = [
    "DeadLetter",
    "DeadLetters",
    "Delivery",
    "MongoIdempotency",
    "Outbox",
    "PublishAfterResponseMiddleware",
    "QueueMonitor",
    "RedisIdempotency",
    "TaskPolicy",
    "claim",
    "idempotent",
    "make_celery",
    "publish",
]


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value
