"""Health, errors and figures of a running app."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from smriti_scale.monitoring.health import Check, health_routes
from smriti_scale.monitoring.sentry import init_sentry

# Loaded on first use: health and Sentry need nothing of it.
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
    "Dependency",
    "Email",
    "Finding",
    "InstanceLock",
    "Match",
    "Metrics",
    "MongoCommands",
    "Monitoring",
    "MonitoringMiddleware",
    "Notice",
    "SLOEvaluator",
    "SLOStatus",
    "SentryChannel",
    "Webhook",
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
