"""Publishing once the response has been sent: `publish(…, delivery=Delivery(after_response=True))`.

The client does not wait for the broker, and a request that ends in an error starts no work. What waits lives in this
process: a task that must not be lost even when the process dies right after the response belongs into the outbox.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smriti_scale.tasks.publishing import after_response

_log = logging.getLogger("smriti_scale.tasks")


class PublishAfterResponseMiddleware:
    """Sends what the request put off, when its response is out and its status is below 400."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve, then publish."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        waiting: list[Any] = []
        status = 0
        token = after_response.set(waiting)

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            after_response.reset(token)
        if not waiting:
            return
        if status >= 400:
            _log.info("%d task(s) of a request that ended with %d were not published", len(waiting), status)
            return
        outcomes = await asyncio.gather(*(start() for start in waiting), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                _log.error("a task could not be published after the response: %r", outcome)
