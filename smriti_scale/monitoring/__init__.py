"""Health, errors, logs, traces and figures of a running app."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from smriti_scale.monitoring.checks import Check, Degraded
from smriti_scale.monitoring.draining import Draining
from smriti_scale.monitoring.health import health_routes
from smriti_scale.monitoring.json_logs import JSONFormatter, TextFormatter, setup_logging
from smriti_scale.monitoring.otel import Telemetry, init_otel
from smriti_scale.monitoring.request_id import RequestIdMiddleware, setup_request_ids
from smriti_scale.monitoring.sentry import KeepSlowAndFailed, init_sentry
from smriti_scale.monitoring.server_timing import ServerTiming

# Loaded on first use: what is above needs nothing of it.
_MODULE_OF = {
    "Metrics": "metrics",
    "Monitoring": "monitoring",
    "MonitoringMiddleware": "middleware",
    "MongoCommands": "mongo_commands",
    "metrics_endpoint": "exposition",
    "setup_monitoring": "setup",
}

if TYPE_CHECKING:
    from smriti_scale.monitoring.exposition import metrics_endpoint
    from smriti_scale.monitoring.metrics import Metrics
    from smriti_scale.monitoring.middleware import MonitoringMiddleware
    from smriti_scale.monitoring.mongo_commands import MongoCommands
    from smriti_scale.monitoring.monitoring import Monitoring
    from smriti_scale.monitoring.setup import setup_monitoring

__all__ = [
    "Check",
    "Degraded",
    "Draining",
    "JSONFormatter",
    "KeepSlowAndFailed",
    "Metrics",
    "MongoCommands",
    "Monitoring",
    "MonitoringMiddleware",
    "RequestIdMiddleware",
    "ServerTiming",
    "Telemetry",
    "TextFormatter",
    "health_routes",
    "init_otel",
    "init_sentry",
    "metrics_endpoint",
    "setup_logging",
    "setup_monitoring",
    "setup_request_ids",
]


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value
