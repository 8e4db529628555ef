"""Sentry with the defaults a service wants: no DSN no effect, a tenth of the transactions, nothing personal."""

from __future__ import annotations

from typing import Any

import sentry_sdk

_UNSAMPLED = ("/livez", "/readyz", "/metrics", "/health")
"""How the paths of probes and scrapes end, whatever prefix they have."""


def init_sentry(
    dsn: str | None, *, environment: str, release: str | None = None, traces_sample_rate: float = 0.1
) -> bool:
    """Start reporting errors and traces. Without a DSN it does nothing.

    Args:
        dsn: the project's address at Sentry, or None.
        environment: `production`, `staging`, …
        release: the version that runs.
        traces_sample_rate: share of requests that are traced, 0…1; health checks and scrapes never are.

    Returns:
        Whether Sentry is on.
    """
    if not dsn:
        return False

    def sampler(sampling: dict[str, Any]) -> float:
        # A caller's own decision (`sentry-trace`) is not followed: anybody could have every request traced.
        path: str = sampling.get("asgi_scope", {}).get("path", "")
        return 0.0 if path.endswith(_UNSAMPLED) else traces_sample_rate

    sentry_sdk.init(
        dsn=dsn,
        environment=environment,
        release=release,
        traces_sampler=sampler,
        max_request_body_size="never",
    )
    return True
