"""Health, errors and figures of a running app."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from smriti_scale.monitoring.health import Check, health_routes
from smriti_scale.monitoring.sentry import init_sentry

# Loaded on first use: health and Sentry need nothing of it.
_MODULE_OF = {
    "Metrics": "metrics",
    "Monitoring": "monitoring",
    "MonitoringMiddleware": "middleware",
    "MongoCommands": "mongo_commands",
    "loopback_only": "dashboard",
    "metrics_endpoint": "exposition",
    "setup_dashboard": "dashboard",
    "setup_monitoring": "setup",
    "snapshot": "dashboard",
}

if TYPE_CHECKING:
    from smriti_scale.monitoring.dashboard import loopback_only, setup_dashboard, snapshot
    from smriti_scale.monitoring.exposition import metrics_endpoint
    from smriti_scale.monitoring.metrics import Metrics
    from smriti_scale.monitoring.middleware import MonitoringMiddleware
    from smriti_scale.monitoring.mongo_commands import MongoCommands
    from smriti_scale.monitoring.monitoring import Monitoring
    from smriti_scale.monitoring.setup import setup_monitoring

__all__ = [
    "Check",
    "Metrics",
    "MongoCommands",
    "Monitoring",
    "MonitoringMiddleware",
    "health_routes",
    "init_sentry",
    "loopback_only",
    "metrics_endpoint",
    "setup_dashboard",
    "setup_monitoring",
    "snapshot",
]


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value
