"""A page that shows how the service is, live: the five numbers, routes, caches, limits, databases, queues."""

from smriti_scale.monitoring.dashboard.access import loopback_only
from smriti_scale.monitoring.dashboard.picture import snapshot
from smriti_scale.monitoring.dashboard.setup import Dashboard, setup_dashboard

__all__ = ["Dashboard", "loopback_only", "setup_dashboard", "snapshot"]
