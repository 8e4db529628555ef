"""Health, errors and figures of a running app."""

from smriti_scale.monitoring.alert_state import ActiveAlert, Finding, Notice
from smriti_scale.monitoring.alerts import Alerts
from smriti_scale.monitoring.channels import SentryChannel, Webhook
from smriti_scale.monitoring.dependencies import DEPENDENCIES, Dependency
from smriti_scale.monitoring.email_channel import Email
from smriti_scale.monitoring.evaluator import SLOEvaluator
from smriti_scale.monitoring.health import Check, health_routes
from smriti_scale.monitoring.instance_lock import InstanceLock
from smriti_scale.monitoring.sentry import init_sentry
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
    "Notice",
    "SLOEvaluator",
    "SLOStatus",
    "SentryChannel",
    "Webhook",
    "health_routes",
    "init_sentry",
]
