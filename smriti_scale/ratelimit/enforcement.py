"""One request from its limits to its decision: collect the checks, have them decided, report, and raise if refused."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal

from starlette.requests import HTTPConnection

from smriti_scale.errors import ConfigurationError
from smriti_scale.events import Event, Events, LimitAllowed, LimitExceeded, LimitFellBack, LimitShadowExceeded
from smriti_scale.ratelimit.checked import Checked
from smriti_scale.ratelimit.engine import Engine
from smriti_scale.ratelimit.exceeded import PLACEHOLDER, RateLimitExceeded, Reason
from smriti_scale.ratelimit.plans import Awaiting, LimitSource, Prepared, RoutePlan, collect, identity_of, named
from smriti_scale.ratelimit.rules import Check, Decision, new_tuple
from smriti_scale.routing import resolve_route

KeyStyle = Literal["route", "endpoint", "url"]

_log = logging.getLogger("smriti_scale.ratelimit")
_REASONS: dict[str, Reason] = {"banned": "banned", "denied": "denied", "unavailable": "unavailable"}
TOLD = "smriti_scale.ratelimit"
"""Where a request's scope has the middleware's list, for the decision that its answer is to tell."""

_PASS = Decision(True, "allowed", (), (), 0)
_UNPREPARED = Prepared([], scope="", prefix="")
_UNPREPARED.usable = False


class Enforcer:
    """Checks requests against an engine.

    Args:
        engine: decides.
        key_func: who the client is, for lists and bans.
        application, defaults: limits beside those of decorated functions.
        fallbacks: limits that replace all others while Redis fails.
        filters: let a request pass while one is true.
        key_style: what a limit without a scope of its own counts.
        prefix: slowapi's key prefix.
        swallow_errors: let a request pass when a key function or the like raises.
        tells: whether answers to admitted requests have headers about limits; those to refused ones always have.
        events: where events go.
    """

    def __init__(
        self,
        engine: Engine,
        key_func: Callable[..., Any],
        *,
        application: list[LimitSource],
        defaults: list[LimitSource],
        fallbacks: list[LimitSource],
        filters: list[Callable[..., bool]],
        key_style: KeyStyle,
        prefix: str,
        swallow_errors: bool,
        tells: bool,
        events: Events,
    ) -> None:
        self._engine = engine
        self._key_func = key_func
        self._key_takes_request = "request" in inspect.signature(key_func).parameters
        self._application = application
        self._defaults = defaults
        self._fallbacks = fallbacks
        self._filters = filters
        self._key_style = key_style
        self._prefix = prefix
        self._swallow_errors = swallow_errors
        self._tells = tells
        self._events = events
        self._prepared: dict[str, Prepared] = {}
        self._metered = engine.metered and not swallow_errors
        self.look_again()
        self.has_general_limits = bool(application or defaults)
        """Whether there are limits of the application, or defaults."""

    def look_again(self) -> None:
        """Lists or filters have changed: whether requests may go the short way is worked out anew."""
        self._plain = not (self._filters or self._engine.needs_client())

    def check_now(self, request: HTTPConnection, plan: RoutePlan | None, *, scope: str = "") -> Checked | None:
        """As `check`, where no I/O is needed; None where it is.

        Raises:
            RateLimitExceeded: refused.
        """
        prepared = plan.prepared if plan is not None else self._prepared.get(scope)
        # The usual case in few steps: a caller that was here before, on a route whose limits ask no more.
        if prepared is None or (key_func := prepared.metered_by) is None or not self._plain:
            return self._check_now(request, plan, scope, {}) if self._engine.immediate else None
        found = key_func(request)
        meter = prepared.meters.get(found) if type(found) is str else None
        if meter is None:
            return self._check_now(request, plan, scope, {key_func: found})
        read = meter()
        if type(read) is not Checked:
            return self._settle(request, read) if read is not None else None
        within = request.scope
        if "state" in within:
            within["state"]["view_rate_limit"] = read
        else:
            within["state"] = {"view_rate_limit": read}
        if self._tells and TOLD in within:
            within[TOLD].append(read)
        if self._events.listeners:
            self._emit(request, read.decision)
        return read

    def _check_now(
        self, request: HTTPConnection, plan: RoutePlan | None, scope: str, found: dict[Any, object]
    ) -> Checked | None:
        try:
            keys = {key_func: named(key_func, key) for key_func, key in found.items()}
            checks, client, _ = self._collect(request, plan, scope, keys)
        except Awaiting as waiting:
            waiting.close()
            return None
        decision = self._engine.decide_now(checks, client) if checks or client is not None else _PASS
        return self._settle(request, decision) if decision is not None else None

    async def check(self, request: HTTPConnection, plan: RoutePlan | None, *, scope: str = "") -> Checked:
        """Charge a request with its limits: a decorated function's plan, or the defaults for `scope`.

        Raises:
            RateLimitExceeded: refused.
        """
        keys: dict[Any, str] = {}
        while True:
            try:
                checks, client, route = self._collect(request, plan, scope, keys)
                break
            except Awaiting as waiting:
                keys[waiting.key_func] = await waiting.identity()
        if not checks and client is None:
            return self._settle(request, _PASS)
        decision = self._engine.decide_now(checks, client)
        if decision is None:
            decision = await self._engine.decide(checks, client, self._replacing(request, route, keys))
        return self._settle(request, decision)

    def check_blocking(self, request: HTTPConnection, plan: RoutePlan | None, *, scope: str = "") -> Checked:
        """As `check`, for code that cannot await.

        Raises:
            ConfigurationError: the key function is async.
            RateLimitExceeded: refused.
        """
        keys: dict[Any, str] = {}
        try:
            checks, client, route = self._collect(request, plan, scope, keys)
        except Awaiting as waiting:
            waiting.close()
            raise ConfigurationError(
                f"the key function {waiting.key_func!r} is async: make the route `async def`"
            ) from None
        if not checks and client is None:
            return self._settle(request, _PASS)
        return self._settle(
            request, self._engine.decide_blocking(checks, client, self._replacing(request, route, keys))
        )

    def scope_of(self, request: HTTPConnection, endpoint: object) -> str:
        """What a default limit counts for a request, by the key style."""
        if self._key_style == "url":
            return str(request.scope["path"])
        if self._key_style == "endpoint" and hasattr(endpoint, "__name__"):
            return name_of(endpoint)
        return resolve_route(request.scope).template

    def _collect(
        self, request: HTTPConnection, plan: RoutePlan | None, scope: str, keys: dict[Any, str]
    ) -> tuple[Sequence[Check], str | None, str]:
        """The checks, the client where lists or bans need it, and what the route's limits count."""
        try:
            if self._filters and any(passes() for passes in self._filters):
                return [], None, scope
            prepared = plan.prepared if plan is not None else self._prepared.get(scope)
            if prepared is None:
                prepared = self._prepare(plan, scope)
            if plan is not None:
                scope = request.scope["path"] if self._key_style == "url" else plan.name
            if prepared.usable:
                checks: Sequence[Check] = prepared.checks(request, keys)
            else:
                checks = collect(self._sources(plan), request, scope=scope, prefix=self._prefix, keys=keys)
            client = None
            if self._engine.needs_client():
                client = keys.get(self._key_func)
                if client is None:
                    client = identity_of(self._key_func, request, takes_request=self._key_takes_request)
        except Awaiting:
            raise
        except Exception:
            if not self._swallow_errors:
                raise
            _log.exception("a rate limit could not be evaluated; the request passes")
            return [], None, scope
        return checks, client, scope

    def _sources(self, plan: RoutePlan | None) -> list[LimitSource]:
        sources = [*self._application, *(plan.sources if plan else ())]
        if plan is None or not plan.overrides_defaults:
            sources += self._defaults
        return sources

    def _prepare(self, plan: RoutePlan | None, scope: str) -> Prepared:
        if self._key_style == "url":
            return _UNPREPARED  # every URL would be prepared by itself
        counted = plan.name if plan is not None else scope
        meter = self._engine.meter if self._metered else None
        prepared = Prepared(self._sources(plan), scope=counted, prefix=self._prefix, meter=meter)
        if plan is not None:
            plan.prepared = prepared
        else:
            self._prepared[scope] = prepared
        return prepared

    def _replacing(self, request: HTTPConnection, route: str, keys: dict[Any, str]) -> Callable[[], list[Check]] | None:
        if not self._fallbacks:
            return None
        return lambda: collect(self._fallbacks, request, scope=route, prefix=self._prefix, keys=keys)

    def _settle(self, request: HTTPConnection, decision: Decision) -> Checked:
        """Leave the decision where headers and handlers find it, report it, and raise if it refuses."""
        scope = request.scope
        checked = new_tuple(Checked, (decision,))
        if (self._tells or not decision.allowed) and TOLD in scope:
            scope[TOLD].append(checked)
        scope.setdefault("state", {})["view_rate_limit"] = checked if decision.outcomes else None
        if self._events.listeners:
            self._emit(request, decision)
        if decision.allowed:
            return checked
        reason = _REASONS.get(decision.source, "limit")
        check = decision.checks[decision.refused] if decision.refused is not None else None
        check = check or next(iter(decision.checks), None)
        _log.info("rate limit refused a request", extra={"limit": str(check.rule) if check else "", "reason": reason})
        limit = check.limit if check is not None and check.limit is not None else PLACEHOLDER
        raise RateLimitExceeded(limit, reason=reason, decision=decision)

    def _emit(self, request: HTTPConnection, decision: Decision) -> None:
        route = resolve_route(request.scope).template
        if decision.source in ("fallback", "unavailable"):
            for check in decision.checks:
                self._events.emit(LimitFellBack(str(check.rule), route, self._engine.policy(check)))
        if not decision.outcomes and not decision.allowed:
            limit = str(decision.checks[0].rule) if decision.checks else ""
            self._events.emit(LimitExceeded(limit, route, _REASONS.get(decision.source, "limit")))
        for check, outcome in zip(decision.checks, decision.outcomes, strict=False):
            limit, tier = str(check.rule), getattr(check.limit, "tier", "")
            event: Event | None
            if outcome.granted >= 0:
                event = LimitAllowed(limit, route, tier) if decision.allowed else None
            elif check.shadow:
                event = LimitShadowExceeded(limit, route, tier)
            else:
                event = LimitExceeded(limit, route, "limit", tier)
            if event is not None:
                self._events.emit(event)


def name_of(function: object) -> str:
    """`module.name`, as slowapi names endpoints."""
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__name__', type(function).__name__)}"
