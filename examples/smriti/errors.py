"""Every error becomes an E envelope: the application's own, failed validation, unknown routes, refusals, crashes."""

from __future__ import annotations

import logging
import math
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from examples.smriti.answers import ApiError, failure
from smriti_scale.errors import DatabaseUnavailable, InvalidCursor
from smriti_scale.ratelimit import RateLimitExceeded

_log = logging.getLogger("smriti")


def install_error_handlers(app: FastAPI) -> None:
    """Make the app answer every kind of error as the contract has it."""
    handlers: dict[type[Exception], Any] = {
        ApiError: _api_error,
        RequestValidationError: _invalid,
        InvalidCursor: _invalid_cursor,
        RateLimitExceeded: _http_error,  # named, since the limiter has an answer of its own for it
        HTTPException: _http_error,
        DatabaseUnavailable: _unavailable,
        UnicodeEncodeError: _not_unicode,
    }
    for error, handler in handlers.items():
        app.add_exception_handler(error, handler)


async def _api_error(request: Request, error: ApiError) -> Response:
    return failure(error.status, error.error, code=error.code, headers=error.headers)


async def _invalid(request: Request, error: RequestValidationError) -> Response:
    """Only the first problem is told, and never with the value: it may be a password."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"][1:])
    text = str(problem["msg"]).removeprefix("Value error, ")
    return failure(400, f"{where}: {text}" if where else text)


async def _invalid_cursor(request: Request, error: InvalidCursor) -> Response:
    return failure(400, str(error))


async def _http_error(request: Request, error: HTTPException) -> Response:
    headers = dict(error.headers or {})
    status = 400 if error.status_code == 422 else error.status_code
    return failure(status, str(error.detail), headers=headers)


async def _not_unicode(request: Request, error: UnicodeEncodeError) -> Response:
    """JSON can spell half a character (`\\ud800`); no database takes it."""
    return failure(400, "That text is not Unicode")


async def _unavailable(request: Request, error: DatabaseUnavailable) -> Response:
    headers = {"Retry-After": str(math.ceil(error.retry_after))}
    return failure(503, "The database cannot be reached just now", headers=headers)


class CrashMiddleware:
    """Answers 500 in the E envelope for whatever the application raises.

    Starlette's own handler of last resort stands outside every middleware, so its answers would lack CORS headers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception as error:
            if started:  # half an answer is out: let the server cut the connection
                raise
            _log.error("unhandled error", exc_info=error, extra={"path": scope["path"]})
            await failure(500, "Something went wrong on our side")(scope, receive, send)
