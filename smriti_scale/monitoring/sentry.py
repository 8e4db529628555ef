"""Sentry with the defaults a service wants: no DSN no effect, a tenth of the transactions, nothing personal.

Which transactions are sent is decided at their beginning, by chance, since to record every request's spans costs each
of them. `KeepSlowAndFailed` brings back those that matter: a request that was not chosen, but turns out slow or broken,
is sent all the same, as one span. Errors are always sent.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from typing import Any

import sentry_sdk
from sentry_sdk.integrations import DidNotEnable, Integration
from sentry_sdk.integrations.argv import ArgvIntegration
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smriti_scale.clock import SYSTEM_CLOCK, Clock
from smriti_scale.errors import ConfigurationError
from smriti_scale.monitoring.sentry_scrubbing import scrubbed_event
from smriti_scale.routing import resolve_route

_UNSAMPLED = ("/livez", "/readyz", "/startupz", "/metrics", "/health", "/health/db")
"""How the paths of probes and scrapes end, whatever prefix they have."""

_TRACE_HEADERS = (b"baggage", b"sentry-trace")
_RELEASES = (
    "SENTRY_RELEASE",
    "RELEASE",
    "SOURCE_VERSION",
    "SOURCE_COMMIT",
    "GIT_COMMIT",
    "GITHUB_SHA",
    "RENDER_GIT_COMMIT",
    "RAILWAY_GIT_COMMIT_SHA",
    "HEROKU_SLUG_COMMIT",
    "K_REVISION",
)


def init_sentry(
    dsn: str | None,
    *,
    environment: str,
    release: str | None = None,
    traces_sample_rate: float = 0.1,
    unsampled: Sequence[str] = (),
    **options: Any,
) -> bool:
    """Start reporting errors and traces. Without a DSN it does nothing.

    Passwords, tokens, cookies, authorization headers, e-mail addresses, query strings, bodies and local variables are
    not sent (`sentry_scrubbing`). Starlette, FastAPI, PyMongo and Motor, Redis and Celery are integrated where they are
    installed. Call it in each process, before the app is made; add `KeepSlowAndFailed` to the app (`Scale` does).

    Args:
        dsn: the project's address at Sentry, or None.
        environment: `production`, `staging`, …
        release: the version that runs; by default what the platform says in the environment (`SENTRY_RELEASE`,
            `RELEASE`, `GIT_COMMIT`, `RENDER_GIT_COMMIT`, …). No `git` is run.
        traces_sample_rate: share of requests and tasks that are traced, 0…1.
        unsampled: how further paths end that are never traced; health checks, `/metrics` and `/_scale` never are.
        **options: further options of `sentry_sdk.init`.

    Returns:
        Whether Sentry is on.

    Raises:
        ConfigurationError: the sample rate is no share, or the DSN is none.
    """
    if not dsn:
        return False
    if not 0 <= traces_sample_rate <= 1:
        raise ConfigurationError(f"traces_sample_rate is a share from 0 to 1, not {traces_sample_rate!r}")
    never = (*_UNSAMPLED, *unsampled)

    def sampler(sampling: dict[str, Any]) -> float:
        return _decided(sampling, never, traces_sample_rate)

    given: dict[str, Any] = {
        "environment": environment,
        "release": release or release_from(os.environ) or "",  # None would make the SDK run git
        "traces_sampler": sampler,
        "before_send": lambda event, hint: scrubbed_event(event),
        "before_send_transaction": lambda event, hint: scrubbed_event(event),
        "max_request_body_size": "never",
        "include_local_variables": False,
        "auto_enabling_integrations": False,
        "integrations": _integrations(),
        "disabled_integrations": [ArgvIntegration()],
        **options,
    }
    try:
        sentry_sdk.init(dsn=dsn, **given)
    except sentry_sdk.utils.BadDsn as error:
        raise ConfigurationError("the Sentry DSN is none: https://KEY@HOST/PROJECT is wanted") from error
    return True


def release_from(environment: Mapping[str, str]) -> str | None:
    """The version that runs, as the platform tells it."""
    return next((found for name in _RELEASES if (found := environment.get(name))), None)


class KeepSlowAndFailed:
    """Sends the transaction of a request that was slow or ended with 500 or above, though chance did not choose it.

    It is sent without the spans inside, which nobody recorded. Errors and transactions are named by route here, also
    where the routes were made before Sentry began.

    Args:
        app: the app.
        slow: seconds from which on a request is slow.
        unsampled: how further paths end that are never traced.
        clock: the source of time.
    """

    def __init__(
        self, app: ASGIApp, *, slow: float = 1.0, unsampled: Sequence[str] = (), clock: Clock = SYSTEM_CLOCK
    ) -> None:
        if slow <= 0:
            raise ConfigurationError(f"a request is slow from more than 0 seconds on, not {slow!r}")
        self.app = app
        self._slow = slow
        self._never = (*_UNSAMPLED, *unsampled)
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve, then look back."""
        if scope["type"] != "http" or not sentry_sdk.get_client().is_active():
            await self.app(scope, receive, send)
            return
        sentry_sdk.get_current_scope().set_transaction_name(resolve_route(scope).template, source="route")
        started = self._clock.monotonic()
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except BaseException:
            status = 500
            raise
        finally:
            if status >= 500 or self._clock.monotonic() - started >= self._slow:
                self._keep(scope)

    def _keep(self, scope: Scope) -> None:
        if _is_never(scope, self._never):
            return
        transaction = sentry_sdk.get_current_scope().transaction
        if transaction is not None and transaction.sampled is False:
            transaction.sampled = True
            transaction.sample_rate = 1.0  # it stands for itself alone
            transaction.init_span_recorder(maxlen=1)


def _decided(sampling: dict[str, Any], never: tuple[str, ...], rate: float) -> float:
    """The chance of being traced.

    A caller's decision is not followed, or anybody could have every request traced. Nor is the rate itself returned for
    callers that bring a trace along: the SDK would compare it with a number of theirs (`sentry-sample_rand` in
    `baggage`), so the dice fall here. Tasks follow their publisher's decision, which came through our own broker.
    """
    scope = sampling.get("asgi_scope")
    if scope is None:
        parent = sampling.get("parent_sampled")
        if parent is not None and "celery_job" in sampling:
            return 1.0 if parent else 0.0
    elif _is_never(scope, never):
        return 0.0
    elif any(name in _TRACE_HEADERS for name, _ in scope.get("headers") or ()):
        return 1.0 if random.random() < rate else 0.0
    return rate


def _is_never(scope: Any, never: tuple[str, ...]) -> bool:
    path: str = scope.get("path", "")
    return path.endswith(never) or "/_scale" in path


def _integrations() -> list[Integration]:
    """Those for what is installed."""
    found: list[Integration] = []
    for module, name, options in (
        ("starlette", "StarletteIntegration", {"transaction_style": "url"}),
        ("fastapi", "FastApiIntegration", {"transaction_style": "url"}),
        ("pymongo", "PyMongoIntegration", {}),
        ("redis", "RedisIntegration", {}),
        ("celery", "CeleryIntegration", {"monitor_beat_tasks": False}),
    ):
        try:
            loaded: Any = __import__(f"sentry_sdk.integrations.{module}", fromlist=[name])
        except (DidNotEnable, ImportError):
            continue
        found.append(getattr(loaded, name)(**options))
    return found
