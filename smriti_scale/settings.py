"""Every knob of `Scale`, read from the environment (or a `.env` file) and checked once, at start.

The conventional names stand without a prefix (`MONGODB_URI`, `REDIS_URL`, `SECRET_KEY`, `ENVIRONMENT`,
`SENTRY_DSN`, …); all others are `SCALE_` and the field's name in capitals. Lists are comma-separated.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from smriti_scale.errors import ConfigurationError

DEVELOPMENT_SECRET = "development-only-secret-never-use-in-production"  # noqa: S105 - refused in production
MINIMUM_SECRET_LENGTH = 32

Strings = Annotated[tuple[str, ...], NoDecode]


def _plain(name: str) -> Any:
    """The conventional name of a variable, beside the prefixed one."""
    return AliasChoices(f"SCALE_{name}", name)


class ScaleSettings(BaseSettings):
    """The settings of one application. Subclass it to add the application's own.

    Raises:
        pydantic.ValidationError: a value is out of range, or the environment is `production` and the secret is
            missing, the default one, or shorter than 32 characters.
    """

    model_config = SettingsConfigDict(
        env_prefix="SCALE_",
        env_file=".env",
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        hide_input_in_errors=True,  # the input holds secrets
    )

    environment: Literal["development", "test", "production"] = Field(
        "development", validation_alias=_plain("ENVIRONMENT")
    )
    secret_key: SecretStr = Field(SecretStr(DEVELOPMENT_SECRET), validation_alias=_plain("SECRET_KEY"))
    """Signs cursors and consistency tokens, through keys derived for each purpose."""
    previous_secret_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    """Keys that still verify, but no longer sign: put the old key here while rotating."""
    namespace: str = Field("app", pattern=r"^[A-Za-z0-9_.-]{1,40}$")
    """Prefix of every key in Redis, so that applications can share a server."""

    mongodb_uri: str = Field("mongodb://127.0.0.1:27017", validation_alias=_plain("MONGODB_URI"))
    mongodb_read_uri: str | None = Field(None, validation_alias=_plain("MONGODB_READ_URI"))
    """Where reads go, when that is another deployment or other nodes; by default the same URI."""
    database_name: str = Field("app", validation_alias=_plain("DATABASE_NAME"), min_length=1)
    mongodb_driver: Literal["motor", "pymongo"] = "motor"
    read_preference: str = "secondaryPreferred"
    max_pool_size: int = Field(50, ge=1)
    min_pool_size: int = Field(10, ge=0)
    read_your_writes: bool = True
    """Requests never read behind their caller's own writes, whatever instance served those."""
    indexes: Literal["apply", "check", "off"] = "check"
    """At start: create what is missing, warn about it, or do nothing."""

    redis_url: str | None = Field(None, validation_alias=_plain("REDIS_URL"))
    """Shared cache, limits and queues. None keeps cache and limits in each process's own memory."""
    cache_max_entries: int = Field(10_000, ge=1)
    cache_max_bytes: int = Field(64 * 1024 * 1024, ge=1024)

    cache_timeout: float = Field(0.1, gt=0)
    """Seconds that the cache waits for Redis before it goes on without."""

    page_default_limit: int = Field(20, ge=1)
    page_max_limit: int = Field(100, ge=1)

    default_limits: Strings = ()
    """Rate limits of every route that declares none, in `limits` notation: `300/minute,5000/hour`."""
    application_limits: Strings = ()
    """Rate limits that all routes share."""
    rate_limit_timeout: float = Field(0.05, gt=0)
    """Seconds that a decision waits for Redis before it is made in memory."""
    rate_limit_lease: int = Field(0, ge=0)
    """Units of a limit that a process takes from Redis at once for a busy caller, see `LeasePolicy`; 0 asks each time.
    An instance may refuse while others hold up to so many, or 5 % of the limit if that is less."""
    instances: int = Field(1, ge=1)
    """Processes that serve the application: while Redis is away, each admits its part of a limit."""
    trusted_proxies: Strings = ()
    """Networks whose `X-Forwarded-For` is believed, for instance `10.0.0.0/8`. Empty: believe nobody."""

    compression_minimum_size: int = Field(1000, ge=0)
    http_cache: bool = True
    """Entity tags and 304 for every whole answer; routes under `@http_cache` are kept, as bytes."""
    session_cookies: Strings = ()
    """Names of the cookies that sign people in; empty says that none does (bearer tokens)."""

    monitoring: Literal["auto", "on", "off"] = "auto"
    """Figures for Prometheus. `auto`: where `smriti_scale[metrics]` is installed."""
    metrics_path: str = Field("/metrics", pattern=r"^/\S+$")
    metrics_token: SecretStr | None = Field(None, min_length=16)
    """What Prometheus must send as a bearer token. In production the figures are served with a token alone."""
    dashboard_path: str = Field("/_scale", pattern=r"^/[^\s{}]*[^\s{}/]$")
    dashboard_token: SecretStr | None = Field(None, min_length=16)
    """What opens the dashboard. Without one it is there in development alone, for this machine's own browsers."""
    slow_query_ms: float = Field(100, gt=0)
    """Milliseconds from which a MongoDB command is reported by its shape."""

    alert_webhook: SecretStr | None = None
    """Where alerts are POSTed (its form: `alert_webhook_shape`), unless `Scale` is given `alerts`."""
    alert_webhook_shape: Literal["json", "slack"] = "json"

    sentry_dsn: SecretStr | None = Field(None, validation_alias=_plain("SENTRY_DSN"))
    traces_sample_rate: float = Field(0.1, ge=0, le=1)
    """Share of requests that Sentry and OpenTelemetry trace."""
    slow_request: float = Field(1.0, gt=0)
    """Seconds from which on a request is sent to Sentry though chance did not choose it."""
    release: str | None = Field(None, validation_alias=_plain("RELEASE"))
    """The version that runs, for Sentry and OpenTelemetry; by default what the platform says."""
    otel_endpoint: str | None = Field(None, validation_alias=_plain("OTEL_EXPORTER_OTLP_ENDPOINT"))
    """Where traces and metrics go by OTLP/HTTP, without `/v1/…`; None sends none. Headers and temporality are read from
    OpenTelemetry's own variables."""

    accept_request_ids: bool = True
    """Whether callers may name their requests by `X-Request-ID`."""
    trust_traceparent: bool = False
    """Whether a caller's `traceparent` is followed; only behind a proxy that sets or removes it."""
    mongo_comments: bool = True
    """Whether MongoDB commands carry the request's id as their comment."""
    server_timing: bool = False
    """Whether answers tell how long they took, by `Server-Timing`; it tells strangers, too."""
    log_format: Literal["auto", "json", "text", "off"] = "auto"
    """How the process logs: `auto` is JSON in production unless the root logger has a handler already, else `off`."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    drain_delay: float | None = Field(None, ge=0, le=3600)
    """Seconds from SIGTERM, when `/readyz` turns false, until the server stops; None is 5 in production, else 0."""
    drain_file: str | None = None
    """A path that turns `/readyz` false as soon as it exists."""

    @field_validator(
        "default_limits",
        "application_limits",
        "session_cookies",
        "trusted_proxies",
        "previous_secret_keys",
        mode="before",
    )
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(piece for part in value.split(",") if (piece := part.strip()))
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        secret = self.secret_key.get_secret_value()
        if self.environment == "production" and (secret == DEVELOPMENT_SECRET or len(secret) < MINIMUM_SECRET_LENGTH):
            raise ConfigurationError(
                f"SECRET_KEY must be set to {MINIMUM_SECRET_LENGTH} random characters or more in production: "
                "python -c 'import secrets; print(secrets.token_urlsafe(48))'"
            )
        if self.min_pool_size > self.max_pool_size:
            raise ConfigurationError(
                f"min_pool_size {self.min_pool_size} is greater than max_pool_size {self.max_pool_size}"
            )
        if self.page_default_limit > self.page_max_limit:
            raise ConfigurationError(
                f"page_default_limit {self.page_default_limit} is greater than page_max_limit {self.page_max_limit}"
            )
        return self

    @property
    def is_production(self) -> bool:
        return self.environment == "production"

    def secrets_for(self, purpose: str) -> list[bytes]:
        """Keys of 32 bytes for one purpose, the signing one first, then those that only verify.

        Each is HMAC-SHA256(secret, purpose), so that a value signed for one purpose means nothing to another.
        """
        keys = (self.secret_key, *self.previous_secret_keys)
        return [
            hmac.digest(key.get_secret_value().encode(), f"smriti_scale/{purpose}".encode(), hashlib.sha256)
            for key in keys
        ]
