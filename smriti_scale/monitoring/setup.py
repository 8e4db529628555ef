"""`setup_monitoring`: the middleware, the page for Prometheus and the looking, in one call."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Route

from smriti_scale.errors import ConfigurationError
from smriti_scale.monitoring.exposition import metrics_endpoint
from smriti_scale.monitoring.middleware import MonitoringMiddleware
from smriti_scale.monitoring.monitoring import Monitoring

PROBES = ("/livez", "/readyz", "/startupz")
"""Templates of the health routes, which are not counted: they are many and quick, and no user waits for them."""


def setup_monitoring(
    app: Starlette,
    monitoring: Monitoring | None = None,
    *,
    metrics_path: str | None = "/metrics",
    metrics_token: str | None = None,
    ignore: Collection[str] = PROBES,
    lifespan: bool = True,
) -> Monitoring:
    """Monitor an application. Call it after all other middleware is added, so that it sees what they do.

    Args:
        app: a Starlette or FastAPI application that has not served yet.
        monitoring: what to report to; a new one by default.
        metrics_path: where Prometheus reads; None for nowhere.
        metrics_token: what it must send as `Authorization: Bearer …`; None lets everybody read, so keep the path
            from the public then.
        ignore: route templates that are not counted; the metrics' own never is.
        lifespan: start and stop looking with the application; False when the caller does.

    Returns:
        The monitoring.

    Raises:
        ConfigurationError: a path without its slash, an empty token.
        MissingExtraError: `prometheus-client` is not installed.
    """
    if metrics_path is not None and not metrics_path.startswith("/"):
        raise ConfigurationError(f"metrics_path begins with a slash, unlike {metrics_path!r}")
    monitoring = monitoring if monitoring is not None else Monitoring()
    ignored = monitoring.ignored  # the set itself: what is set up later may add to it
    ignored.update(ignore)
    if metrics_path is not None:
        ignored.add(metrics_path)
        endpoint = metrics_endpoint(monitoring.metrics, token=metrics_token)
        # First, since an application's last route often takes whatever is left (a mount at the root).
        app.router.routes.insert(0, Route(metrics_path, endpoint, methods=["GET"], include_in_schema=False))
    app.state.monitoring = monitoring
    app.add_middleware(MonitoringMiddleware, metrics=monitoring.metrics, ignore=ignored, clock=monitoring.clock)
    if lifespan:
        _looking_while_it_runs(app, monitoring)
    return monitoring


def _looking_while_it_runs(app: Starlette, monitoring: Monitoring) -> None:
    inner = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def looking(application: Any) -> AsyncIterator[Mapping[str, Any] | None]:
        async with inner(application) as state, monitoring:
            yield state

    app.router.lifespan_context = looking  # type: ignore[assignment]
