"""One call that sets a limiter up on an application."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from slowapi.errors import RateLimitExceeded as SlowapiRateLimitExceeded
from starlette.applications import Starlette

from smriti_scale.errors import ConfigurationError
from smriti_scale.ratelimit.exceeded import ANSWERS, Body, RateLimitExceeded
from smriti_scale.ratelimit.limiter import RateLimiter
from smriti_scale.ratelimit.middleware import RateLimitMiddleware


def setup_rate_limiting(app: Starlette, limiter: RateLimiter, *, body: Body = "json") -> None:
    """Limit an application: `app.state.limiter`, the middleware, the answer to a refusal, closing at shutdown.

    A handler that the application has for `RateLimitExceeded` (slowapi's or ours) or for status 429, now or later,
    is used in place of the answer here.

    Args:
        app: a Starlette or FastAPI application that has not served yet.
        limiter: the limiter.
        body: `json` (`{"error": …}`, as slowapi) or `problem` (`application/problem+json`).

    Raises:
        ConfigurationError: an unknown `body`.
    """
    if body not in ANSWERS:
        raise ConfigurationError(f"unknown body {body!r}: use {' or '.join(map(repr, ANSWERS))}")
    app.state.limiter = limiter
    if RateLimitExceeded not in app.exception_handlers:
        # Under slowapi's class, so that a handler which the application adds later for either comes first.
        app.exception_handlers.setdefault(SlowapiRateLimitExceeded, ANSWERS[body])
    app.add_middleware(RateLimitMiddleware, limiter=limiter)
    lifespan = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def closing(application: Any) -> AsyncIterator[Mapping[str, Any] | None]:
        try:
            async with lifespan(application) as state:
                yield state
        finally:
            await limiter.aclose()

    app.router.lifespan_context = closing  # type: ignore[assignment]
