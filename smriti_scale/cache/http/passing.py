"""A response on its way past the cache: policy applied, an entity tag added, a 304 in its place where one is due."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import Message, Send

from smriti_scale.cache.http.asked import Asked
from smriti_scale.cache.http.conditions import body_etag, is_not_modified
from smriti_scale.cache.http.outgoing import Headers, Outgoing
from smriti_scale.cache.http.stored import not_modified_headers


class Passing:
    """One response. The application has run, and decided who may see it, before a condition is looked at.

    Args:
        asked: the request.
        send: the client.
        prepare: applies the policy to the response's start.
        etags: whether to add an entity tag where there is none.
        max_body: bytes beyond which a body is not hashed.
        head: whether the request is a HEAD.
    """

    __slots__ = ("_asked", "_client", "_etags", "_head", "_headers", "_max_body", "_next", "_prepare", "_start")

    def __init__(
        self,
        asked: Asked,
        send: Send,
        *,
        prepare: Callable[[Message], Outgoing],
        etags: bool,
        max_body: int,
        head: bool,
    ) -> None:
        self._asked = asked
        self._client = send
        self._prepare = prepare
        self._etags = etags
        self._max_body = max_body
        self._head = head
        self._start: Message | None = None
        self._headers: Headers = []
        self._next: Send = self._before_body

    async def send(self, message: Message) -> None:
        """What the application calls."""
        await self._next(message)

    async def close(self) -> None:
        """Send the start of a response that never got a body."""
        if self._start is not None:
            await self._release(self._start)

    async def _before_body(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            await self._started(message)
        elif self._start is not None and kind == "http.response.body":
            await self._first_body(self._start, message)
        else:
            if self._start is not None and kind != "http.response.early_hint":
                await self._release(self._start)
            await self._client(message)

    async def _started(self, message: Message) -> None:
        self._headers = self._prepare(message).headers
        if message["status"] != 200:
            await self._release(message)
            return
        etag = self._field(b"etag")
        if self._is_not_modified(etag):
            await self._not_modified(message)
        elif etag is not None or not self._etags or self._head or self._is_event_stream():
            await self._release(message)
        else:
            self._start = message

    async def _first_body(self, start: Message, message: Message) -> None:
        body: bytes = message.get("body", b"")
        whole = not message.get("more_body", False) or self._field(b"content-length") == str(len(body))
        if whole and len(body) <= self._max_body:
            etag = body_etag(body)
            self._headers.append((b"etag", etag.encode()))
            if self._is_not_modified(etag):
                await self._not_modified(start)
                return
        await self._release(start)
        await self._client(message)

    async def _release(self, start: Message) -> None:
        """Send the start, and from now on whatever comes, as it is."""
        self._start = None
        self._next = self._client
        await self._client({**start, "headers": self._headers})

    async def _not_modified(self, start: Message) -> None:
        self._start = None
        self._next = _swallow
        headers = not_modified_headers(self._headers)
        await self._client({"type": "http.response.start", "status": 304, "headers": headers})
        await self._client({"type": "http.response.body", "body": b""})

    def _is_not_modified(self, etag: str | None) -> bool:
        return is_not_modified(
            if_none_match=self._asked.if_none_match,
            if_modified_since=self._asked.if_modified_since,
            etag=etag,
            last_modified=self._field(b"last-modified"),
        )

    def _is_event_stream(self) -> bool:
        return (self._field(b"content-type") or "").lower().startswith("text/event-stream")

    def _field(self, name: bytes) -> str | None:
        for found, value in self._headers:
            if found == name:
                return value.decode("latin-1")
        return None


async def _swallow(message: Message) -> None:
    """The body of what was answered with 304."""
