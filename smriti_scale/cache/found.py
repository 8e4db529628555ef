"""What passes between the tiers and the callers: the kind of a call, a value for many callers, what was found where."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from smriti_scale.cache.codecs import BoundCodec
from smriti_scale.cache.entry import Policy, State
from smriti_scale.cache.sameness import held_bytes


@dataclass(slots=True)
class Kind:
    """One kind of call: a decorated function, or direct use with a type."""

    label: str
    policy: Policy
    codec: BoundCodec[Any]
    shared: bool = False
    tags_from: Callable[[Any], Iterable[str]] | None = None
    _bytes_per_byte: float = field(default=0.0, init=False)

    def weigh(self, value: Any, payload: bytes) -> int:
        """Bytes that a shared value holds: measured on the first, then by the length of its payload."""
        if self._bytes_per_byte == 0 or len(payload) < 64:
            held = held_bytes(value)
            self._bytes_per_byte = max(self._bytes_per_byte, held / len(payload)) if len(payload) >= 64 else 0.0
            return held
        return int(len(payload) * self._bytes_per_byte)


class Result:
    """A value on its way to one or many callers, each of whom gets a copy of their own unless it may be shared.

    Args:
        value: the shared value, or one copy for whoever takes first (`EMPTY` for none).
        load: makes a copy from `raw`; None when the value is shared.
    """

    __slots__ = ("_load", "_raw", "_value")

    EMPTY: Any = object()

    def __init__(self, value: Any, *, load: Callable[[bytes], Any] | None = None, raw: bytes = b"") -> None:
        self._value = value
        self._load = load
        self._raw = raw

    def peek(self) -> Any:
        """The first copy, to look at or pass on in place of this result."""
        return self._value

    def take(self) -> Any:
        """The value for one caller."""
        if self._load is None:
            return self._value
        value, self._value = self._value, self.EMPTY
        return self._load(self._raw) if value is self.EMPTY else value


class Found(NamedTuple):
    """What a tier had."""

    state: State
    result: Result
    source: Literal["memory", "redis"]
    born: float
    fresh_until: float
    """Wall time."""
    tags: tuple[str, ...]
    refresh: bool
    """To be served, and renewed in the background."""
