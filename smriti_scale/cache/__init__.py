"""Caching: memory over Redis, with single-flight, tags, and invalidation that holds between processes."""

from smriti_scale.cache.cache import Cache
from smriti_scale.cache.codecs import BoundCodec, Codec, JSONCodec
from smriti_scale.cache.function import CachedFunction
from smriti_scale.cache.http import HTTPCacheMiddleware, http_cache
from smriti_scale.cache.journal import Invalidation
from smriti_scale.cache.loading import FillHook
from smriti_scale.cache.stats import CacheStats
from smriti_scale.cache.target import StoredValue

__all__ = [
    "BoundCodec",
    "Cache",
    "CacheStats",
    "CachedFunction",
    "Codec",
    "FillHook",
    "HTTPCacheMiddleware",
    "Invalidation",
    "JSONCodec",
    "StoredValue",
    "http_cache",
]
