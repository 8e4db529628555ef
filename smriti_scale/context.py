"""What travels with a request and into the work it starts: request id, causal position, trace.

Each is an opaque string in a context variable, so asyncio tasks inherit it without being told. `capture()` turns
the three into a plain mapping (for a task message, a log record, a cache invalidation) and `restored(...)` puts such
a mapping back. The primitives that set a value know its meaning; nobody else parses it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar

request_id: ContextVar[str | None] = ContextVar("smriti_scale.request_id", default=None)
"""The id of the HTTP request being served (`X-Request-ID`)."""

causal_position: ContextVar[str | None] = ContextVar("smriti_scale.causal_position", default=None)
"""A position in MongoDB's history that reads on behalf of this caller must not fall behind."""

trace: ContextVar[str | None] = ContextVar("smriti_scale.trace", default=None)
"""The W3C `traceparent` of the current trace."""

identity: ContextVar[str | None] = ContextVar("smriti_scale.identity", default=None)
"""Who is signed in, once verified by the application; never taken from an unverified token."""

_CARRIED: dict[str, ContextVar[str | None]] = {
    "request_id": request_id,
    "causal_position": causal_position,
    "trace": trace,
}


def capture() -> dict[str, str]:
    """The values that are set now, by name: what a message or a record takes along."""
    return {name: value for name, variable in _CARRIED.items() if (value := variable.get()) is not None}


@contextlib.contextmanager
def restored(carried: Mapping[str, str]) -> Iterator[None]:
    """Inside the block, the context holds exactly what `capture()` took; names it does not know are ignored."""
    tokens = [(variable, variable.set(carried.get(name))) for name, variable in _CARRIED.items()]
    try:
        yield
    finally:
        for variable, token in reversed(tokens):
            variable.reset(token)
