"""What a request leaves behind for whoever asks how it was limited; made for every request, looked into for few."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias, final

from limits import RateLimitItem

from smriti_scale.ratelimit.headers import HeaderNames, append_fields, reported
from smriti_scale.ratelimit.rules import Decision, Outcome


@final
class Checked(tuple[Any, ...]):
    """`request.state.view_rate_limit`: slowapi's pair of limit and key parts, with the decision beside it.

    It holds the decision, or what a meter read when it let a request pass: checks, remaining, reset at, now, source.
    The decision and the pair are made of it when they are asked for.
    """

    __slots__ = ()

    @property
    def decision(self) -> Decision:
        """What the pair comes from."""
        if tuple.__len__(self) == 1:
            return tuple.__getitem__(self, 0)  # type: ignore[no-any-return]
        checks, remaining, reset_at, now, source = tuple.__iter__(self)
        return Decision(True, source, checks, (Outcome(checks[0].cost, remaining, reset_at, 0, 0),), now)

    def append_fields(self, headers: list[tuple[bytes, bytes]], names: HeaderNames) -> bool:
        """`append_fields` for what a meter read; False, and nothing added, where it was another who decided."""
        if tuple.__len__(self) == 1:
            return False
        checks, remaining, reset_at, now, _ = tuple.__iter__(self)
        return append_fields(headers, checks[0], remaining, reset_at, now, names)

    def _pair(self) -> tuple[RateLimitItem, list[str]]:
        told = reported(self.decision)
        if told is None:
            raise IndexError("the decision counted nothing")
        return told[0].rule.item, list(told[0].names)

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[Any]:
        return iter(self._pair())

    def __getitem__(self, index: Any) -> Any:
        return self._pair()[index]


Meter: TypeAlias = Callable[[], Checked | Decision | None]
"""Charges one caller with the limits of one route: `Checked` when it passed in the usual way, else the decision; None
where that needs I/O."""
