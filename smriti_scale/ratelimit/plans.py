"""Which limits a request meets: those of its function, of the application, and the defaults.

A plan belongs to one decorated function (never to its name, which another function may bear too). Collecting turns
it into checks for one request, without I/O.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from slowapi.wrappers import Limit
from starlette.requests import HTTPConnection

from smriti_scale.errors import ConfigurationError
from smriti_scale.ratelimit.checked import Meter
from smriti_scale.ratelimit.rules import Check, OnFailure, Rule, Strategy, identity_key, parse_limits
from smriti_scale.ratelimit.tiers import Tiers

if TYPE_CHECKING:
    from smriti_scale.ratelimit.limiter import RateLimiter

_log = logging.getLogger("smriti_scale.ratelimit")
_PLANS = "__rate_limits__"
_EXEMPT = "__rate_limit_exempt__"
_KNOWN_CALLERS, _KNOWN_LENGTH = 2048, 128
NOBODY = "(none)"
"""Whoever the key function has no name for: they share one allowance, so that having no name evades nothing."""


class RouteLimit(Limit):
    """slowapi's `Limit` with its parsed rule, and what is ours: shadow mode, failure policy, tier."""

    def __init__(
        self, source: LimitSource, rule: Rule, *, scope: str | Callable[..., str] | None, tier: str = ""
    ) -> None:
        super().__init__(
            rule.item,
            source.key_func,
            scope,
            source.per_method,
            source.methods,  # type: ignore[arg-type]  # slowapi reads it only
            source.error_message,
            source.exempt_when,
            source.cost,
            source.override_defaults,
        )
        self.rule = rule
        self.shadow = source.shadow
        self.on_redis_failure = source.on_redis_failure
        self.tier = tier


class LimitSource:
    """What a decorator, or a default, was given: a limit string or a function that returns one.

    Args:
        provider: `"5/minute;100/hour"`, or a function that returns such a string: of nothing, of `key` (the identity)
            or of `request`.
        key_func: who is counted.
        strategy: how it counts.
        scope: what is counted; None for the route itself; a function is called with the route, or with nothing.

    The other arguments are those of `RateLimiter.limit`.

    Raises:
        ConfigurationError: a limit string that cannot be parsed.
    """

    def __init__(
        self,
        provider: str | Callable[..., str],
        key_func: Callable[..., Any],
        *,
        strategy: Strategy,
        scope: str | Callable[..., str] | None = None,
        per_method: bool = False,
        methods: Sequence[str] | None = None,
        error_message: str | Callable[..., str] | None = None,
        exempt_when: Callable[..., bool] | None = None,
        cost: int | Callable[..., int] = 1,
        override_defaults: bool = True,
        burst: int | None = None,
        shadow: bool = False,
        on_redis_failure: OnFailure | None = None,
    ) -> None:
        self.key_func = key_func
        self.strategy = strategy
        self.per_method = per_method
        self.methods = frozenset(method.lower() for method in methods) if methods is not None else None
        self.error_message = error_message
        self.exempt_when = exempt_when
        self.cost = cost
        self.override_defaults = override_defaults
        self.burst = burst
        self.shadow = shadow
        self.on_redis_failure = on_redis_failure
        self.scope = scope
        self._provider = provider
        self._cache: dict[tuple[str, str], tuple[RouteLimit, ...]] = {}
        self.key_takes_request = "request" in inspect.signature(key_func).parameters
        self.exempt_takes_request = exempt_when is not None and len(inspect.signature(exempt_when).parameters) == 1
        self.scope_takes_route = callable(scope) and bool(inspect.signature(scope).parameters)
        self.static: tuple[RouteLimit, ...] | None = None
        if callable(provider):
            parameters = inspect.signature(provider).parameters
            self.provider_takes = next((name for name in ("key", "request") if name in parameters), "")
            if self.provider_takes == "key" and not self.key_takes_request:
                raise ConfigurationError(
                    f"{provider!r} takes a key, so its key function {key_func!r} must take the `request`"
                )
        else:
            self.static = self._limits_of(provider)

    @property
    def depends_on_caller_only(self) -> bool:
        """Whether a request changes nothing about these limits but who is counted."""
        return (
            self.static is not None
            and self.exempt_when is None
            and self.methods is None
            and not self.per_method
            and not callable(self.scope)
            and isinstance(self.cost, int)
        )

    def limits(self, request: HTTPConnection, key: str | None = None) -> tuple[RouteLimit, ...]:
        """The limits for one request. A provider's bad string is logged and limits nothing, as with slowapi."""
        if self.static is not None:
            return self.static
        provider: Any = self._provider
        tier = ""
        if self.provider_takes == "key":
            text = provider(self.key_func(request) if key is None else key)
        elif isinstance(provider, Tiers):
            text, tier = provider.resolve(request)  # type: ignore[arg-type]  # a WebSocket serves as well
        elif self.provider_takes == "request":
            text = provider(request)
        else:
            text = provider()
        try:
            return self._limits_of(text, tier)
        except ConfigurationError as error:
            _log.error("a limit provider returned no limit: %s", error, extra={"provider": repr(provider)})
            return ()

    def _limits_of(self, text: str, tier: str = "") -> tuple[RouteLimit, ...]:
        known = self._cache.get((text, tier))
        if known is None:
            if len(self._cache) >= 1024:
                self._cache.clear()
            known = self._cache[text, tier] = tuple(
                RouteLimit(self, rule, scope=self.scope, tier=tier)
                for rule in parse_limits(text, self.strategy, self.burst)
            )
        return known


class RoutePlan:
    """The limits of one decorated function."""

    def __init__(self, limiter: RateLimiter, name: str) -> None:
        self.limiter = limiter
        self.name = name
        self.sources: list[LimitSource] = []
        self.by_middleware = False
        self.prepared: Prepared | None = None

    @property
    def overrides_defaults(self) -> bool:
        return any(source.override_defaults for source in self.sources)


def plan_of(endpoint: object, limiter: object, method: str = "") -> RoutePlan | None:
    """The plan that a limiter has for an endpoint (a function, partial, or a class with a method for each verb)."""
    for candidate in _candidates(endpoint, method):
        plans: tuple[RoutePlan, ...] = getattr(candidate, _PLANS, ())
        for plan in plans:
            if plan.limiter is limiter:
                return plan
    return None


def attach_plan(function: object, plan: RoutePlan) -> None:
    """Let `function` carry the plan; wrappers made with `functools.wraps` carry it on."""
    setattr(function, _PLANS, (*getattr(function, _PLANS, ()), plan))


def mark_exempt(function: object) -> None:
    setattr(function, _EXEMPT, True)


def is_exempt(endpoint: object, method: str = "") -> bool:
    return any(getattr(candidate, _EXEMPT, False) for candidate in _candidates(endpoint, method))


def _candidates(endpoint: object, method: str) -> Iterator[object]:
    while isinstance(endpoint, functools.partial):
        endpoint = endpoint.func
    if inspect.isclass(endpoint) and method:
        handler = getattr(endpoint, method.lower(), None)
        if handler is None and method == "HEAD":
            handler = getattr(endpoint, "get", None)
        if handler is not None:
            yield handler
    yield endpoint


class Awaiting(Exception):
    """A key function answered with an awaitable: the identity has to be awaited, then collecting begins again."""

    def __init__(self, key_func: Callable[..., Any], awaitable: Awaitable[object]) -> None:
        self.key_func = key_func
        self._awaitable = awaitable

    async def identity(self) -> str:
        found = await self._awaitable
        return str(found) if found is not None and found != "" else NOBODY

    def close(self) -> None:
        if inspect.iscoroutine(self._awaitable):
            self._awaitable.close()


class Prepared:
    """The checks of a route, ready but for the caller: for limits that do not depend on the request otherwise.

    Args:
        sources: the limits.
        scope: what they count.
        prefix: slowapi's key prefix.
        meter: makes what charges the checks of one caller, where there are such.
    """

    __slots__ = ("_limits", "_meter", "_prefix", "key_func", "known", "metered_by", "meters", "usable")

    usable: bool
    """Whether the checks can be made this way."""

    key_func: Callable[..., Any] | None
    """The one key function of all the limits, if it takes the request: then a caller's checks are kept."""

    metered_by: Callable[..., Any] | None
    """The same, where there are meters."""

    def __init__(
        self,
        sources: Sequence[LimitSource],
        *,
        scope: str,
        prefix: str,
        meter: Callable[[Sequence[Check]], Meter] | None = None,
    ) -> None:
        self._prefix = prefix
        self._meter = meter
        self._limits = [
            (source, [(limit.rule, f"{limit.rule.key} {counted}", limit) for limit in source.static or ()], counted)
            for source in sources
            for counted in [source.scope or scope]
        ]
        fields = [field for _, parts, _ in self._limits for _, field, _ in parts]
        self.usable = len(set(fields)) == len(fields) and all(source.depends_on_caller_only for source in sources)
        key_funcs = {(source.key_func, source.key_takes_request) for source in sources}
        alone = key_funcs.pop() if len(key_funcs) == 1 else None
        self.key_func = alone[0] if alone is not None and alone[1] and self.usable else None
        self.metered_by = self.key_func if meter is not None else None
        self.known: dict[str, tuple[Check, ...]] = {}
        """The checks of callers that were here before."""
        self.meters: dict[str, Meter] = {}
        """What charges them."""

    def checks(self, request: HTTPConnection, keys: dict[Any, str]) -> Sequence[Check]:
        """As `collect`."""
        key_func = self.key_func
        if key_func is None:
            return self._made(request, keys)
        key = keys.get(key_func)
        if key is None:
            key = keys[key_func] = named(key_func, key_func(request))
        if (known := self.known.get(key)) is not None:
            return known
        made = self._made(request, keys)
        if len(key) <= _KNOWN_LENGTH:
            if len(self.known) >= _KNOWN_CALLERS:
                self.known.clear()
                self.meters.clear()
            self.known[key] = made
            if self._meter is not None:
                self.meters[key] = self._meter(made)
        return made

    def _made(self, request: HTTPConnection, keys: dict[Any, str]) -> tuple[Check, ...]:
        checks = []
        prefix = self._prefix
        for source, parts, counted in self._limits:
            key_func = source.key_func
            key = keys.get(key_func)
            if key is None:
                key = keys[key_func] = identity_of(key_func, request, takes_request=source.key_takes_request)
            identity = identity_key(key)
            names: Any = (prefix, key, counted) if prefix else (key, counted)
            cost: Any = source.cost  # a number, else it would not be usable
            for rule, field, limit in parts:
                checks.append(Check(rule, identity, field, cost, limit.shadow, limit, names))
        return tuple(checks)


def collect(
    sources: Iterable[LimitSource],
    request: HTTPConnection,
    *,
    scope: str,
    prefix: str,
    keys: dict[Any, str],
) -> list[Check]:
    """The checks of one request.

    Args:
        sources: where limits come from.
        request: the request or WebSocket.
        scope: what limits without a scope of their own count: the route, endpoint or URL.
        prefix: slowapi's key prefix, kept in `Check.names`.
        keys: identities by key function, so that each function is asked once a request.

    Raises:
        Awaiting: a key function is async.
    """
    checks: list[Check] = []
    for source in sources:
        if source.exempt_when is not None and (
            source.exempt_when(request) if source.exempt_takes_request else source.exempt_when()
        ):
            continue
        if source.methods is not None and request.scope.get("method", "websocket").lower() not in source.methods:
            continue
        key_func = source.key_func
        key = keys.get(key_func)
        if key is None:
            key = keys[key_func] = identity_of(key_func, request, takes_request=source.key_takes_request)
        counted = source.scope
        if callable(counted):
            counted = counted(scope) if source.scope_takes_route else counted()
        counted = counted or scope
        if source.per_method:
            counted = f"{counted}:{request.scope.get('method', 'WEBSOCKET')}"
        cost = source.cost if isinstance(source.cost, int) else _cost(source.cost, request)
        for limit in source.static if source.static is not None else source.limits(request, key):
            rule = limit.rule
            names = (prefix, key, counted) if prefix else (key, counted)
            checks.append(Check(rule, identity_key(key), f"{rule.key} {counted}", cost, limit.shadow, limit, names))
    return checks if len(checks) < 2 else _without_repeats(checks)


def identity_of(key_func: Callable[..., Any], request: HTTPConnection, *, takes_request: bool) -> str:
    """The identity of a request by a key function; `NOBODY` where it has none.

    Raises:
        Awaiting: the key function is async.
    """
    return named(key_func, key_func(request) if takes_request else key_func())


def named(key_func: Callable[..., Any], found: object) -> str:
    """What a key function returned, as an identity.

    Raises:
        Awaiting: the key function is async.
    """
    if type(found) is str:
        return found or NOBODY
    if inspect.isawaitable(found):
        raise Awaiting(key_func, found)
    return str(found) if found is not None else NOBODY


def _cost(cost: Callable[..., int], request: HTTPConnection) -> int:
    # slowapi allows fractions here; whatever is begun is paid, and nobody gains by a negative cost.
    value = cost(request)
    return max(0, -int(-value // 1))


def _without_repeats(checks: list[Check]) -> list[Check]:
    """The same limit twice on the same counter is one limit."""
    unique: dict[tuple[str, str], Check] = {}
    for check in checks:
        known = unique.get((check.identity, check.field))
        if known is None or known.cost < check.cost or (known.shadow and not check.shadow):
            unique[check.identity, check.field] = check
    return list(unique.values())
