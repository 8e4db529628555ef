"""Purging CDNs by tag: what Fastly, Cloudflare and anything that takes a PURGE request want to be asked."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, Self

from smriti_scale.cache.cache import Cache
from smriti_scale.cache.http.policy import surrogate_key
from smriti_scale.cache.journal import Invalidation
from smriti_scale.errors import ConfigurationError, MissingExtraError
from smriti_scale.events import CDNPurged, CDNPurgeFailed, Events

if TYPE_CHECKING:
    import httpx

_log = logging.getLogger("smriti_scale.cache.http")

_FIRST_PAUSE = 0.1
"""Half of what passes, in seconds and at most, before the second attempt."""


class Purger(Protocol):
    """Knows how one CDN is asked to forget what carries a tag."""

    @property
    def name(self) -> str:
        """For events and logs."""

    @property
    def batch_size(self) -> int:
        """The most tags that one request can name."""

    def requests(self, keys: Sequence[str], /) -> Iterable[PurgeRequest]:
        """The requests that purge these keys (at most `batch_size`)."""


class PurgeRequest:
    """One HTTP request of a purge. `headers` may hold a secret, so it shows in no representation."""

    __slots__ = ("headers", "json", "method", "url")

    def __init__(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, json: object | None = None
    ) -> None:
        self.method = method
        self.url = url
        self.headers = dict(headers or {})
        self.json = json

    def __repr__(self) -> str:
        return f"PurgeRequest({self.method} {self.url})"


class FastlyPurger:
    """Fastly's purge by surrogate key.

    Args:
        service_id: the service.
        token: an API token with the scope `purge_select`.
        soft: mark stale in place of removing, so that `stale-while-revalidate` still answers.
        api: the API's address.
    """

    name = "fastly"
    batch_size = 256

    def __init__(self, service_id: str, token: str, *, soft: bool = True, api: str = "https://api.fastly.com") -> None:
        self._url = f"{_address(api)}/service/{service_id}/purge"
        self._headers = {"Fastly-Key": _secret("token", token), "Accept": "application/json"}
        if soft:
            self._headers["Fastly-Soft-Purge"] = "1"

    def requests(self, keys: Sequence[str], /) -> Iterable[PurgeRequest]:
        return [PurgeRequest("POST", self._url, headers=self._headers, json={"surrogate_keys": list(keys)})]


class CloudflarePurger:
    """Cloudflare's purge by cache tag.

    Args:
        zone_id: the zone.
        token: an API token with the permission "Cache Purge".
        api: the API's address.
    """

    name = "cloudflare"
    batch_size = 30

    def __init__(self, zone_id: str, token: str, *, api: str = "https://api.cloudflare.com/client/v4") -> None:
        self._url = f"{_address(api)}/zones/{zone_id}/purge_cache"
        self._headers = {"Authorization": f"Bearer {_secret('token', token)}"}

    def requests(self, keys: Sequence[str], /) -> Iterable[PurgeRequest]:
        return [PurgeRequest("POST", self._url, headers=self._headers, json={"tags": list(keys)})]


class HTTPPurger:
    """Varnish, or any proxy that purges on a request which names the keys in a header.

    Args:
        urls: one address for each proxy; all are asked.
        method: `PURGE`, `BAN`, `POST`, …: what the proxy's configuration listens for.
        header: the header with the keys, `xkey-purge` for Varnish's xkey.
        separator: what stands between keys.
        headers: further headers, say a shared secret.
        batch_size: the most keys in one request; 1 where the proxy takes one.
    """

    name = "http"

    def __init__(
        self,
        urls: Sequence[str],
        *,
        method: str = "PURGE",
        header: str = "Surrogate-Key",
        separator: str = " ",
        headers: Mapping[str, str] | None = None,
        batch_size: int = 64,
    ) -> None:
        if isinstance(urls, str) or not urls:
            raise ConfigurationError(f"urls={urls!r} must be a list of addresses, one for each proxy")
        if batch_size < 1:
            raise ConfigurationError(f"batch_size={batch_size!r} must be at least 1")
        self.batch_size = batch_size
        self._urls = [_address(url) for url in urls]
        self._method = method
        self._header = header
        self._separator = separator
        self._headers = dict(headers or {})

    def requests(self, keys: Sequence[str], /) -> Iterable[PurgeRequest]:
        headers = {**self._headers, self._header: self._separator.join(keys)}
        return [PurgeRequest(self._method, url, headers=headers) for url in self._urls]


class CDNPurge:
    """Purges tags in the background: gathers them for a moment, asks the CDN, and asks again while it fails.

    ```python
    async with CDNPurge(cache, FastlyPurger(service_id, token)):
        await cache.invalidate_tags("user:42")      # reaches every process, then the CDN
    ```

    A write never waits for the CDN, and a CDN that is down never fails a write. What is still queued when the
    application stops gets `drain_timeout` seconds.

    Args:
        cache: whose invalidations purge the CDN, for as long as this is open.
        purger: how the CDN is asked.
        client: an `httpx.AsyncClient`, to set proxies or certificates; one is made otherwise.
        gather: seconds in which tags are gathered into one request.
        timeout: seconds for each request.
        attempts: how often a request is tried; waits between them grow from 0.2 s, with jitter.
        max_queued: keys kept while the CDN is down; beyond it the newest are refused, with an event.
        drain_timeout: seconds that `aclose` waits for the queue.
        events: told of purges and of failures.

    Raises:
        MissingExtraError: httpx is not installed and no client is given.
    """

    def __init__(
        self,
        cache: Cache,
        purger: Purger,
        *,
        client: httpx.AsyncClient | None = None,
        gather: float = 0.05,
        timeout: float = 10.0,
        attempts: int = 5,
        max_queued: int = 10_000,
        drain_timeout: float = 10.0,
        events: Events | None = None,
    ) -> None:
        if attempts < 1:
            raise ConfigurationError(f"attempts={attempts!r} must be at least 1")
        self._client = client if client is not None else _make_client(timeout)
        self._owns_client = client is None
        self._purger = purger
        self._gather = gather
        self._timeout = timeout
        self._attempts = attempts
        self._max_queued = max_queued
        self._drain_timeout = drain_timeout
        self._events = events if events is not None else Events()
        self._queued: dict[str, None] = {}
        self._worker: asyncio.Task[None] | None = None
        self._closed = False
        self._everything = cache.name
        self._unsubscribe = cache.on_invalidate(self._invalidated)

    def _invalidated(self, change: Invalidation) -> None:
        # Everything that `HTTPCacheMiddleware` lets a CDN keep is tagged with the cache's name.
        self.purge([self._everything] if change.everything else change.tags)

    def purge(self, tags: Iterable[str]) -> None:
        """Queue tags; returns at once. Invalidations of the cache come here by themselves."""
        if self._closed:
            _log.warning("a tag was invalidated after the CDN purge was closed; the CDN keeps its copy")
            return
        refused = 0
        for tag in tags:
            key = surrogate_key(tag)
            if key in self._queued or len(self._queued) < self._max_queued:
                self._queued[key] = None
            else:
                refused += 1
        if refused:
            self._failed(refused, "the queue is full")
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._work(), name="smriti_scale.cdn_purge")

    async def drain(self) -> None:
        """Wait until everything queued so far has been sent or given up."""
        while self._worker is not None and not self._worker.done():
            await asyncio.wait({self._worker})

    async def aclose(self) -> None:
        """Send what is queued, for `drain_timeout` seconds at most, then let go of the connections."""
        self._closed = True
        self._unsubscribe()
        try:
            async with asyncio.timeout(self._drain_timeout):
                await self.drain()
        except TimeoutError:
            if self._worker is not None:
                self._worker.cancel()
                await asyncio.wait({self._worker})
            self._failed(max(len(self._queued), 1), "the application stopped")
        finally:
            if self._owns_client:
                await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _work(self) -> None:
        while self._queued:
            # A write often invalidates several tags, one call after the other.
            await asyncio.sleep(self._gather)
            keys = list(self._queued)
            self._queued.clear()
            for start in range(0, len(keys), self._purger.batch_size):
                await self._purge(keys[start : start + self._purger.batch_size])

    async def _purge(self, keys: list[str]) -> None:
        waiting = list(self._purger.requests(keys))
        reason = ""
        for attempt in range(self._attempts):
            if attempt:
                await asyncio.sleep(_FIRST_PAUSE * 2**attempt * random.uniform(0.5, 1.0))
            answers = await asyncio.gather(*(self._ask(request) for request in waiting))
            failed = [(request, answer) for request, answer in zip(waiting, answers, strict=True) if answer]
            if not failed:
                if self._events:
                    self._events.emit(CDNPurged(cdn=self._purger.name, keys=len(keys)))
                return
            waiting = [request for request, _ in failed]
            reason = failed[0][1]
        self._failed(len(keys), reason)

    async def _ask(self, request: PurgeRequest) -> str:
        """Why it failed; empty when it did not."""
        import httpx

        try:
            async with asyncio.timeout(self._timeout):
                answer = await self._client.request(
                    request.method, request.url, headers=request.headers, json=request.json
                )
        except TimeoutError:
            return f"no answer within {self._timeout:g} s"
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return type(error).__name__
        return "" if answer.is_success else f"status {answer.status_code}"

    def _failed(self, keys: int, reason: str) -> None:
        _log.error(
            "the CDN %s was not purged of %d keys: %s; it may serve old answers until they expire",
            self._purger.name,
            keys,
            reason,
            extra={"cdn": self._purger.name, "keys": keys, "reason": reason},
        )
        if self._events:
            self._events.emit(CDNPurgeFailed(cdn=self._purger.name, keys=keys, reason=reason))


def _make_client(timeout: float) -> httpx.AsyncClient:
    try:
        import httpx
    except ImportError as error:
        raise MissingExtraError("cdn", package="httpx", feature="purging a CDN") from error
    return httpx.AsyncClient(timeout=timeout, follow_redirects=False)


def _address(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ConfigurationError(f"{url!r} is no address: it must start with http:// or https://")
    return url.rstrip("/")


def _secret(name: str, value: str) -> str:
    if not value or not value.isascii() or not value.isprintable():
        raise ConfigurationError(f"{name} is empty or holds characters that no header can carry")
    return value
