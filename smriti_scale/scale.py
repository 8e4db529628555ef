"""`Scale`: settings in, primitives made and wired, an app installed into. Wiring only; each part works alone.

```python
scale = Scale(ScaleSettings(), indexes=INDEXES)
app = FastAPI(lifespan=scale.lifespan)
scale.install(app)
```
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Scope

from smriti_scale.cache import Cache, HTTPCacheMiddleware
from smriti_scale.compression import setup_compression
from smriti_scale.errors import InvalidCausalToken
from smriti_scale.events import Events
from smriti_scale.mongo import (
    CausalToken,
    Indexes,
    MongoClients,
    PositionStore,
    QueryGuard,
    ReadYourWritesMiddleware,
    handle_unavailable,
)
from smriti_scale.monitoring import (
    DEFAULT_SLOS,
    SLO,
    Alerts,
    Check,
    Degraded,
    Draining,
    KeepSlowAndFailed,
    Monitoring,
    ServerTiming,
    Telemetry,
    Webhook,
    health_routes,
    init_sentry,
    loopback_only,
    setup_dashboard,
    setup_logging,
    setup_monitoring,
    setup_request_ids,
)
from smriti_scale.pagination import CursorPaginator
from smriti_scale.ratelimit import LeasePolicy, RateLimiter, client_address, setup_rate_limiting
from smriti_scale.redis_link import RedisLink
from smriti_scale.settings import ScaleSettings

_log = logging.getLogger("smriti_scale.scale")


class Scale:
    """Every primitive of one application.

    Args:
        settings: the knobs.
        indexes: what the database must have; applied or checked at start as `settings.indexes` says.
        identity: the verified user of a request, or None. Limits count by it where it is known, and by client
            address where it is not. It must come from something verified, never from a token's unchecked claims.
        events: where primitives report; a new one by default.
        slos: the objectives that monitoring judges.
        alerts: who is told when one is missed or a server is down; None: `settings.alert_webhook`, or nobody.

    Attributes:
        mongo: `MongoClients`.
        cache: `Cache`, in memory over Redis (memory alone without `redis_url`).
        limiter: `RateLimiter`.
        monitoring: `Monitoring`; None when it is off.
        events: `Events`.
        draining: `Draining`, true from SIGTERM on.
        telemetry: `Telemetry`, where `settings.otel_endpoint` says where to; else None.
    """

    def __init__(
        self,
        settings: ScaleSettings,
        *,
        indexes: Indexes | None = None,
        identity: Callable[[Request], str | None] | None = None,
        events: Events | None = None,
        slos: Sequence[SLO] = DEFAULT_SLOS,
        alerts: Alerts | None = None,
    ) -> None:
        self.settings = settings
        self.events = events or Events()
        self.indexes = indexes
        self._started = False
        delay = settings.drain_delay if settings.drain_delay is not None else 5.0 if settings.is_production else 0.0
        self.draining = Draining(delay=delay, file=settings.drain_file)
        self.monitoring = self._made_monitoring(slos, alerts)
        self.telemetry = self._made_telemetry()
        self._timing = ServerTiming(events=self.events) if settings.server_timing else None
        self.mongo = MongoClients(
            settings.mongodb_uri,
            settings.mongodb_read_uri,
            database=settings.database_name,
            driver=settings.mongodb_driver,
            max_pool_size=settings.max_pool_size,
            min_pool_size=settings.min_pool_size,
            read_preference=settings.read_preference,
            comment=settings.mongo_comments,
            client_options={"event_listeners": self._command_listeners()},
            events=self.events,
        )
        self.cache = Cache(
            settings.redis_url,
            namespace=settings.namespace,
            max_entries=settings.cache_max_entries,
            max_bytes=settings.cache_max_bytes,
            timeout=settings.cache_timeout,
            fill=self._reading_after,
            events=self.events,
        )
        if self.monitoring is not None:
            self.monitoring.sample("mongodb", self.mongo.status)
            self.monitoring.sample("cache", self.cache.stats)
        self._identity = identity
        # Limits, positions and readiness ask little and often: they share one connection.
        self._redis = RedisLink(settings.redis_url) if settings.redis_url else None
        self._positions = (
            PositionStore(self._redis, namespace=settings.namespace, events=self.events)
            if self._redis is not None and settings.read_your_writes
            else None
        )
        address = client_address(trusted_proxies=settings.trusted_proxies)

        def who(request: Request) -> str:
            user = identity(request) if identity else None
            return f"user:{user}" if user else f"address:{address(request)}"

        self.client_address = address
        self.limiter = RateLimiter(
            key_func=who,
            redis=self._redis,
            default_limits=settings.default_limits,
            application_limits=settings.application_limits,
            headers_enabled=True,
            redis_timeout=settings.rate_limit_timeout,
            instances=settings.instances,
            leases=LeasePolicy(size=settings.rate_limit_lease) if settings.rate_limit_lease else None,
            key_prefix=f"{settings.namespace}:limit",
            events=self.events,
        )

    def paginator(self, sort: Sequence[tuple[str, int]], **options: Any) -> CursorPaginator:
        """A `CursorPaginator` with the settings' limits, its cursors signed by a key made for that purpose.

        Args:
            sort: fields and directions, for instance `[("created_at", -1)]`.
            options: further arguments of `CursorPaginator`.
        """
        return CursorPaginator(
            sort=sort,
            secret=self.settings.secrets_for("cursor"),
            default_limit=options.pop("default_limit", self.settings.page_default_limit),
            max_limit=options.pop("max_limit", self.settings.page_max_limit),
            **options,
        )

    def install(self, app: Starlette) -> None:
        """Add middleware, error handlers and health routes. Call it once, after the app's own routes are added."""
        app.state.scale = self
        self._set_up_logging()
        handle_unavailable(app)
        if self.settings.read_your_writes:
            app.add_middleware(
                ReadYourWritesMiddleware,
                mongo=self.mongo,
                secret=self.settings.secrets_for("consistency"),
                cookie_secure=self.settings.environment != "development",
                positions=self._positions,
                identity=self._who if self._identity else None,
            )
        setup_rate_limiting(app, self.limiter)
        setup_compression(app, minimum_size=self.settings.compression_minimum_size, events=self.events)
        if self.settings.http_cache:  # outside of compression: what it keeps is coded already
            app.add_middleware(
                HTTPCacheMiddleware,
                cache=self.cache,
                session_cookies=self.settings.session_cookies,
                events=self.events,
            )
        if self._timing is not None:
            self._timing.install(app)
        if self.telemetry is not None:
            self.telemetry.install(app)
        if self.settings.sentry_dsn is not None:
            app.add_middleware(KeepSlowAndFailed, slow=self.settings.slow_request)
        setup_request_ids(
            app, accept=self.settings.accept_request_ids, trust_traceparent=self.settings.trust_traceparent
        )
        checks = [Check("mongodb", self._ask_mongo)]
        if self._redis is not None:
            checks.append(Check("redis", self._ping_redis, required=False))
        for route in health_routes(checks, draining=self.draining, started=lambda: self._started):
            self.limiter.exempt(route.endpoint)  # a refused probe would take the instance away
            app.router.routes.append(route)
        if self.monitoring is not None:  # outside of all, so that it sees what they do
            self._install_monitoring(app, self.monitoring)

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Any = None) -> AsyncIterator[None]:
        """Open on start, close on stop: give it to the app, or enter it inside the app's own lifespan."""
        self._start_sentry()
        if self.telemetry is not None:
            self.telemetry.start()
        try:
            await self.mongo.warm_up()
            await self._see_to_indexes()
            if self.monitoring is not None:
                await self.monitoring.start()
            with self.draining.watching():
                self._started = True
                yield
        finally:
            self._started = False
            if self.monitoring is not None:  # first, or its next look would open the clients again
                await self.monitoring.aclose()
            await self.cache.aclose()
            await self.limiter.aclose()
            if self._positions is not None:
                await self._positions.aclose()
            if self._redis is not None:
                await self._redis.aclose()
            await self.mongo.aclose()
            if self.telemetry is not None:
                await self.telemetry.aclose()

    def _made_monitoring(self, slos: Sequence[SLO], alerts: Alerts | None) -> Monitoring | None:
        wanted = self.settings.monitoring
        if wanted == "off" or (wanted == "auto" and importlib.util.find_spec("prometheus_client") is None):
            return None
        webhook = self.settings.alert_webhook
        if alerts is None and webhook is not None:
            to = Webhook(webhook, shape=self.settings.alert_webhook_shape)
            alerts = Alerts([to], service=self.settings.namespace)
        return Monitoring(events=self.events, slos=slos, alerts=alerts)

    def _command_listeners(self) -> list[Any]:
        parts = (self.monitoring, self.telemetry, self._timing)
        listeners: list[Any] = [part.command_listener for part in parts if part is not None]
        if self.monitoring is not None:
            listeners.append(QueryGuard(slow_ms=self.settings.slow_query_ms, events=self.events))
        return listeners

    def _install_monitoring(self, app: Starlette, monitoring: Monitoring) -> None:
        token = self.settings.metrics_token
        served = token is not None or not self.settings.is_production
        if not served:
            _log.warning("SCALE_METRICS_TOKEN is not set: in production the figures are not served without one")
        setup_monitoring(
            app,
            monitoring,
            metrics_path=self.settings.metrics_path if served else None,
            metrics_token=token.get_secret_value() if token else None,
            lifespan=False,
        )
        for route in app.router.routes:
            if isinstance(route, Route) and route.path == self.settings.metrics_path:
                self.limiter.exempt(route.endpoint)  # figures are wanted most when everything is refused
        self._install_dashboard(app, monitoring)

    def _install_dashboard(self, app: Starlette, monitoring: Monitoring) -> None:
        token, development = self.settings.dashboard_token, self.settings.environment == "development"
        if token is None and not development:
            return
        setup_dashboard(
            app,
            monitoring,
            path=self.settings.dashboard_path,
            token=token.get_secret_value() if token else None,
            allow=None if token else loopback_only,
            title=self.settings.namespace,
            cookie_secure=False if development else None,
            stopping=self.draining,
        )

    def _who(self, scope: Scope) -> str | None:
        return self._identity(Request(scope)) if self._identity and scope["type"] == "http" else None

    @contextlib.asynccontextmanager
    async def _reading_after(self, positions: Sequence[str]) -> AsyncIterator[None]:
        """The cache's fill hook: what it loads is no older than the invalidations that made it load."""
        newest = self.mongo.position
        for position in positions:
            with contextlib.suppress(InvalidCausalToken):  # of another cluster, before a move
                newest = CausalToken.decode(position).merge(newest)
        async with self.mongo.consistent(newest):
            yield

    async def _ask_mongo(self) -> Degraded | None:
        """Reads go on without a primary, so the instance stays of use."""
        available = await self.mongo.availability(timeout=0.8)
        return None if available == "writable" else Degraded(available)

    async def _ping_redis(self) -> None:
        if self._redis is not None:
            await self._redis.pipe.send("PING")

    async def _see_to_indexes(self) -> None:
        if self.indexes is None or self.settings.indexes == "off":
            return
        if self.settings.indexes == "apply":
            await self.indexes.apply(self.mongo.write, events=self.events)
            return
        plan = await self.indexes.plan(self.mongo.write)
        if not plan.is_empty:
            _log.warning("the database lacks declared indexes: apply the plan\n%s", plan)

    def _set_up_logging(self) -> None:
        form = self.settings.log_format
        if form == "auto":
            form = "json" if self.settings.is_production and not logging.getLogger().handlers else "off"
        if form != "off":
            setup_logging(self.settings.log_level, form=form)

    def _made_telemetry(self) -> Telemetry | None:
        endpoint = self.settings.otel_endpoint
        if endpoint is None:
            return None
        return Telemetry(
            self.settings.namespace,
            endpoint=endpoint,
            environment=self.settings.environment,
            release=self.settings.release,
            traces_sample_rate=self.settings.traces_sample_rate,
            registry=self.monitoring.metrics.registry if self.monitoring is not None else None,
            untraced=(self.settings.metrics_path,),
            events=self.events,
        )

    def _start_sentry(self) -> None:
        dsn = self.settings.sentry_dsn
        init_sentry(
            dsn.get_secret_value() if dsn else None,
            environment=self.settings.environment,
            release=self.settings.release,
            traces_sample_rate=self.settings.traces_sample_rate,
        )
