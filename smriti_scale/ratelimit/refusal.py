"""How a refusal leaves: through the application's own handler, or as a WebSocket that is not accepted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette._utils import is_async_callable
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.websockets import WebSocket

from smriti_scale.ratelimit.exceeded import ANSWERS, STATUS, RateLimitExceeded, json_answer

POLICY_VIOLATION = 1008
_DENIAL = "websocket.http.response"


async def answer(connection: HTTPConnection, refusal: RateLimitExceeded) -> Response:
    """The response to a refusal, from the handler that Starlette would choose for the error."""
    handler = _handler(connection.scope.get("app"), refusal.status_code)
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


def has_own_answer(app: object) -> bool:
    """Whether an application, or one that it mounts, answers refusals in another way than `ANSWERS` do."""
    if app is None:
        return True  # who knows
    waiting, seen = [app], set()
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if any(_handler(part, status) not in ANSWERS.values() for status in STATUS.values()):
            return True
        waiting += [inner for name in ("app", "_base_app") if (inner := getattr(part, name, None)) is not None]
        waiting += getattr(part, "routes", None) or ()
    return False


def _handler(app: object, status: int) -> Callable[..., Any]:
    handlers = getattr(app, "exception_handlers", {})
    # By status first, then by the error's classes, as Starlette does.
    candidates = (status, *RateLimitExceeded.__mro__)
    found: Callable[..., Any] = next((handlers[key] for key in candidates if key in handlers), json_answer)
    return found
