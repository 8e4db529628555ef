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

from examples.smriti.answers import ApiError, failure
from smriti_scale.errors import InvalidCursor

_log = logging.getLogger("smriti")


def install_error_handlers(app: FastAPI) -> None:
    """Make the app answer every kind of error as the contract has it."""
    handlers: dict[type[Exception], Any] = {
        ApiError: _api_error,
        RequestValidationError: _invalid,
        InvalidCursor: _invalid_cursor,
        HTTPException: _http_error,
        Exception: _crash,
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


async def _crash(request: Request, error: Exception) -> Response:
    _log.error("unhandled error", exc_info=error, extra={"path": request.url.path})
    return failure(500, "Something went wrong on our side")


def retry_after(seconds: float) -> dict[str, str]:
    """Never told too early: rounded up, at least one second."""
    return {"Retry-After": str(max(1, math.ceil(seconds)))}
