"""Health, errors, logs, traces and figures of a running app."""

from smriti_scale.monitoring.checks import Check, Degraded
from smriti_scale.monitoring.draining import Draining
from smriti_scale.monitoring.health import health_routes
from smriti_scale.monitoring.json_logs import JSONFormatter, TextFormatter, setup_logging
from smriti_scale.monitoring.otel import Telemetry, init_otel
from smriti_scale.monitoring.request_id import RequestIdMiddleware, setup_request_ids
from smriti_scale.monitoring.sentry import KeepSlowAndFailed, init_sentry
from smriti_scale.monitoring.server_timing import ServerTiming

__all__ = [
    "Check",
    "Degraded",
    "Draining",
    "JSONFormatter",
    "KeepSlowAndFailed",
    "RequestIdMiddleware",
    "ServerTiming",
    "Telemetry",
    "TextFormatter",
    "health_routes",
    "init_otel",
    "init_sentry",
    "setup_logging",
    "setup_request_ids",
]
