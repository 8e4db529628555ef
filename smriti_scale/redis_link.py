"""One way to open Redis: single, Sentinel or Cluster, by URL, with a client of its own for every event loop.

| URL | meaning |
| --- | --- |
| `redis://`, `rediss://` (TLS), `unix://` | one server |
| `redis+sentinel://host:26379,host2:26379/service/0` | the primary that the sentinels name |
| `redis+cluster://host:6379,host2:6379` (`rediss+cluster://` for TLS) | a cluster |

Deadlines are the caller's (`breaker.CircuitBreaker`): the client itself only bounds how long connecting may take, and
retries once, at once, when a pooled connection turns out to be dead (a restarted server). For the hot path there is
`pipe`: one connection on which the commands of many callers travel together (`redis_pipe`).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit
from weakref import WeakKeyDictionary

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import AbstractConnection as Connection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError

from smriti_scale.errors import ConfigurationError
from smriti_scale.redis_cluster import ClusterPipe
from smriti_scale.redis_pipe import Arg, Pipe, Transport

RedisClient: TypeAlias = Redis | RedisCluster

_SCHEMES = (
    "redis",
    "rediss",
    "unix",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
)


class RedisLink:
    """Opens the Redis at a URL lazily, once for each event loop.

    Args:
        url: see the module's table, or a client made by the caller (which then stays the caller's to close).
        max_connections: pool size per event loop (and per node of a cluster).
        connect_timeout: seconds that opening a connection may take.

    Raises:
        ConfigurationError: the URL is not one of the known forms.
    """

    def __init__(self, url: str | RedisClient, *, max_connections: int = 50, connect_timeout: float = 1.0) -> None:
        self._given = None if isinstance(url, str) else url
        self._url = url if isinstance(url, str) else ""
        self._max_connections = max_connections
        self._connect_timeout = connect_timeout
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, RedisClient] = WeakKeyDictionary()
        self._pipes: WeakKeyDictionary[asyncio.AbstractEventLoop, Transport] = WeakKeyDictionary()
        if isinstance(url, str) and urlsplit(url).scheme not in _SCHEMES:
            raise ConfigurationError(
                f"unknown Redis URL {redacted(url)!r}: use {', '.join(f'{scheme}://' for scheme in _SCHEMES)}"
            )

    def __repr__(self) -> str:
        return f"RedisLink({redacted(self._url)!r})" if self._url else f"RedisLink({type(self._given).__name__})"

    @property
    def client(self) -> RedisClient:
        """The client of the running event loop; made on first use."""
        if self._given is not None:
            return self._given
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            client = self._clients[loop] = self._open()
        return client

    @property
    def pipe(self) -> Transport:
        """The running loop's pipelined connection, which all users of this link share; made on first use.

        For short commands with short answers, where a crowd asks at once: what one turn of the loop asks travels
        together. Whoever moves megabytes takes `open_pipe`, so that nobody waits behind them.
        """
        loop = asyncio.get_running_loop()
        pipe = self._pipes.get(loop)
        if pipe is None:
            pipe = self._pipes[loop] = self.open_pipe(timeout=self._connect_timeout)
        return pipe

    def open_pipe(self, *, timeout: float, on_lost: Callable[[Exception], None] = lambda error: None) -> Transport:
        """A pipelined connection of the caller's own, who closes it. It connects when it is first used.

        Args:
            timeout: deadline of a command that brings none, in seconds.
            on_lost: called with the error when the connection breaks. A cluster has many, and never calls it.
        """
        client = self.client
        if isinstance(client, RedisCluster):
            return ClusterPipe(client, timeout=timeout)
        return Pipe(self.connection, timeout=timeout, on_lost=on_lost)

    @property
    def is_cluster(self) -> bool:
        """Whether keys are spread over slots, so that one script may only touch keys of one slot."""
        if self._given is not None:
            return isinstance(self._given, RedisCluster)
        return "+cluster" in urlsplit(self._url).scheme

    async def aclose(self) -> None:
        """Close what the running loop opened. A client that was given stays open."""
        pipe = self._pipes.pop(asyncio.get_running_loop(), None)
        if pipe is not None:
            await pipe.aclose()
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is None:
            return
        await client.aclose()
        pool = getattr(client, "connection_pool", None)
        if isinstance(pool, SentinelConnectionPool):
            for sentinel in pool.sentinel_manager.sentinels:  # redis-py leaves these open
                await sentinel.aclose()

    def dedicated(self) -> Redis:
        """A client of its own on one server (pub/sub, tracking): the caller closes it."""
        if isinstance(self._given, Redis):
            return Redis(connection_pool=self._given.connection_pool)
        if self._given is not None or self.is_cluster:
            raise ConfigurationError("a dedicated connection to a cluster is opened per node")
        opened = self._open()
        if not isinstance(opened, Redis):
            raise ConfigurationError("a dedicated connection to a cluster is opened per node")
        return opened

    async def connection(self) -> Connection:
        """One connection outside the pool, not yet connected: for pub/sub or pipelining of the caller's own.

        To the single server, the primary that the sentinels name, or any node of a cluster. It does not reconnect by
        itself, so a gap cannot pass unnoticed. The caller disconnects it.
        """
        client = self.client
        if isinstance(client, RedisCluster):
            await client.initialize()
            node = client.get_random_node()
            kwargs = {**node.connection_kwargs, "host": node.host, "port": node.port}
            made = node.connection_class(**kwargs)
        else:
            made = client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        made.retry = Retry(NoBackoff(), 0)
        return made

    def _open(self) -> RedisClient:
        parts = urlsplit(self._url)
        common: dict[str, Any] = {
            "max_connections": self._max_connections,
            "socket_connect_timeout": self._connect_timeout,
            "retry": Retry(NoBackoff(), 1),
        }
        if "+" not in parts.scheme:
            return Redis.from_url(self._url, **common)
        base, kind = parts.scheme.split("+")
        secure = base == "rediss"
        options = _options(parts.query)
        if parts.username:
            options["username"] = unquote(parts.username)
        if parts.password:
            options["password"] = unquote(parts.password)
        nodes = _nodes(parts.netloc.rpartition("@")[2], default_port=26379 if kind == "sentinel" else 6379)
        if kind == "cluster":
            return RedisCluster(
                startup_nodes=[ClusterNode(host, port) for host, port in nodes],
                reinitialize_steps=0,  # else every fifth MOVED closes connections that others wait on
                ssl=secure,
                max_connections=self._max_connections,
                socket_connect_timeout=self._connect_timeout,
                **options,
            )
        service, _, database = parts.path.strip("/").partition("/")
        if not service:
            raise ConfigurationError(f"{redacted(self._url)!r} names no service: redis+sentinel://host:26379/SERVICE/0")
        if secure:
            common["ssl"] = True
        sentinel = Sentinel(  # type: ignore[no-untyped-call]
            nodes, sentinel_kwargs={"socket_connect_timeout": self._connect_timeout, "socket_timeout": 1.0}
        )
        client: Redis = sentinel.master_for(service, db=int(database or 0), **common, **options)
        return client


class RedisScript:
    """A Lua script, sent by its hash and loaded when the server does not know it (first use, restart, failover)."""

    __slots__ = ("sha", "source")

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    async def run(
        self, client: RedisClient, keys: Sequence[str | bytes], args: Sequence[str | bytes | int | float] = ()
    ) -> Any:
        """One EVALSHA; on NOSCRIPT one EVAL, which also loads it."""
        try:
            return await client.evalsha(self.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await client.eval(self.source, len(keys), *keys, *args)

    async def send(
        self, pipe: Transport, keys: Sequence[str], args: Sequence[Arg], *, timeout: float, again: bool = False
    ) -> Any:
        """As `run`, by a pipe: see `Transport.send`."""
        try:
            return await pipe.send("EVALSHA", self.sha, len(keys), *keys, *args, timeout=timeout, again=again)
        except NoScriptError:
            return await pipe.send("EVAL", self.source, len(keys), *keys, *args, timeout=timeout, again=again)


def redacted(url: str) -> str:
    """The URL without its credentials, fit for a log or an error."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc=f"***@{parts.netloc.rpartition('@')[2]}"))


def _nodes(netloc: str, *, default_port: int) -> list[tuple[str, int]]:
    nodes = []
    for node in netloc.split(","):
        parsed = urlsplit(f"//{node}")
        if not parsed.hostname:
            raise ConfigurationError(f"{node!r} is no host:port")
        nodes.append((parsed.hostname, parsed.port or default_port))
    return nodes


def _options(query: str) -> dict[str, Any]:
    return {
        name: int(value) if value.isdigit() else {"true": True, "false": False}.get(value.lower(), value)
        for name, value in parse_qsl(query)
    }
