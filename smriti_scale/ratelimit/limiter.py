"""`RateLimiter`: slowapi's `Limiter` with an awaited decision in one round trip."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, ParamSpec, TypeVar, overload
from urllib.parse import urlencode, urlsplit

from slowapi import Limiter
from slowapi.extension import HEADERS
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from smriti_scale.breaker import CircuitBreaker
from smriti_scale.clock import Clock
from smriti_scale.errors import ConfigurationError
from smriti_scale.events import Events
from smriti_scale.ratelimit.checked import Checked
from smriti_scale.ratelimit.compat import BlockingStorage, BlockingStrategy
from smriti_scale.ratelimit.decorate import guard
from smriti_scale.ratelimit.enforcement import Enforcer, KeyStyle, name_of
from smriti_scale.ratelimit.engine import Engine
from smriti_scale.ratelimit.headers import HeaderNames, write_headers
from smriti_scale.ratelimit.identity import IdentityList
from smriti_scale.ratelimit.leases import LeasePolicy
from smriti_scale.ratelimit.memory_store import MemoryStore
from smriti_scale.ratelimit.plans import (
    LimitSource,
    RoutePlan,
    attach_plan,
    is_exempt,
    mark_exempt,
    plan_of,
)
from smriti_scale.ratelimit.redis_store import RedisStore
from smriti_scale.ratelimit.rules import (
    CODES,
    BanPolicy,
    Decision,
    OnFailure,
    Standing,
    Strategy,
    identity_key,
)
from smriti_scale.redis_failures import REDIS_FAILURES
from smriti_scale.redis_link import RedisClient, RedisLink
from smriti_scale.routing import METHODS

P = ParamSpec("P")
R = TypeVar("R")
Provider = str | Callable[..., str]

_RELIED_ON = (
    "_check_request_limit",
    "_inject_headers",
    "_inject_asgi_headers",
    "get_app_config",
    "limit",
    "shared_limit",
    "exempt",
    "reset",
)

if missing := [name for name in _RELIED_ON if not hasattr(Limiter, name)]:
    raise ImportError(
        f"this slowapi has no {', '.join(missing)} on its Limiter; smriti_scale.ratelimit replaces it: "
        "install slowapi>=0.1.9,<0.2"
    )


class RateLimiter(Limiter):
    """slowapi's `Limiter`, drop-in: the same arguments and decorators, and a decision that never blocks the loop.

    All limits of a request are charged in one round trip to Redis, or none of them is. While Redis is slow or down,
    limits are counted in memory, each instance admitting its part.

    Args:
        key_func: who is counted; see `client_address`, `user_or_address`, `api_key`. Takes the `request`, or nothing.
        default_limits: limits of every route that declares none, each route by itself.
        application_limits: limits that all routes share.
        headers_enabled: write `X-RateLimit-Limit`, `-Remaining`, `-Reset`, and `Retry-After` on every answer.
            A refusal has its `Retry-After` in any case.
        strategy: `fixed-window` (default), `sliding-window-counter`, `moving-window` or `gcra`.
        storage_uri: `memory://` (default) or a Redis URL, see `smriti_scale.redis_link`.
        storage_options: options of the Redis client that fit in a URL.
        auto_check: False leaves decorated routes unchecked.
        swallow_errors: let a request pass when a key function, cost or the like raises.
        in_memory_fallback: limits that replace all others while Redis fails, counted in each process.
        in_memory_fallback_enabled: accepted for slowapi; falling back is the default, see `on_redis_failure`.
        retry_after: `"http-date"` writes dates in place of seconds.
        key_prefix: begins every key in Redis: `{key_prefix}:ratelimit:{caller}`.
        enabled: False lets everything pass.
        config_filename: a file for Starlette's `Config` with slowapi's `RATELIMIT_*` settings.
        key_style: what a limit counts: `route`: decorated functions each by themselves, defaults by route template;
            slowapi's `endpoint`: by the function's name; slowapi's `url`: every URL by itself.
        redis: a `RedisLink` or client to use in place of `storage_uri`; its owner closes it.
        redis_timeout: deadline of a decision, seconds.
        instances: processes that serve the application: while Redis fails, each admits this part of a limit.
        on_redis_failure: `memory`, `deny` (fail closed: 503) or `allow`; also an argument of `limit`.
        shadow: count and report, refuse nothing.
        leases: for hot keys: take several units from Redis at once and spend them in memory, see `LeasePolicy`.
        ban: who is refused too often is refused altogether for a while.
        allow, deny: identities, addresses or networks that are always let through, or always refused (403).
        ietf_headers: write the IETF draft's `RateLimit-Policy` and `RateLimit`.
        max_callers: callers remembered in memory.
        events: where `LimitAllowed`, `LimitExceeded`, `LimitShadowExceeded` and `LimitFellBack` go.
        clock: the source of time, for tests; in production the server's own, or `time.time` in memory.

    Raises:
        ConfigurationError: an argument that cannot work; the message says what to do.
    """

    guards_undecorated: bool
    """Whether the middleware has anything to enforce: defaults, lists, bans, or routes that yield."""

    def __init__(
        self,
        key_func: Callable[..., Any],
        default_limits: Sequence[Provider] = (),
        application_limits: Sequence[Provider] = (),
        headers_enabled: bool = False,
        strategy: Strategy | None = None,
        storage_uri: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
        auto_check: bool = True,
        swallow_errors: bool = False,
        in_memory_fallback: Sequence[Provider] = (),
        in_memory_fallback_enabled: bool = False,
        retry_after: str | None = None,
        key_prefix: str = "",
        enabled: bool = True,
        config_filename: str | None = None,
        key_style: KeyStyle = "route",
        *,
        redis: RedisLink | RedisClient | None = None,
        redis_timeout: float = 0.05,
        instances: int = 1,
        on_redis_failure: OnFailure = "memory",
        shadow: bool = False,
        leases: LeasePolicy | None = None,
        ban: BanPolicy | None = None,
        allow: Iterable[str] = (),
        deny: Iterable[str] = (),
        ietf_headers: bool = False,
        max_callers: int = 100_000,
        events: Events | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(
            key_func,
            headers_enabled=headers_enabled,
            strategy="fixed-window",
            storage_uri="memory://",
            storage_options={},
            auto_check=auto_check,
            swallow_errors=swallow_errors,
            in_memory_fallback_enabled=in_memory_fallback_enabled,
            retry_after=retry_after,
            key_prefix=key_prefix,
            enabled=enabled,
            config_filename=config_filename,
            key_style="url",
        )
        setting = self.get_app_config
        counting: Any = strategy or setting("RATELIMIT_STRATEGY", "fixed-window")
        if counting not in CODES:
            raise ConfigurationError(f"unknown strategy {counting!r}: use one of {', '.join(CODES)}")
        self._counting: Strategy = counting
        if key_style not in ("route", "endpoint", "url"):
            raise ConfigurationError(f"unknown key_style {key_style!r}: use 'route', 'endpoint' or 'url'")
        if instances < 1:
            raise ConfigurationError(f"instances must be at least 1, not {instances}")
        self.events = events if events is not None else Events()
        self.allowed = IdentityList(allow)
        self.denied = IdentityList(deny)
        self.shadow = shadow
        self._ietf = ietf_headers
        self._names = HeaderNames(
            limit=self._header_mapping[HEADERS.LIMIT],
            remaining=self._header_mapping[HEADERS.REMAINING],
            reset=self._header_mapping[HEADERS.RESET],
            retry_after=self._header_mapping[HEADERS.RETRY_AFTER],
        )
        self._plainly = self._headers_enabled and not ietf_headers and self._retry_after != "http-date"
        self._names_taken: dict[str, int] = {}
        self._duties: dict[tuple[object, str], RoutePlan | Literal["defaults"] | None] = {}
        options = storage_options or {}
        own_prefix = str(self._key_prefix or "")
        prefix = f"{own_prefix.rstrip(':')}:ratelimit".lstrip(":")
        link = _link(redis, storage_uri or setting("RATELIMIT_STORAGE_URL", "memory://"), options)
        self._engine = Engine(
            MemoryStore(max_callers=max_callers, clock=clock),
            RedisStore(link, prefix=prefix, timeout=redis_timeout, clock=clock) if link else None,
            CircuitBreaker(
                "ratelimit",
                failures=REDIS_FAILURES,
                threshold=3,
                reset_after=1.0,
                reset_max=5.0,
                timeout=redis_timeout,
                events=self.events,
            ),
            instances=instances,
            on_redis_failure=on_redis_failure,
            leases=leases,
            ban=ban,
            allowed=self.allowed,
            denied=self.denied,
            owns_link=not isinstance(redis, RedisLink),
        )
        self._enforcer = Enforcer(
            self._engine,
            key_func,
            application=self._sources(application_limits or setting("RATELIMIT_APPLICATION"), scope="global"),
            defaults=self._sources(default_limits or setting("RATELIMIT_DEFAULT")),
            fallbacks=self._sources(in_memory_fallback or setting("RATELIMIT_IN_MEMORY_FALLBACK")),
            filters=self._request_filters,
            key_style=key_style,
            prefix=own_prefix,
            swallow_errors=self._swallow_errors,
            tells=self._headers_enabled or ietf_headers,
            events=self.events,
        )
        self._guards = self._enforcer.has_general_limits or ban is not None
        for identities in (self.allowed, self.denied):
            identities.watch(self._look_again)
        self._look_again()
        storage = BlockingStorage(self._engine, self.reset)
        self._storage = storage  # type: ignore[assignment]  # the part of it that slowapi uses
        self._limiter = BlockingStrategy(self._engine, storage, self._counting)
        self.check_now = self._enforcer.check_now
        self.check = self._enforcer.check
        self.check_blocking = self._enforcer.check_blocking
        self.scope_of = self._enforcer.scope_of

    @property
    def active(self) -> bool:
        """Whether requests are checked at all."""
        return self.enabled and self._auto_check

    @property
    def breaker(self) -> CircuitBreaker:
        """What stands before Redis; its state says whether Redis is asked."""
        return self._engine.breaker

    @property
    def tells_more(self) -> bool:
        """Whether answers are to tell more than the default ones do, which have `Retry-After` for a refusal."""
        return (
            self._headers_enabled
            or self._ietf
            or self._retry_after == "http-date"
            or self._names.retry_after != HeaderNames.retry_after
        )

    def _look_again(self) -> None:
        """Lists, filters or routes have changed."""
        self.guards_undecorated = self._guards or self.allowed.filled or self.denied.filled
        self._enforcer.look_again()

    def duty_of(self, endpoint: object, method: str) -> RoutePlan | Literal["defaults"] | None:
        """What the middleware checks for an endpoint: the defaults, the plan of a route that yields, or nothing."""
        key = (endpoint, method if method in METHODS else "")
        try:
            return self._duties[key]
        except KeyError:
            pass
        except TypeError:  # an endpoint that cannot be a key
            return self._duty_of(*key)
        duty = self._duties[key] = self._duty_of(*key)
        return duty

    def _duty_of(self, endpoint: object, method: str) -> RoutePlan | Literal["defaults"] | None:
        if is_exempt(endpoint, method):
            return None
        plan = plan_of(endpoint, self, method)
        if plan is None:
            return "defaults"
        return plan if plan.by_middleware else None

    # --- decorators

    def limit(
        self,
        limit_value: Provider,
        key_func: Callable[..., Any] | None = None,
        per_method: bool = False,
        methods: list[str] | None = None,
        error_message: str | Callable[..., str] | None = None,
        exempt_when: Callable[..., bool] | None = None,
        cost: int | Callable[..., int] = 1,
        override_defaults: bool = True,
        *,
        strategy: Strategy | None = None,
        burst: int | None = None,
        shadow: bool = False,
        on_redis_failure: OnFailure | None = None,
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Limit a route. Put it below the router's decorator; the function needs a `request` (or `websocket`).

        Args:
            limit_value: `"5/minute;100/hour"`, or a function that returns such a string: of nothing, of `key` (the
                identity), or of `request` (see `tiers`).
            key_func: who is counted, in place of the limiter's own.
            per_method: count each HTTP method by itself.
            methods: limit these methods only.
            error_message: the error's `detail`, or a function that returns it.
            exempt_when: a function, of nothing or of the request; True lets the request pass uncounted.
            cost: units that a request takes, or a function of the request.
            override_defaults: False has `default_limits` apply as well.
            strategy: in place of the limiter's own.
            burst: for GCRA: units that may be spent at once; the limit's amount unless given.
            shadow: count and report, refuse nothing.
            on_redis_failure: in place of the limiter's own; `deny` for a login.

        Raises:
            ConfigurationError: the limit cannot be parsed, or the function has no request.
        """
        return self._decorator(
            LimitSource(
                limit_value,
                key_func or self._key_func,
                strategy=strategy or self._counting,
                per_method=per_method,
                methods=methods,
                error_message=error_message,
                exempt_when=exempt_when,
                cost=cost,
                override_defaults=override_defaults,
                burst=burst,
                shadow=shadow or self.shadow,
                on_redis_failure=on_redis_failure,
            )
        )

    def shared_limit(
        self,
        limit_value: Provider,
        scope: str | Callable[..., str],
        key_func: Callable[..., Any] | None = None,
        error_message: str | Callable[..., str] | None = None,
        exempt_when: Callable[..., bool] | None = None,
        cost: int | Callable[..., int] = 1,
        override_defaults: bool = True,
        *,
        strategy: Strategy | None = None,
        burst: int | None = None,
        shadow: bool = False,
        on_redis_failure: OnFailure | None = None,
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """As `limit`, counted together for all routes that give the same `scope`."""
        return self._decorator(
            LimitSource(
                limit_value,
                key_func or self._key_func,
                strategy=strategy or self._counting,
                scope=scope,
                error_message=error_message,
                exempt_when=exempt_when,
                cost=cost,
                override_defaults=override_defaults,
                burst=burst,
                shadow=shadow or self.shadow,
                on_redis_failure=on_redis_failure,
            )
        )

    def exempt(self, obj: Callable[P, R]) -> Callable[P, R]:
        """Take a route out of defaults and application limits."""
        self._exempt_routes.add(name_of(obj))
        mark_exempt(obj)
        self._duties.clear()
        return obj

    def request_filter(self, function: Callable[[], bool]) -> Callable[[], bool]:
        """Let requests pass unlimited while `function()` is true; usable as a decorator."""
        self._request_filters.append(function)
        self._look_again()
        return function

    # --- looking and forgetting

    async def peek(self, identity: str) -> Standing:
        """Where a caller stands, without charging it.

        Args:
            identity: as the key function returns it.
        """
        key = identity_key(identity)
        if self._engine.redis is None:
            limits, banned_until = self._engine.memory.peek(key)
        else:
            limits, banned_until = await self._engine.redis.peek(key)
        return Standing(tuple(limits), banned_until or None)

    @overload
    def reset(self) -> None: ...
    @overload
    def reset(self, identity: str) -> Awaitable[None]: ...
    def reset(self, identity: str | None = None) -> Awaitable[None] | None:
        """Forget what was counted: `await limiter.reset(identity)` for one caller, with its ban.

        Without an argument, as slowapi has it, everybody is forgotten, and this blocks.
        """
        if identity is not None:
            return self._engine.forget(identity_key(identity))
        if self._engine.redis is None:
            self._engine.memory.clear()
        else:
            self._engine.run_blocking(self._engine.clear)
        return None

    async def aclose(self) -> None:
        """Close what the limiter opened. `setup_rate_limiting` does it when the application stops."""
        await self._engine.aclose()

    # --- headers

    def write_headers(self, headers: MutableHeaders, decision: Decision) -> None:
        """Add what an answer should tell about a decision."""
        write_headers(
            headers,
            decision,
            names=self._names,
            limits=self._headers_enabled and self.enabled,
            ietf=self._ietf,
            http_date=self._retry_after == "http-date",
        )

    def tell(self, message: Message, checked: Checked) -> None:
        """Add to the start of an answer what it should tell."""
        headers = message["headers"] = list(message.get("headers") or ())
        if self._plainly and checked.append_fields(headers, self._names):
            return
        self.write_headers(MutableHeaders(raw=headers), checked.decision)

    def _inject_headers(self, response: Response, current_limit: Any) -> Response:
        if self.enabled and self._headers_enabled and current_limit is not None:
            if not isinstance(response, Response):
                raise ConfigurationError("parameter `response` must be an instance of starlette.responses.Response")
            self._inject_asgi_headers(response.headers, current_limit)
        return response

    def _inject_asgi_headers(self, headers: MutableHeaders, current_limit: Any) -> MutableHeaders:
        decision = getattr(current_limit, "decision", None)
        if decision is not None:
            self.write_headers(headers, decision)
        return headers

    # --- slowapi's own middleware

    def _check_request_limit(
        self, request: Request, endpoint_func: Callable[..., Any] | None, in_middleware: bool = True
    ) -> None:
        """What slowapi's middleware calls; it cannot await, so with Redis it blocks for up to the deadline."""
        plan = plan_of(endpoint_func, self, request.method)
        if not self.enabled or is_exempt(endpoint_func, request.method) or (in_middleware and plan is not None):
            request.state.view_rate_limit = None
            return
        self.check_blocking(request, plan, scope=self.scope_of(request, endpoint_func))

    # --- setting up

    def _decorator(self, source: LimitSource) -> Callable[[Callable[P, R]], Callable[P, R]]:
        def decorate(function: Callable[P, R]) -> Callable[P, R]:
            plan = plan_of(function, self)
            guarded = function
            if plan is None:
                plan = RoutePlan(self, self._free_name(name_of(function)))
                guarded = guard(function, plan)
                self._guards |= plan.by_middleware
                self._look_again()
                attach_plan(guarded, plan)
            plan.sources.append(source)
            plan.prepared = None
            self._duties.clear()
            name = name_of(function)
            # slowapi's middleware looks here for routes that it must leave to their decorator.
            if source.static is not None:
                self._route_limits.setdefault(name, []).extend(source.static)
            else:
                self._dynamic_route_limits.setdefault(name, [])
            return guarded

        return decorate

    def _free_name(self, name: str) -> str:
        """Two functions of one name in one module are two routes with a limit each."""
        count = self._names_taken[name] = self._names_taken.get(name, 0) + 1
        return name if count == 1 else f"{name}#{count}"

    def _sources(self, limits: Sequence[Provider] | Provider | None, *, scope: str | None = None) -> list[LimitSource]:
        given = [limits] if isinstance(limits, str) or callable(limits) else limits or []
        return [
            LimitSource(limit, self._key_func, strategy=self._counting, scope=scope, shadow=self.shadow)
            for limit in dict.fromkeys(given)
        ]


def _link(redis: RedisLink | RedisClient | None, uri: str, options: Mapping[str, Any]) -> RedisLink | None:
    if redis is not None:
        return redis if isinstance(redis, RedisLink) else RedisLink(redis)
    scheme = urlsplit(uri).scheme.removeprefix("async+")
    if scheme == "memory":
        return None
    if "redis" not in scheme and scheme not in ("rediss", "unix"):
        raise ConfigurationError(
            f"storage {scheme!r} is not supported: use memory:// or a Redis URL (redis://, redis+sentinel://, "
            "redis+cluster://)"
        )
    if options:
        uri += ("&" if "?" in uri else "?") + urlencode({name: str(value) for name, value in options.items()})
    return RedisLink(uri.removeprefix("async+"))
