"""The access log of `smriti-scale serve`: the worker queues a record, a thread of its own formats and writes it."""

from __future__ import annotations

import json
import logging
import queue
import sys
import threading
from multiprocessing.util import Finalize
from typing import IO, Any, Literal

_MOST_WAITING = 50_000
_STOP = None


class QueuedAccessLog(logging.Handler):
    """A handler that never makes a request wait for the terminal, the disk or a pipe that nobody reads.

    Where the reader is too slow, records beyond 50,000 are dropped, and their number is written when it catches up.

    Args:
        form: `text`, a line that people read, or `json`, an object a line.
        stream: where to; standard output when None.
    """

    def __init__(self, form: Literal["text", "json"] = "text", *, stream: IO[str] | None = None) -> None:
        super().__init__()
        self._write = _as_json if form == "json" else _as_text
        self._stream = stream
        self._queue: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._dropped = 0
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the request that the server describes in the record's arguments."""
        if not isinstance(record.args, dict):
            return
        if self._thread is None:
            # Not before: the process that configures logging may fork the workers.
            self._thread = threading.Thread(target=self._work, name="smriti_scale.access_log", daemon=True)
            self._thread.start()
            # A worker ends without atexit, so that daemon threads would lose the last lines.
            Finalize(None, self.close, exitpriority=10)
        if self._queue.qsize() >= _MOST_WAITING:
            self._dropped += 1
            return
        self._queue.put(record.args)

    def close(self) -> None:
        """Write what is queued, for two seconds at most, and end the thread."""
        if self._thread is not None and self._thread.is_alive():
            self._queue.put(_STOP)
            self._thread.join(timeout=2.0)
        super().close()

    def _work(self) -> None:
        stream = self._stream if self._stream is not None else sys.stdout
        while (request := self._queue.get()) is not _STOP:
            try:
                stream.write(self._write(request))
                if self._dropped:
                    dropped, self._dropped = self._dropped, 0
                    stream.write(f"access log: {dropped} requests not written, the reader was too slow\n")
                if self._queue.empty():
                    stream.flush()
            except (OSError, ValueError):
                return  # the stream is closed; there is nowhere left to say so


def _as_text(request: dict[str, Any]) -> str:
    path = _printable(request["path"])
    return (
        f'{request["time"]} {request["addr"]} "{request["method"]} {path} {request["protocol"]}" '
        f"{request['status']} {request['dt_ms']:.2f} ms\n"
    )


def _as_json(request: dict[str, Any]) -> str:
    return (
        json.dumps(
            {
                "time": request["time"],
                "client": request["addr"],
                "method": request["method"],
                "path": request["path"],
                "protocol": request["protocol"],
                "status": request["status"],
                "duration_ms": round(request["dt_ms"], 3),
            }
        )
        + "\n"
    )


def _printable(path: str) -> str:
    """Without line breaks, quotes or escape sequences, with which a client could forge lines."""
    return "".join(char if char.isprintable() and char not in '"\\' else f"\\x{ord(char):02x}" for char in path)
