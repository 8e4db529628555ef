"""Dead letters, as the worker writes them: tasks that will not be tried again, with why, until someone decides.

A record holds the whole message, so that it can be replayed; `dead_letters` reads, replays and purges them. It is
written before the message is acknowledged: a crash between the two leaves both, never neither.
"""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Mapping
from typing import Any

import orjson

from smriti_scale.tasks import keys
from smriti_scale.tasks.scripts import Script

_log = logging.getLogger("smriti_scale.tasks")
_BURY = Script("bury")
_MAX_ERROR = 2_000
_MAX_TRACEBACK = 16_000
DEFAULT_BOUND = 100_000


def bury(
    channel: Any,
    message: Mapping[str, Any],
    *,
    queue: str,
    reason: str,
    error: str,
    traceback: str = "",
    deliveries: int = 1,
    bound: int = DEFAULT_BOUND,
) -> str:
    """Write the record of one message; return its id. Raises what redis raises."""
    headers = message.get("headers") or {}
    properties = message.get("properties") or {}
    carried = headers.get("smriti_scale")
    letter_id = str(headers.get("id") or properties.get("correlation_id") or properties.get("delivery_tag"))
    record = {
        "id": letter_id,
        "task": str(headers.get("task") or "unknown"),
        "queue": queue,
        "reason": reason,
        "error": error[:_MAX_ERROR],
        "traceback": traceback[-_MAX_TRACEBACK:],
        "retries": int(headers.get("retries") or 0),
        "deliveries": deliveries,
        "published_at": carried.get("published_at") if isinstance(carried, dict) else None,
        "died_at": time.time(),
        "message": message,
    }
    _write(channel, letter_id, record, bound)
    return letter_id


def bury_unreadable(channel: Any, queue: str, item: bytes, error: Exception) -> None:
    """Write the record of bytes that are no message. They cannot be replayed, only looked at and purged."""
    letter_id = f"unreadable-{time.time_ns()}"
    record = {
        "id": letter_id,
        "task": "unknown",
        "queue": queue,
        "reason": "unreadable",
        "error": f"{type(error).__name__}: {error}"[:_MAX_ERROR],
        "traceback": "",
        "retries": 0,
        "deliveries": 1,
        "published_at": None,
        "died_at": time.time(),
        "message": None,
        "bytes": base64.b64encode(item[:_MAX_TRACEBACK]).decode(),
    }
    _write(channel, letter_id, record, DEFAULT_BOUND)
    _log.error("a message in %r cannot be read; it is dead letter %s", queue, letter_id)


def _write(channel: Any, letter_id: str, record: Mapping[str, Any], bound: int) -> None:
    dropped = _BURY.run(
        channel.raw(),
        [channel.key(keys.DEAD), channel.key(keys.DEAD_INDEX)],
        [letter_id, orjson.dumps(record), record["died_at"], bound],
    )
    if dropped:
        _log.warning("more than %d dead letters: the oldest %d were dropped", bound, dropped)
