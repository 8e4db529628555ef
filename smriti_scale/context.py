"""What travels with a request and into the work it starts: request id, causal position, trace.

Each is an opaque string in a context variable, so asyncio tasks inherit it without being told. `capture()` turns
the three into a plain mapping (for a task message, a log record, a cache invalidation) and `restored(...)` puts such
a mapping back. The primitives that set a value know its meaning; nobody else parses it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar, Token
from typing import Any, Protocol

request_id: ContextVar[str | None] = ContextVar("smriti_scale.request_id", default=None)
"""The id of the HTTP request being served (`X-Request-ID`)."""


class PositionVariable:
    """A context variable for the causal position, whose value may move while the request runs.

    A plain context variable cannot follow a write made in a child task or a driver's thread: those have copies of
    the context. So what the variable holds is a cell that the copies share, and in the cell either the position or
    a function that gives the newest one (the MongoDB clients put theirs there).
    """

    class Cell:
        """What the copies of one context share."""

        __slots__ = ("held",)

        def __init__(self, held: str | Callable[[], str | None] | None) -> None:
            self.held = held

    def __init__(self, name: str) -> None:
        self._cell: ContextVar[PositionVariable.Cell | None] = ContextVar(name, default=None)

    def get(self) -> str | None:
        """The newest position; None when there is none."""
        cell = self._cell.get()
        if cell is None:
            return None
        return cell.held() if callable(cell.held) else cell.held

    def set(self, value: str | Callable[[], str | None] | None) -> Token[Cell | None]:
        """From here on, this context has a position of its own."""
        return self._cell.set(self.Cell(value))

    def reset(self, token: Token[Cell | None]) -> None:
        """Back to what was before `set`."""
        self._cell.reset(token)

    def cell(self) -> Cell | None:
        """The cell itself, for whoever keeps the position; None where nothing was set."""
        return self._cell.get()


causal_position = PositionVariable("smriti_scale.causal_position")
"""A position in MongoDB's history that reads on behalf of this caller must not fall behind."""

trace: ContextVar[str | None] = ContextVar("smriti_scale.trace", default=None)
"""The W3C `traceparent` of the current trace."""

identity: ContextVar[str | None] = ContextVar("smriti_scale.identity", default=None)
"""Who is signed in, once verified by the application; never taken from an unverified token."""


class _Carried(Protocol):
    def get(self) -> str | None: ...
    def set(self, value: str | None, /) -> Any: ...
    def reset(self, token: Any, /) -> None: ...


_CARRIED: dict[str, _Carried] = {
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
