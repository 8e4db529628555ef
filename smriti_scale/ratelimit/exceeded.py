"""The error of a refused request, and the answers it becomes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from limits import RateLimitItemPerSecond
from slowapi.errors import RateLimitExceeded as SlowapiRateLimitExceeded
from slowapi.wrappers import Limit
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, Response

from smriti_scale.errors import ScaleError
from smriti_scale.ratelimit.rules import Decision

Reason = Literal["limit", "banned", "denied", "unavailable"]
Body = Literal["json", "problem"]

STATUS: dict[Reason, int] = {"limit": 429, "banned": 429, "denied": 403, "unavailable": 503}
_TEXT: dict[Reason, str] = {
    "limit": "Rate limit exceeded",
    "banned": "Too many refused requests",
    "denied": "Access denied",
    "unavailable": "Rate limits cannot be checked right now",
}
_TITLE = {403: "Forbidden", 429: "Too Many Requests", 503: "Service Unavailable"}


class RateLimitExceeded(ScaleError, SlowapiRateLimitExceeded):
    """A request was refused. An `HTTPException`, and slowapi's own error, so existing handlers keep working.

    Attributes:
        limit: the limit that refused, as slowapi has it (`limit.limit` is its `limits` item).
        reason: `limit`; `banned` (refused too often); `denied` (on the deny list); `unavailable` (Redis is down and
            the limit is to fail closed).
        status_code: 429; for `denied` 403, for `unavailable` 503.
        retry_after: whole seconds after which the request could pass.
        headers: `Retry-After`; none for `denied`.
        detail: the limit's text, or its `error_message`.
    """

    def __init__(self, limit: Limit, *, reason: Reason = "limit", decision: Decision | None = None) -> None:
        SlowapiRateLimitExceeded.__init__(self, limit)
        self.reason = reason
        self.decision = decision
        # Rounded up: a client that comes back when told must not be refused again.
        self.retry_after = max(1, math.ceil(decision.retry_after)) if decision is not None else 1
        self.status_code = STATUS[reason]
        self.headers = None if reason == "denied" else {"Retry-After": str(self.retry_after)}
        if reason != "limit":
            self.detail = _TEXT[reason]

    @property
    def message(self) -> str:
        """The text that the default answers show."""
        return f"{_TEXT['limit']}: {self.detail}" if self.reason == "limit" else self.detail


PLACEHOLDER = Limit(RateLimitItemPerSecond(1), lambda: "", None, False, None, None, None, 1, False)
"""Stands for "no limit in particular" in errors of bans and deny lists."""


def json_answer(request: HTTPConnection, error: Exception) -> Response:
    """`{"error": "Rate limit exceeded: 5 per 1 minute"}`, as slowapi answers."""
    return JSONResponse({"error": _message(error)}, status_code=_status(error), headers=_headers(error))


def problem_answer(request: HTTPConnection, error: Exception) -> Response:
    """An `application/problem+json` body (RFC 9457)."""
    status = _status(error)
    return JSONResponse(
        {"title": _TITLE[status], "status": status, "detail": _message(error)},
        status_code=status,
        headers=_headers(error),
        media_type="application/problem+json",
    )


def _message(error: Exception) -> str:
    if isinstance(error, RateLimitExceeded):
        return error.message
    return f"{_TEXT['limit']}: {getattr(error, 'detail', error)}"


def _status(error: Exception) -> int:
    return error.status_code if isinstance(error, RateLimitExceeded) else 429


def _headers(error: Exception) -> Mapping[str, str] | None:
    return error.headers if isinstance(error, RateLimitExceeded) else None


ANSWERS = {"json": json_answer, "problem": problem_answer}
