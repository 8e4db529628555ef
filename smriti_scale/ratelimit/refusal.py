"""How a refusal leaves: through the application's own handler, or as a WebSocket that is not accepted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette._utils import is_async_callable
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.websockets import WebSocket

from smriti_scale.ratelimit.exceeded import RateLimitExceeded, json_answer

POLICY_VIOLATION = 1008
_DENIAL = "websocket.http.response"


async def answer(connection: HTTPConnection, refusal: RateLimitExceeded) -> Response:
    """The response to a refusal, from the handler that Starlette would choose for the error."""
    handler = _handler(connection, refusal)
    if is_async_callable(handler):
        response = await handler(connection, refusal)
    else:
        response = await run_in_threadpool(handler, connection, refusal)
    return response if isinstance(response, Response) else json_answer(connection, refusal)


async def refuse_websocket(websocket: WebSocket, refusal: RateLimitExceeded) -> None:
    """Refuse a handshake: with an HTTP answer where the server can, else by closing before it is accepted."""
    if _DENIAL in websocket.scope.get("extensions", {}):
        response = await answer(websocket, refusal)
        await response(websocket.scope, websocket.receive, websocket.send)
    else:
        await websocket.close(POLICY_VIOLATION, refusal.message)


def _handler(connection: HTTPConnection, refusal: RateLimitExceeded) -> Callable[..., Any]:
    app = connection.scope.get("app")
    handlers = getattr(app, "exception_handlers", {})
    # By status first, then by the error's classes, as Starlette does.
    candidates = (refusal.status_code, *type(refusal).__mro__)
    found: Callable[..., Any] = next((handlers[key] for key in candidates if key in handlers), json_answer)
    return found
