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
    "DEFAULT_SLOS": "slo",
    "DEPENDENCIES": "dependencies",
    "SLO": "slo",
    "ActiveAlert": "alert_state",
    "Alerts": "alerts",
    "BurnAlert": "slo",
    "Dependency": "dependencies",
    "Email": "email_channel",
    "Finding": "alert_state",
    "InstanceLock": "instance_lock",
    "Match": "sli",
    "Metrics": "metrics",
    "MongoCommands": "mongo_commands",
    "Monitoring": "monitoring",
    "MonitoringMiddleware": "middleware",
    "loopback_only": "dashboard",
    "Notice": "alert_state",
    "SLOEvaluator": "evaluator",
    "SLOStatus": "slo",
    "SentryChannel": "channels",
    "Webhook": "channels",
    "metrics_endpoint": "exposition",
    "setup_dashboard": "dashboard",
    "setup_monitoring": "setup",
    "snapshot": "dashboard",
}

if TYPE_CHECKING:
    from smriti_scale.monitoring.alert_state import ActiveAlert, Finding, Notice
    from smriti_scale.monitoring.alerts import Alerts
    from smriti_scale.monitoring.channels import SentryChannel, Webhook
    from smriti_scale.monitoring.dashboard import loopback_only, setup_dashboard, snapshot
    from smriti_scale.monitoring.dependencies import DEPENDENCIES, Dependency
    from smriti_scale.monitoring.email_channel import Email
    from smriti_scale.monitoring.evaluator import SLOEvaluator
    from smriti_scale.monitoring.exposition import metrics_endpoint
    from smriti_scale.monitoring.instance_lock import InstanceLock
    from smriti_scale.monitoring.metrics import Metrics
    from smriti_scale.monitoring.middleware import MonitoringMiddleware
    from smriti_scale.monitoring.mongo_commands import MongoCommands
    from smriti_scale.monitoring.monitoring import Monitoring
    from smriti_scale.monitoring.setup import setup_monitoring
    from smriti_scale.monitoring.sli import Match
    from smriti_scale.monitoring.slo import DEFAULT_SLOS, SLO, BurnAlert, SLOStatus

__all__ = [
    "DEFAULT_SLOS",
    "DEPENDENCIES",
    "SLO",
    "ActiveAlert",
    "Alerts",
    "BurnAlert",
    "Check",
    "Degraded",
    "Dependency",
    "Draining",
    "Email",
    "Finding",
    "InstanceLock",
    "JSONFormatter",
    "KeepSlowAndFailed",
    "Match",
    "Metrics",
    "MongoCommands",
    "Monitoring",
    "MonitoringMiddleware",
    "Notice",
    "RequestIdMiddleware",
    "SLOEvaluator",
    "SLOStatus",
    "SentryChannel",
    "ServerTiming",
    "Telemetry",
    "TextFormatter",
    "Webhook",
    "health_routes",
    "init_otel",
    "init_sentry",
    "loopback_only",
    "metrics_endpoint",
    "setup_dashboard",
    "setup_logging",
    "setup_monitoring",
    "setup_request_ids",
    "snapshot",
]


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value
