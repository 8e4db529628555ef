"""Logs as one JSON object a line: with the request's id and trace, without secrets.

```python
setup_logging()  # once, when the process starts
logging.getLogger("shop").info("order placed", extra={"order": order.id})
# {"time": "2026-01-31T10:00:00.123Z", "level": "INFO", "logger": "shop", "message": "order placed", "order": "…"}
```
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from typing import Any, Literal, TextIO

import orjson

from smriti_scale import context
from smriti_scale.errors import ConfigurationError
from smriti_scale.monitoring.redaction import REDACTED, is_sensitive, redact, scrubbed

LogForm = Literal["json", "text"]

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}
_SERVERS = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi", "_granian", "granian", "granian.access")
_LONGEST = 32_768


class JSONFormatter(logging.Formatter):
    """Formats a record as one line of JSON.

    `time` (UTC, milliseconds), `level`, `logger` and `message` are always there; `request_id`, `trace_id` and `span_id`
    where the context has them; then the record's `extra` fields under their own names (`extra_…` where one is taken);
    `exception` and `stack` as texts. Access lines of uvicorn and granian become fields (`client`, `method`, `path`
    without its query string, `status`). Secrets and e-mail addresses are replaced, by field name and by what a text
    looks like; see `monitoring.redaction`.

    Args:
        static: fields that every line gets, such as `{"service": "shop"}`.
    """

    def __init__(self, *, static: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self._static = dict(static or {})

    def format(self, record: logging.LogRecord) -> str:
        """One line, without its end."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": "",
            **self._static,
            **_context(),
        }
        access = _access(record)
        if access is not None:
            line["message"] = "request"
            line.update(access)
        else:
            line["message"] = redact(record.getMessage()[:_LONGEST])
        for name, value in record.__dict__.items():
            if name not in _STANDARD:
                known = f"extra_{name}" if name in line else name
                line[known] = REDACTED if value is not None and is_sensitive(name) else scrubbed(value)
        if record.exc_info:
            line["exception"] = redact(self.formatException(record.exc_info)[-_LONGEST:])
        if record.stack_info:
            line["stack"] = redact(self.formatStack(record.stack_info))
        try:
            return orjson.dumps(line, default=_shown, option=orjson.OPT_NON_STR_KEYS).decode()
        except (TypeError, ValueError):  # half a character, or a number of more than 64 bits
            return orjson.dumps({name: _shown(value) for name, value in line.items()}).decode()


class TextFormatter(logging.Formatter):
    """The same facts as a line for people: time, level, logger, request id, message; redacted too."""

    def format(self, record: logging.LogRecord) -> str:
        """One entry; an exception follows on lines of its own."""
        request_id = context.request_id.get()
        named = f" [{request_id}]" if request_id else ""
        access = _access(record)
        message = " ".join(str(value) for value in access.values()) if access else record.getMessage()
        lines = f"{_time(record)} {record.levelname} {record.name}{named}: {_one_line(message[:_LONGEST])}"
        if record.exc_info:
            lines = f"{lines}\n{self.formatException(record.exc_info)}"
        if record.stack_info:
            lines = f"{lines}\n{self.formatStack(record.stack_info)}"
        return redact(lines)


def setup_logging(
    level: int | str = "INFO",
    *,
    form: LogForm = "json",
    stream: TextIO | None = None,
    static: Mapping[str, str] | None = None,
) -> logging.Handler:
    """Let the whole process log in one form: one handler at the root, uvicorn's and granian's loggers through it.

    Call it once, when the app is made: servers have configured their own logging by then. Console handlers that the
    root and the servers' loggers have are taken off; others (files, pytest's, the access log of `smriti-scale serve`)
    stay.

    Args:
        level: the lowest level that is written.
        form: `json` or `text`.
        stream: where to; standard error by default.
        static: fields of every JSON line, such as `{"service": "shop"}`.

    Returns:
        The handler, so that it can be removed again.

    Raises:
        ConfigurationError: there is no such level or form.
    """
    if form not in ("json", "text"):
        raise ConfigurationError(f'the form of logs is "json" or "text", not {form!r}')
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JSONFormatter(static=static) if form == "json" else TextFormatter())
    root = logging.getLogger()
    try:
        root.setLevel(level.upper() if isinstance(level, str) else level)
    except ValueError as error:
        raise ConfigurationError(f"{level!r} is no log level; use DEBUG, INFO, WARNING or ERROR") from error
    for logger in (root, *(logging.getLogger(name) for name in _SERVERS)):
        for old in [one for one in logger.handlers if type(one) is logging.StreamHandler]:
            logger.removeHandler(old)
        if logger is not root and not logger.handlers:
            logger.propagate = True
    root.addHandler(handler)
    return handler


def _time(record: logging.LogRecord) -> str:
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{moment}.{int(record.msecs):03d}Z"


def _context() -> dict[str, str]:
    found: dict[str, str] = {}
    if request_id := context.request_id.get():
        found["request_id"] = request_id
    if (trace := context.trace.get()) and trace.count("-") == 3:
        _, found["trace_id"], found["span_id"], _ = trace.split("-")
    return found


def _access(record: logging.LogRecord) -> dict[str, Any] | None:
    """What a server's access line says, as fields; None where the record is none."""
    given: Any = record.args
    if record.name == "uvicorn.access" and isinstance(given, tuple) and len(given) == 5:
        client, method, path, version, status = given
        found = {"client": client, "method": method, "path": path, "protocol": f"HTTP/{version}", "status": status}
    elif record.name == "granian.access" and isinstance(given, dict) and "path" in given:
        found = {
            "client": given.get("addr"),
            "method": given.get("method"),
            "path": given["path"],
            "protocol": given.get("protocol"),
            "status": given.get("status"),
            "ms": round(float(given.get("dt_ms", 0)), 2),
        }
    else:
        return None
    found["path"] = redact(str(found["path"]).partition("?")[0])
    return found


def _one_line(text: str) -> str:
    return text.replace("\n", "\\n").replace("\r", "\\r").replace("\x1b", "\\x1b")


def _shown(value: Any) -> str:
    try:
        text = value if isinstance(value, str) else repr(value)
    except Exception:  # noqa: BLE001 - a log line must not fail for a broken __repr__
        text = f"<{type(value).__name__}>"
    return redact(text[:_LONGEST].encode("utf-8", "replace").decode())
