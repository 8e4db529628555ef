"""How Smriti answers: the envelopes S and E of its contract, times in UTC with a `Z`, bodies as bytes from orjson."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, TypeVar

import orjson
from bson import ObjectId
from pydantic import BaseModel
from starlette.responses import Response

D = TypeVar("D")


class Success(BaseModel, Generic[D]):
    """The envelope of every success."""

    success: bool = True
    message: str
    data: D


class Done(BaseModel):
    """The envelope when there is nothing to return."""

    success: bool = True
    message: str


class Failure(BaseModel):
    """The envelope of every failure."""

    success: bool = False
    error: str
    code: str | None = None


class ApiError(Exception):
    """Ends a request with an E envelope.

    Args:
        status: the HTTP status.
        error: a text for people.
        code: a text for programs, where the contract has one.
    """

    def __init__(
        self, status: int, error: str, *, code: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.code = code
        self.headers = headers


def iso(moment: datetime | None) -> str | None:
    """A UTC moment as MongoDB keeps it (naive, milliseconds) in ISO 8601 with `Z`."""
    return None if moment is None else moment.isoformat(timespec="milliseconds") + "Z"


def json_bytes(content: Any) -> bytes:
    return orjson.dumps(content, default=_plain)


def answer(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """`content` as JSON."""
    return Response(json_bytes(content), status, headers, "application/json")


def success(message: str, data: Any = None, *, status: int = 200) -> Response:
    """S: `data` is left out when there is nothing to return."""
    body: dict[str, Any] = {"success": True, "message": message}
    if data is not None:
        body["data"] = data
    return answer(body, status)


def success_bytes(message: str, data: bytes) -> Response:
    """S around `data` that is JSON already."""
    body = b'{"success":true,"message":' + orjson.dumps(message) + b',"data":' + data + b"}"
    return Response(body, media_type="application/json")


def failure(status: int, error: str, *, code: str | None = None, headers: dict[str, str] | None = None) -> Response:
    """E."""
    body: dict[str, Any] = {"success": False, "error": error}
    if code is not None:
        body["code"] = code
    return answer(body, status, headers)


def _plain(value: Any) -> Any:
    if isinstance(value, ObjectId):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
