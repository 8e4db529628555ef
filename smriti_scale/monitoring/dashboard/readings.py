"""What the registry held at several moments, kept small, so that a figure can be had for the last minutes. Pure.

Counters only ever grow: "in the last five minutes" is the difference between two looks at them. A look is one array
of numbers; the names and labels are kept once for all looks.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

Labels = Mapping[str, str]


class Sample(Protocol):
    """One number of a family, as prometheus_client gives it."""

    @property
    def name(self) -> str: ...
    @property
    def labels(self) -> Labels: ...
    @property
    def value(self) -> float: ...


class Family(Protocol):
    """A metric with its samples, as prometheus_client's `collect()` yields it."""

    @property
    def name(self) -> str: ...
    @property
    def samples(self) -> Sequence[Sample]: ...


@dataclass(frozen=True, slots=True)
class Histogram:
    """Observations by upper bound.

    Attributes:
        bounds: upper bounds in order, the last one infinite.
        counts: observations at or below each bound.
        total: the sum of what was observed.
    """

    bounds: tuple[float, ...]
    counts: tuple[float, ...]
    total: float

    @property
    def count(self) -> float:
        return self.counts[-1] if self.counts else 0.0

    @property
    def mean(self) -> float | None:
        return self.total / self.count if self.count else None

    def quantile(self, q: float) -> float | None:
        """The value that a share `q` of the observations does not exceed, as Prometheus' `histogram_quantile` has it.

        Inside a bucket the observations are taken to lie evenly. Above the last finite bound, that bound is all that
        is known. None without observations.
        """
        if not self.count:
            return None
        rank = q * self.count
        below = 0.0
        lower = 0.0
        for bound, count in zip(self.bounds, self.counts, strict=True):
            if count >= rank and count > below:
                if math.isinf(bound):
                    return lower
                return lower + (bound - lower) * (rank - below) / (count - below)
            below, lower = count, bound if not math.isinf(bound) else lower
        return lower


@dataclass(frozen=True, slots=True)
class Span:
    """From one look to a later one.

    Attributes:
        at: the later look's time, seconds since the epoch.
        seconds: the time between.
    """

    at: float
    seconds: float
    _series: Mapping[str, Mapping[tuple[tuple[str, str], ...], int]]
    _now: Sequence[float]
    _before: Sequence[float]

    def grown(self, name: str) -> Iterator[tuple[dict[str, str], float]]:
        """The growth of a counter (or of a part of a histogram), by labels. One that fell began anew at 0."""
        before = self._before
        for labels, place in self._series.get(name, {}).items():
            if place < len(self._now):
                now, old = self._now[place], before[place] if place < len(before) else 0.0
                yield dict(labels), now - old if now >= old else now

    def now(self, name: str) -> Iterator[tuple[dict[str, str], float]]:
        """A gauge, by labels."""
        for labels, place in self._series.get(name, {}).items():
            if place < len(self._now) and not math.isnan(self._now[place]):
                yield dict(labels), self._now[place]

    def value(self, name: str, *, worst: bool = False) -> float | None:
        """A gauge without labels: the sum of what each process says, or the highest; None when nobody says any."""
        values = [value for _, value in self.now(name)]
        return (max(values) if worst else sum(values)) if values else None

    def totals(self, name: str, *by: str) -> dict[tuple[str, ...], float]:
        """The growth of a counter, summed by some of its labels."""
        sums: dict[tuple[str, ...], float] = {}
        for labels, value in self.grown(name):
            key = tuple(labels.get(label, "") for label in by)
            sums[key] = sums.get(key, 0.0) + value
        return sums

    def histograms(self, name: str, *by: str) -> dict[tuple[str, ...], Histogram]:
        """What a histogram observed, merged by some of its labels."""
        buckets: dict[tuple[str, ...], dict[float, float]] = {}
        for labels, value in self.grown(f"{name}_bucket"):
            key = tuple(labels.get(label, "") for label in by)
            bound = float(labels["le"])
            counts = buckets.setdefault(key, {})
            counts[bound] = counts.get(bound, 0.0) + value
        sums = self.totals(f"{name}_sum", *by)
        found = {}
        for key, counts in buckets.items():
            bounds = tuple(sorted(counts))
            found[key] = Histogram(bounds, tuple(counts[bound] for bound in bounds), sums.get(key, 0.0))
        return found

    def histogram(self, name: str) -> Histogram | None:
        """All that a histogram observed; None where there is no such histogram."""
        return self.histograms(name).get(())


class Readings:
    """The looks of about the last hour: all of the last minutes, and one a minute before.

    Args:
        started: seconds since the epoch at which the counters stood at 0.
        fine: seconds for which every look is kept.
        coarse: seconds between looks that are kept longer.
        keep: seconds after which a look is dropped.
    """

    def __init__(self, *, started: float, fine: float = 330.0, coarse: float = 60.0, keep: float = 3700.0) -> None:
        self.started = started
        self._fine = fine
        self._coarse = coarse
        self._keep = keep
        self._series: dict[str, dict[tuple[tuple[str, str], ...], int]] = {}
        self._width = 0
        self._looks: list[tuple[float, array[float]]] = []

    @property
    def latest(self) -> float | None:
        """When the last look was; None before the first."""
        return self._looks[-1][0] if self._looks else None

    @property
    def looks(self) -> int:
        """How many looks are kept."""
        return len(self._looks)

    def add(self, families: Iterable[Family], *, at: float) -> None:
        """Keep what a look at the registry found.

        Args:
            families: what `registry.collect()` yields.
            at: seconds since the epoch. Later looks are forgotten: the clock was set back.
        """
        while self._looks and self._looks[-1][0] >= at:
            self._looks.pop()
        values = array("d", bytes(8 * self._width))
        for family in families:
            if not family.name.startswith("scale_"):
                continue
            for sample in family.samples:
                if sample.name.endswith("_created"):
                    continue
                known = self._series.setdefault(sample.name, {})
                key = tuple(sample.labels.items())
                place = known.get(key)
                if place is None:
                    place = known[key] = self._width
                    self._width += 1
                    values.append(0.0)
                values[place] = sample.value
        self._looks.append((at, values))
        self._thin(at)

    def span(self, seconds: float | None = None) -> Span:
        """The last `seconds`, or as much of them as was seen; None for all since the counters began.

        Raises:
            LookupError: no look was taken yet.
        """
        if not self._looks:
            raise LookupError("no look was taken yet")
        at, now = self._looks[-1]
        since, before = self.started, array("d")
        if seconds is not None:
            since, before = next((look for look in reversed(self._looks) if look[0] <= at - seconds), self._looks[0])
            if since == at:
                since, before = self.started, array("d")  # a single look: all there is
        return Span(at, max(at - since, 1e-9), self._series, now, before)

    def history(self, name: str, *, points: int = 60) -> list[tuple[float, float]]:
        """How fast a counter grew between the looks of the last minutes: `(epoch seconds, per second)`."""
        places = list(self._series.get(name, {}).values())
        sums = [
            (at, sum(values[place] for place in places if place < len(values)))
            for at, values in self._looks[-(points + 1) :]
        ]
        return [(at, max(total - old, 0.0) / (at - earlier)) for (earlier, old), (at, total) in pairwise(sums)]

    def _thin(self, now: float) -> None:
        kept: list[tuple[float, array[float]]] = []
        for look in self._looks:
            age = now - look[0]
            if age <= self._fine or (age <= self._keep and (not kept or look[0] - kept[-1][0] >= self._coarse)):
                kept.append(look)
        self._looks = kept
