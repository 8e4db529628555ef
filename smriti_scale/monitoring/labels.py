"""Label values that stay bounded, and an instrument's children kept at hand.

A label's values come from code (routes, collections, tasks), yet some code builds names from data. After `limit`
values of one label, further ones share `(other)`: neither memory nor what is scraped grows with the traffic.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

OTHER = "(other)"
"""The value of a label once it has as many as are allowed."""

T = TypeVar("T")


class LabelValues:
    """The values that one label may have: the first `limit` there are, then `OTHER`."""

    __slots__ = ("_limit", "_lock", "_values")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: set[str] = set()
        self._lock = threading.Lock()  # Motor's commands report from several threads

    def __len__(self) -> int:
        return len(self._values)

    def admit(self, value: str) -> str:
        """The value itself, or `OTHER`."""
        if value in self._values:
            return value
        with self._lock:
            if len(self._values) >= self._limit:
                return value if value in self._values else OTHER
            self._values.add(value)
        return value


class Children(dict[tuple[str, ...], T], Generic[T]):
    """An instrument's children by their label values: `children["GET", "/posts"]`. A known one is a look-up.

    Args:
        instrument: a labelled counter, gauge or histogram.
        make: its `labels`.
        names: of its labels.
        bounds: the values allowed, by label.
    """

    __slots__ = ("_bounds", "_make", "instrument")

    def __init__(
        self, instrument: T, make: Callable[..., T], names: tuple[str, ...], bounds: Mapping[str, LabelValues]
    ) -> None:
        super().__init__()
        self.instrument = instrument
        self._make = make
        self._bounds = tuple(bounds[name] for name in names)

    def __missing__(self, values: tuple[str, ...]) -> T:
        if len(values) != len(self._bounds):
            raise KeyError(f"{len(self._bounds)} label values are needed, not {values!r}")
        admitted = tuple(bound.admit(value) for bound, value in zip(self._bounds, values, strict=True))
        child = self.get(admitted)
        if child is None:
            child = self[admitted] = self._make(*admitted)
        return child  # what was not admitted is not kept as a key either
