"""Background tasks on Celery that are not lost, and published without blocking the event loop."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Loaded on first use: the web process may need `publish` alone, and Celery takes a moment to import.
_MODULE_OF = {
    "Delivery": "publishing",
    "TaskPolicy": "policy",
    "idempotent": "idempotency",
    "make_celery": "celery",
    "publish": "publishing",
}

if TYPE_CHECKING:
    from smriti_scale.tasks.celery import make_celery
    from smriti_scale.tasks.idempotency import idempotent
    from smriti_scale.tasks.policy import TaskPolicy
    from smriti_scale.tasks.publishing import Delivery, publish

__all__ = ["Delivery", "TaskPolicy", "idempotent", "make_celery", "publish"]


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value
