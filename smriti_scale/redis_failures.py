"""What can go wrong with Redis: errors that a call may raise, and which of them mean that the server is in trouble."""

from __future__ import annotations

from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    ConnectionError as RedisConnectionError,
    NoScriptError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TimeoutError as RedisTimeoutError,
)

REDIS_ERRORS: tuple[type[Exception], ...] = (RedisError, RedisClusterException, OSError)
"""Whatever a call to Redis may raise: redis-py's cluster has errors outside its own tree."""

REDIS_FAILURES: tuple[type[Exception], ...] = (
    RedisConnectionError,
    RedisTimeoutError,
    BusyLoadingError,
    ReadOnlyError,
    ClusterDownError,
    RedisClusterException,
    OSError,
    TimeoutError,
)
"""What counts as "Redis is in trouble" (to a circuit breaker), as against an answer one does not like."""

_REPLIES: dict[str, type[RedisError]] = {
    "NOSCRIPT": NoScriptError,
    "READONLY": ReadOnlyError,
    "LOADING": BusyLoadingError,
    "MASTERDOWN": RedisConnectionError,
}


def error_of(text: str) -> RedisError:
    """The error that an error reply stands for."""
    return _REPLIES.get(text.partition(" ")[0], ResponseError)(text)
