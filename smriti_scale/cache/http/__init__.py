"""HTTP caching: entity tags, caching headers, whole responses kept as bytes, and purging of CDNs."""

from smriti_scale.cache.http.conditions import EntityTag, body_etag, http_date, version_etag
from smriti_scale.cache.http.middleware import HTTPCacheMiddleware, add_tags
from smriti_scale.cache.http.policy import CachePolicy, http_cache, surrogate_key
from smriti_scale.cache.http.preconditions import PreconditionFailed, PreconditionRequired, check_preconditions
from smriti_scale.cache.http.purge import CDNPurge
from smriti_scale.cache.http.purgers import CloudflarePurger, FastlyPurger, HTTPPurger, Purger, PurgeRequest

__all__ = [
    "CDNPurge",
    "CachePolicy",
    "CloudflarePurger",
    "EntityTag",
    "FastlyPurger",
    "HTTPCacheMiddleware",
    "HTTPPurger",
    "PreconditionFailed",
    "PreconditionRequired",
    "PurgeRequest",
    "Purger",
    "add_tags",
    "body_etag",
    "check_preconditions",
    "http_cache",
    "http_date",
    "surrogate_key",
    "version_etag",
]
