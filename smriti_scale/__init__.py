"""Scaling primitives for async ASGI apps on MongoDB and Redis.

Every name here loads its module on first use, so importing the package loads no driver and costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_ROOMS: dict[str, tuple[str, ...]] = {
    "cache": (
        "Cache",
        "CacheStats",
        "HTTPCacheMiddleware",
        "http_cache",
    ),
    "compression": (
        "CompressionMiddleware",
        "setup_compression",
    ),
    "errors": (
        "ConfigurationError",
        "MissingExtraError",
        "ScaleError",
    ),
    "events": (
        "Event",
        "Events",
    ),
    "local": (
        "LocalMongo",
        "LocalRedis",
    ),
    "mongo": (
        "BatchLoader",
        "CausalToken",
        "Index",
        "IndexPlan",
        "Indexes",
        "MongoClients",
        "QueryGuard",
        "ReadYourWritesMiddleware",
        "ShardKey",
        "lookup_many",
        "lookup_one",
    ),
    "monitoring": (
        "SLO",
        "Alerts",
        "Metrics",
        "Monitoring",
        "MonitoringMiddleware",
        "health_routes",
        "init_otel",
        "init_sentry",
        "setup_dashboard",
        "setup_logging",
        "setup_monitoring",
        "setup_request_ids",
    ),
    "pagination": (
        "CursorCodec",
        "CursorPaginator",
        "InvalidCursor",
        "Page",
        "PageParams",
        "decode_cursor",
        "encode_cursor",
    ),
    "ratelimit": (
        "RateLimitExceeded",
        "RateLimitMiddleware",
        "RateLimiter",
        "client_address",
        "setup_rate_limiting",
    ),
    "scale": ("Scale",),
    "settings": ("ScaleSettings",),
    "storage": (
        "CloudinaryStore",
        "LocalStore",
        "ObjectStore",
        "S3Store",
    ),
    "tasks": (
        "idempotent",
        "make_celery",
        "publish",
    ),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

if TYPE_CHECKING:
    from smriti_scale.cache import Cache, CacheStats, HTTPCacheMiddleware, http_cache
    from smriti_scale.compression import CompressionMiddleware, setup_compression
    from smriti_scale.errors import ConfigurationError, MissingExtraError, ScaleError
    from smriti_scale.events import Event, Events
    from smriti_scale.local import LocalMongo, LocalRedis
    from smriti_scale.mongo import (
        BatchLoader,
        CausalToken,
        Index,
        Indexes,
        IndexPlan,
        MongoClients,
        QueryGuard,
        ReadYourWritesMiddleware,
        ShardKey,
        lookup_many,
        lookup_one,
    )
    from smriti_scale.monitoring import (
        SLO,
        Alerts,
        Metrics,
        Monitoring,
        MonitoringMiddleware,
        health_routes,
        init_otel,
        init_sentry,
        setup_dashboard,
        setup_logging,
        setup_monitoring,
        setup_request_ids,
    )
    from smriti_scale.pagination import (
        CursorCodec,
        CursorPaginator,
        InvalidCursor,
        Page,
        PageParams,
        decode_cursor,
        encode_cursor,
    )
    from smriti_scale.ratelimit import (
        RateLimiter,
        RateLimitExceeded,
        RateLimitMiddleware,
        client_address,
        setup_rate_limiting,
    )
    from smriti_scale.scale import Scale
    from smriti_scale.settings import ScaleSettings
    from smriti_scale.storage import CloudinaryStore, LocalStore, ObjectStore, S3Store
    from smriti_scale.tasks import idempotent, make_celery, publish

__all__ = [
    "SLO",
    "Alerts",
    "BatchLoader",
    "Cache",
    "CacheStats",
    "CausalToken",
    "CloudinaryStore",
    "CompressionMiddleware",
    "ConfigurationError",
    "CursorCodec",
    "CursorPaginator",
    "Event",
    "Events",
    "HTTPCacheMiddleware",
    "Index",
    "IndexPlan",
    "Indexes",
    "InvalidCursor",
    "LocalMongo",
    "LocalRedis",
    "LocalStore",
    "Metrics",
    "MissingExtraError",
    "MongoClients",
    "Monitoring",
    "MonitoringMiddleware",
    "ObjectStore",
    "Page",
    "PageParams",
    "QueryGuard",
    "RateLimitExceeded",
    "RateLimitMiddleware",
    "RateLimiter",
    "ReadYourWritesMiddleware",
    "S3Store",
    "Scale",
    "ScaleError",
    "ScaleSettings",
    "ShardKey",
    "__version__",
    "client_address",
    "decode_cursor",
    "encode_cursor",
    "health_routes",
    "http_cache",
    "idempotent",
    "init_otel",
    "init_sentry",
    "lookup_many",
    "lookup_one",
    "make_celery",
    "publish",
    "setup_compression",
    "setup_dashboard",
    "setup_logging",
    "setup_monitoring",
    "setup_rate_limiting",
    "setup_request_ids",
]


def __getattr__(name: str) -> Any:
    room = _ROOM_OF.get(name)
    if room is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{room}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
