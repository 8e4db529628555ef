"""Requests to a store over HTTP: deadlines, retries with jitter, and errors of this library."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from smriti_scale.clock import SYSTEM_CLOCK, Clock
from smriti_scale.errors import MissingExtraError, StorageUnavailable
from smriti_scale.events import Events, StorageFailed

if TYPE_CHECKING:
    import httpx

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})


_PIECE = 256 * 1024


@dataclass(frozen=True, slots=True)
class Call:
    """One request; `url` is made anew for each try, since it may be signed for the moment."""

    method: str
    url: Callable[[], str]
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    data: Mapping[str, str] | None = None
    files: Mapping[str, Any] | None = None
    auth: tuple[str, str] | None = None


def make_client(extra: str, timeout: float) -> httpx.AsyncClient:
    """An HTTP client for a store.

    Raises:
        MissingExtraError: httpx is not installed.
    """
    try:
        import httpx
    except ImportError as error:
        raise MissingExtraError(extra, package="httpx", feature="this store") from error
    limits = httpx.Limits(max_connections=100, max_keepalive_connections=20)
    return httpx.AsyncClient(timeout=httpx.Timeout(timeout, connect=min(timeout, 5.0)), limits=limits)


class Transfer:
    """Sends requests for one store.

    Args:
        name: the store's, for errors and events.
        client: the HTTP client.
        attempts: tries in all, for requests that may be repeated.
        backoff: upper bound of the first wait in seconds; it doubles with each try (full jitter).
        clock: the source of time.
        events: receives `StorageFailed`.
    """

    def __init__(
        self,
        name: str,
        client: httpx.AsyncClient,
        *,
        attempts: int = 4,
        backoff: float = 0.2,
        clock: Clock = SYSTEM_CLOCK,
        events: Events | None = None,
    ) -> None:
        self.name = name
        self.client = client
        self._attempts = attempts
        self._backoff = backoff
        self._clock = clock
        self._events = events

    async def send(self, call: Call, *, operation: str) -> tuple[httpx.Response, int]:
        """The answer, and at which try it came. A status that speaks of trouble at the store is tried again.

        Raises:
            StorageUnavailable: no good answer after all tries.
        """
        import httpx

        problem: object = None
        headers = dict(call.headers)
        large = call.content is not None and len(call.content) > _PIECE
        if large and call.content is not None:
            headers["Content-Length"] = str(len(call.content))
        for attempt in range(1, self._attempts + 1):
            try:
                response = await self.client.request(
                    call.method,
                    call.url(),
                    headers=headers,
                    content=_in_pieces(call.content) if large and call.content is not None else call.content,
                    data=call.data,
                    files=call.files,
                    auth=call.auth,
                )
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
            else:
                if response.status_code not in RETRIED:
                    return response, attempt
                problem = f"status {response.status_code}"
            await self.pause(attempt)
        raise self.unavailable(operation, problem)

    async def stream(
        self, call: Callable[[int], Call], *, operation: str, check: Callable[[httpx.Response], None], chunk: int
    ) -> AsyncIterator[bytes]:
        """The body, piece by piece. A connection that breaks midway is resumed where it broke.

        Args:
            call: the request for the bytes from an offset on.
            operation: for errors.
            check: raises when the answer is not the object.
            chunk: bytes at a time.

        Raises:
            StorageUnavailable: tries ran out without a byte more.
        """
        import httpx

        received, attempt, problem = 0, 0, None
        while attempt < self._attempts:
            attempt += 1
            wanted = call(received)
            try:
                async with self.client.stream(wanted.method, wanted.url(), headers=wanted.headers) as response:
                    if response.status_code in RETRIED:
                        problem = f"status {response.status_code}"
                    else:
                        check(response)
                        if received and response.status_code != 206:
                            raise self.unavailable(operation, "the store cannot resume a broken download")
                        async for piece in response.aiter_raw(chunk):
                            received += len(piece)
                            attempt = 0
                            yield piece
                        return
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
            await self.pause(max(1, attempt))
        raise self.unavailable(operation, problem)

    async def pause(self, attempt: int) -> None:
        """Wait before the next try."""
        if attempt < self._attempts:
            await self._clock.sleep(random.uniform(0, self._backoff * 2 ** (attempt - 1)))

    def unavailable(self, operation: str, problem: object) -> StorageUnavailable:
        """The error to raise, told to listeners as well."""
        if self._events:
            self._events.emit(StorageFailed(self.name, operation, str(problem).partition(":")[0]))
        return StorageUnavailable(f"{self.name}: {operation} failed {self._attempts} times, last: {problem}")

    async def aclose(self) -> None:
        """Close the connections."""
        await self.client.aclose()


async def _in_pieces(content: bytes) -> AsyncIterator[bytes]:
    """A body piece by piece: given whole, the HTTP stack would copy it whole, more than once."""
    for start in range(0, len(content), _PIECE):
        yield content[start : start + _PIECE]
