"""Runs the application for the cache: its response is gathered to be kept, or passed on if it may not be."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smriti_scale.cache.http.asked import CONDITIONAL, CREDENTIALS
from smriti_scale.cache.http.outgoing import Outgoing
from smriti_scale.cache.http.stored import NOT_SHARED, StoredResponse

_SENT_BY_SERVER = frozenset({"http.response.pathsend", "http.response.zerocopysend", "http.response.trailers"})


class ServerFailed(Exception):
    """The application answered 5xx."""

    def __init__(self, response: StoredResponse) -> None:
        super().__init__(f"status {response.status}")
        self.response = response


class Capture:
    """One run of the application.

    Args:
        app: the application.
        scope: the request that caused the run.
        send: where to pass on what is not to be kept, for as long as its client waits here (`attached`).
        prepare: applies the policy to a response's start, given the request as routed.
        may_keep: whether the response may be kept, judged by its start.
        finish: makes the response to keep of start and body.
        max_body: bytes beyond which a body is passed on.
        anonymous: take the credentials out of the request: what is public must not depend on who asked first.
    """

    def __init__(
        self,
        app: ASGIApp,
        scope: Scope,
        send: Send,
        *,
        prepare: Callable[[Message, Scope], Outgoing],
        may_keep: Callable[[Outgoing], bool],
        finish: Callable[[Outgoing, bytes], StoredResponse],
        max_body: int,
        anonymous: bool,
    ) -> None:
        self._app = app
        self._scope = scope
        self._client = send
        self._prepare = prepare
        self._may_keep = may_keep
        self._finish = finish
        self._max_body = max_body
        self._anonymous = anonymous
        self.attached = True
        self.passed_on = False
        self.made: StoredResponse | None = None
        self._routed: Scope = scope
        self._start: Message | None = None
        self._outgoing: Outgoing | None = None
        self._chunks: list[bytes] = []
        self._size = 0
        self._complete = False

    async def __call__(self) -> StoredResponse:
        """Run the application.

        Returns:
            The response, or `NOT_SHARED` when it was passed on.

        Raises:
            ServerFailed: it answered 5xx.
            Exception: whatever the application raises.
        """
        self._routed = self._inner_scope()
        await self._app(self._routed, _no_body(), self._receive_message)
        if self._outgoing is None or not self._complete or self.passed_on:
            return NOT_SHARED
        response = self.made = self._finish(self._outgoing, b"".join(self._chunks))
        if response.status >= 500:
            raise ServerFailed(response)
        return response

    def _inner_scope(self) -> Scope:
        """The request as it is for everyone: no conditions, a body sent as bytes, and no credentials if public."""
        dropped = CONDITIONAL | CREDENTIALS if self._anonymous else CONDITIONAL
        inner = dict(self._scope)
        inner["method"] = "GET"
        inner["headers"] = [(name, value) for name, value in inner["headers"] if name not in dropped]
        extensions = {
            name: value for name, value in (inner.get("extensions") or {}).items() if name not in _SENT_BY_SERVER
        }
        inner["extensions"] = extensions
        return inner

    async def _receive_message(self, message: Message) -> None:
        kind = message["type"]
        if self.passed_on:
            await self._pass_on(message)
        elif kind == "http.response.start":
            self._start, self._outgoing = message, self._prepare(message, self._routed)
            failed = self._outgoing.status >= 500 and not self._outgoing.private
            if message.get("trailers", False) or not (failed or self._may_keep(self._outgoing)):
                await self._give_up()
        elif kind == "http.response.body" and self._outgoing is not None:
            self._chunks.append(message.get("body", b""))
            self._size += len(self._chunks[-1])
            if self._size > self._max_body:
                await self._give_up()
                body = b"".join(self._chunks)
                self._chunks.clear()
                await self._pass_on({**message, "body": body})
            elif not message.get("more_body", False):
                self._complete = True

    async def _give_up(self) -> None:
        """From here on the response is for the one who asked, and nobody else."""
        self.passed_on = True
        if self._start is not None and self._outgoing is not None:
            await self._pass_on({**self._start, "headers": self._outgoing.headers})

    async def _pass_on(self, message: Message) -> None:
        if self.attached:
            # A client that has gone must not fail the run for those who wait with it.
            with contextlib.suppress(OSError):
                await self._client(message)


def _no_body() -> Receive:
    asked = False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if asked:
            # The client may leave; the response is made for the others all the same.
            await asyncio.get_running_loop().create_future()
        asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    return receive
