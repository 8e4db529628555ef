"""One clear error for "MongoDB cannot serve this now", and the answer to HTTP clients: 503 with Retry-After.

The errors derive from the driver's as well, so `except AutoReconnect` and the like go on working.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ConnectionFailure,
    NetworkTimeout,
    NotPrimaryError,
    ServerSelectionTimeoutError,
    WaitQueueTimeoutError,
    WriteConcernError,
    WTimeoutError,
)
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from smriti_scale.errors import DatabaseUnavailable
from smriti_scale.mongo.causal_driver import STEPPED_DOWN


class NoPrimary(ServerSelectionTimeoutError, DatabaseUnavailable):
    """No node that could take the command appeared in time: an election goes on, or no majority is reachable."""


class ConnectionLost(AutoReconnect, DatabaseUnavailable):
    """The connection broke, and so did the retry. A write may or may not have been done."""


class PoolTimeout(WaitQueueTimeoutError, DatabaseUnavailable):
    """All connections of the pool were busy for the whole of `wait_queue_timeout`."""


def translated(error: ConnectionFailure, *, retry_after: float) -> DatabaseUnavailable:
    """The error to raise in place of the driver's; the driver's labels (for retries) are kept."""
    kind: type[NoPrimary | ConnectionLost | PoolTimeout]
    if isinstance(error, DatabaseUnavailable):
        return error
    if isinstance(error, WaitQueueTimeoutError):
        kind, text = (
            PoolTimeout,
            (
                "every connection of the pool was busy for too long: the commands are too slow, or too many for "
                f"max_pool_size ({_first_line(error)})"
            ),
        )
    elif isinstance(error, ServerSelectionTimeoutError):
        kind, text = (
            NoPrimary,
            (
                "no MongoDB node could take the command in time: an election is going on, or no majority of nodes is "
                f"reachable ({_first_line(error)})"
            ),
        )
    else:
        what = "answered too late" if isinstance(error, NetworkTimeout) else "went away"
        if isinstance(error, NotPrimaryError):
            what = "is no longer the primary"
        kind, text = (
            ConnectionLost,
            (
                f"a MongoDB node {what}, and so did the retry; a write may or may not have been done "
                f"({_first_line(error)})"
            ),
        )
    new = kind(text)
    new.retry_after = retry_after
    for label in error._error_labels:
        new._add_error_label(label)
    return new


def _first_line(error: BaseException) -> str:
    # The driver appends its whole view of the topology.
    return (
        str(error).splitlines()[0].partition(", Topology Description")[0][:200] if str(error) else type(error).__name__
    )


UNAVAILABLE: tuple[type[Exception], ...] = (DatabaseUnavailable, ConnectionFailure, WTimeoutError, BulkWriteError)
"""What `unavailable_response` answers: register it for each."""

_WRITE_CONCERN_FAILED = 64


async def unavailable_response(request: Request, error: Exception) -> Response:
    """An exception handler for Starlette and FastAPI: 503 with `Retry-After`, and nothing of the cluster's inside.

    A `BulkWriteError` is answered when none of its errors is the application's own (a duplicate key, say), else raised.

    ```python
    for kind in UNAVAILABLE:
        app.add_exception_handler(kind, unavailable_response)
    ```
    """
    retry_after = getattr(error, "retry_after", 5.0)
    if isinstance(error, BulkWriteError):
        if not _is_unavailability(error):
            raise error
        detail = "the writes were not all confirmed in time; some may have been done"
    elif isinstance(error, WriteConcernError):
        detail = "the write was not confirmed by a majority in time; it may have been done"
    else:
        detail = "the database is not available at the moment; try again"
    return JSONResponse(
        {"detail": detail}, status_code=503, headers={"Retry-After": str(max(1, math.ceil(retry_after)))}
    )


def _is_unavailability(error: BulkWriteError) -> bool:
    details = error.details
    refused = {each.get("code") for each in details.get("writeErrors", ())}
    unconfirmed = {each.get("code") for each in details.get("writeConcernErrors", ())}
    return refused <= STEPPED_DOWN and unconfirmed <= STEPPED_DOWN | {_WRITE_CONCERN_FAILED}


def handle_unavailable(app: Any) -> None:
    """Answer 503 with `Retry-After` whenever MongoDB is not available.

    Args:
        app: a Starlette or FastAPI application.
    """
    handler: Callable[[Request, Exception], Awaitable[Response]] = unavailable_response
    for kind in UNAVAILABLE:
        app.add_exception_handler(kind, handler)
