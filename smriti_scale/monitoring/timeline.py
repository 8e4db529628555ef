"""Running totals over time in bounded memory: every look of the last minutes, fewer and fewer the older they are."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from operator import itemgetter

Totals = tuple[float, ...]
Entry = tuple[float, Totals]

TIERS = ((1.0, 660.0), (60.0, 7 * 3_600.0), (900.0, 75 * 3_600.0), (21_600.0, 31 * 86_400.0))
"""(seconds between entries, seconds kept). A window's edge is off by at most the step of the tier it falls in, and
events within a step count as spread evenly, so by far less."""

_moment = itemgetter(0)


class Timeline:
    """What was added when, as totals since the first entry.

    Args:
        width: how many figures an entry has.
        tiers: as `TIERS`, the finest first.
    """

    def __init__(self, width: int, *, tiers: Sequence[tuple[float, float]] = TIERS) -> None:
        self._tiers = tuple((step, kept, deque[Entry]()) for step, kept in tiers)
        self._zero: Totals = (0.0,) * width
        self._newest: Entry | None = None
        self._began = 0.0

    def __len__(self) -> int:
        return sum(len(entries) for _, _, entries in self._tiers)

    def add(self, at: float, increase: Sequence[float]) -> None:
        """Add figures at a moment, not before the last one. The first call says where counting begins.

        Args:
            at: seconds of a monotonic clock.
            increase: what was added since the last call.
        """
        if self._newest is None:
            self._began, totals = at, self._zero
        else:
            at, totals = max(at, self._newest[0]), self._newest[1]
        totals = tuple(before + more for before, more in zip(totals, increase, strict=True))
        self._newest = (at, totals)
        for step, kept, entries in self._tiers:
            if entries and entries[-1][0] == at:
                entries[-1] = self._newest
            elif not entries or at - entries[-1][0] >= step:
                entries.append(self._newest)
            while len(entries) > 1 and entries[1][0] <= at - kept:  # the first one kept lies at or before the edge
                entries.popleft()

    def age(self, now: float) -> float:
        """Seconds since counting began; 0 before."""
        return 0.0 if self._newest is None else max(0.0, now - self._began)

    def increase(self, now: float, window: float) -> Totals:
        """What was added in the last `window` seconds before `now`; all there is, where that is less."""
        if self._newest is None:
            return self._zero
        before = self._at(now - window)
        return tuple(max(0.0, after - former) for after, former in zip(self._newest[1], before, strict=True))

    def _at(self, moment: float) -> Totals:
        assert self._newest is not None  # noqa: S101 - for the type checker
        if moment >= self._newest[0]:
            return self._newest[1]
        earlier: Entry | None = None
        later = self._newest
        for _, _, entries in self._tiers:
            place = bisect_right(entries, moment, key=_moment)
            if place and (earlier is None or entries[place - 1][0] > earlier[0]):
                earlier = entries[place - 1]
            if place < len(entries) and entries[place][0] < later[0]:
                later = entries[place]
        if earlier is None:
            return self._zero
        share = (moment - earlier[0]) / (later[0] - earlier[0])
        return tuple(low + (high - low) * share for low, high in zip(earlier[1], later[1], strict=True))
