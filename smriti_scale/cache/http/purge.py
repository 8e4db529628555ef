"""`CDNPurge`: sends a cache's invalidations on to a CDN, in the background."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Self

from smriti_scale.cache.cache import Cache
from smriti_scale.cache.http.policy import surrogate_key
from smriti_scale.cache.http.purgers import Purger, PurgeRequest
from smriti_scale.cache.journal import Invalidation
from smriti_scale.errors import ConfigurationError, MissingExtraError
from smriti_scale.events import CDNPurged, CDNPurgeFailed, Events

if TYPE_CHECKING:
    import httpx

_log = logging.getLogger("smriti_scale.cache.http")

_FIRST_PAUSE = 0.1
"""Half of what passes, in seconds and at most, before the second attempt."""


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
        again_after: seconds after which each key is purged once more: an answer that the application began before the
            write may reach the CDN after the first purge. As long as your slowest answer takes; None for once.
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
        again_after: float | None = None,
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
        self._again_after = again_after
        self._again: dict[asyncio.TimerHandle, list[str]] = {}
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
        keys = [surrogate_key(tag) for tag in tags]
        self._queue(keys)
        if self._again_after is not None and keys and not self._closed:
            loop = asyncio.get_running_loop()
            handle: asyncio.TimerHandle = loop.call_later(
                self._again_after, lambda: self._queue(self._again.pop(handle))
            )
            self._again[handle] = keys

    def _queue(self, keys: Sequence[str]) -> None:
        if self._closed:
            _log.warning("a tag was invalidated after the CDN purge was closed; the CDN keeps its copy")
            return
        refused = 0
        for key in keys:
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
        self._unsubscribe()
        for handle, keys in self._again.items():
            handle.cancel()
            self._queue(keys)
        self._again.clear()
        self._closed = True
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
