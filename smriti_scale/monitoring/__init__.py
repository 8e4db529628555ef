"""Health, errors and figures of a running app."""

from smriti_scale.monitoring.health import Check, health_routes
from smriti_scale.monitoring.sentry import init_sentry

__all__ = ["Check", "health_routes", "init_sentry"]
