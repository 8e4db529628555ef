"""Limits by plan: free, pro and so on, each with a limit of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.requests import Request

from smriti_scale.errors import ConfigurationError
from smriti_scale.ratelimit.rules import parse_limits


class Tiers:
    """A limit that depends on the caller's plan: give it to `limiter.limit` in place of a string.

    ```python
    by_plan = Tiers({"free": "60/minute", "pro": "1000/minute"}, plan=lambda request: request.state.plan)

    @app.get("/search")
    @limiter.limit(by_plan)
    async def search(request: Request): ...
    ```

    Each plan has counters of its own, so a change of plan takes effect with the next request. Events name the plan.

    Args:
        limits: limit strings by plan.
        plan: the plan of a request, from a verified source; a plan that is not in `limits` counts as `default`.
        default: the plan of everybody else; the first one unless given.

    Raises:
        ConfigurationError: a limit that cannot be parsed, or a default that is no plan.
    """

    def __init__(
        self, limits: Mapping[str, str], *, plan: Callable[[Request], str | None], default: str | None = None
    ) -> None:
        if not limits:
            raise ConfigurationError("Tiers needs at least one plan")
        for text in limits.values():
            parse_limits(text, "fixed-window")
        self._limits = dict(limits)
        self._default = default if default is not None else next(iter(limits))
        if self._default not in self._limits:
            raise ConfigurationError(f"default={self._default!r} is no plan: use one of {', '.join(self._limits)}")
        self._plan = plan

    def resolve(self, request: Request) -> tuple[str, str]:
        """The limit string and the plan it belongs to."""
        plan = self._plan(request)
        known = plan if plan is not None and plan in self._limits else self._default
        return self._limits[known], known

    def __call__(self, request: Request) -> str:
        return self.resolve(request)[0]
