"""What is good and what is bad: each indicator (SLI) defined once, read in process and written as PromQL.

Two kinds. *Events* (requests) are counted: so many bad of so many. *States* (a mean, a gauge) have no events of their
own, so every look is one: a tick, good or bad. Both end as a share of bad ones over a window, on which all else rests.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from smriti_scale.errors import ConfigurationError

Unit = Literal["seconds", "ratio"]
Vector = tuple[float, ...]

LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of `scale_http_request_duration_seconds`, in seconds."""


class Sample(Protocol):
    """One line of `/metrics`, as prometheus_client has it."""

    @property
    def name(self) -> str: ...
    @property
    def labels(self) -> Mapping[str, str]: ...
    @property
    def value(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Match:
    """A condition on a label.

    Args:
        label: its name.
        pattern: a regular expression that the whole value must match; keep to what RE2 knows as well.
        wanted: false for samples that must not match.
    """

    label: str
    pattern: str
    wanted: bool = True

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ConfigurationError(f"{self.pattern!r} is no regular expression: {error}") from None

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether these labels pass."""
        return (re.fullmatch(self.pattern, labels.get(self.label, "")) is not None) == self.wanted

    def promql(self) -> str:
        """As it stands between the braces of a selector."""
        return f"{self.label}{'=~' if self.wanted else '!~'}{json.dumps(self.pattern)}"


NOT_PROBES = Match("route", r".*/(livez|readyz|startupz|metrics)|/_scale(/.*)?", wanted=False)
"""Probes, scrapes and the dashboard are no users: on a quiet service they would be most of the traffic."""


SERVER_ERRORS = Match("status", "5..")

Samples = Mapping[str, Sequence[Sample]]
"""What one look saw, by the samples' names."""


def chosen(samples: Samples, name: str, matches: Sequence[Match]) -> list[Sample]:
    """The samples of one name whose labels pass."""
    return [sample for sample in samples.get(name, ()) if all(match.holds(sample.labels) for match in matches)]


def selector(metric: str, matches: Iterable[Match], *more: str) -> str:
    """A PromQL instant selector."""
    inside = ",".join([*(match.promql() for match in matches), *more])
    return f"{metric}{{{inside}}}" if inside else metric


def quantile(share: float, bounds: Sequence[float], counts: Sequence[float]) -> float | None:
    """The value below which `share` of the observations lie, by linear interpolation, as PromQL's histogram_quantile.

    Args:
        share: 0…1.
        bounds: upper bounds of the buckets, ascending, without +Inf.
        counts: cumulative counts of those buckets and, last, of all observations.

    Returns:
        None without observations; the greatest bound where the quantile lies above it.
    """
    total = counts[-1]
    if total <= 0:
        return None
    rank = share * total
    below, lower = 0.0, 0.0
    for upper, count in zip(bounds, counts, strict=False):
        if count >= rank:
            return upper if count <= below else lower + (upper - lower) * max(0.0, rank - below) / (count - below)
        below, lower = count, upper
    return bounds[-1]


@dataclass(frozen=True, slots=True)
class FasterThan:
    """Events: observations of a histogram at or under a threshold are good.

    Args:
        metric: the histogram.
        threshold: seconds; one of `buckets`.
        buckets: the histogram's upper bounds, ascending, in seconds.
        matches: which of its series count.

    Raises:
        ConfigurationError: the threshold is none of the bounds, so that nobody could count what lies below it.
    """

    metric: str
    threshold: float
    buckets: tuple[float, ...] = LATENCY_BUCKETS
    matches: tuple[Match, ...] = ()

    def __post_init__(self) -> None:
        if self.threshold not in self.buckets:
            known = ", ".join(f"{bound:g}" for bound in self.buckets)
            raise ConfigurationError(
                f"{self.threshold:g} s is no bucket of {self.metric}, so nothing counts what is faster; choose {known}"
            )

    @property
    def unit(self) -> Unit:
        """Of the threshold and of `number`."""
        return "seconds"

    @property
    def samples(self) -> frozenset[str]:
        """Names of the samples that `read` wants."""
        return frozenset((f"{self.metric}_bucket", f"{self.metric}_count"))

    def read(self, samples: Samples) -> Vector | None:
        """Cumulative counts by bucket and, last, of all; None where there is no such metric.

        Raises:
            ConfigurationError: the histogram has other buckets.
        """
        counts = chosen(samples, f"{self.metric}_count", self.matches)
        if not counts:
            return None
        found = dict.fromkeys(self.buckets, 0.0)
        seen: set[float] = set()
        for sample in chosen(samples, f"{self.metric}_bucket", self.matches):
            bound = float(sample.labels["le"])
            seen.add(bound)
            if bound in found:
                found[bound] += sample.value
        if seen and not seen.issuperset(found):
            known = ", ".join(f"{bound:g}" for bound in sorted(seen))
            raise ConfigurationError(f"{self.metric} has the buckets {known}: give the SLO those (`buckets=`)")
        return (*found.values(), sum(sample.value for sample in counts))

    def counts(self, increase: Vector) -> tuple[float, float]:
        """Bad events, and all."""
        return max(0.0, increase[-1] - increase[self.buckets.index(self.threshold)]), increase[-1]

    def number(self, increase: Vector, objective: float) -> float | None:
        """The objective's quantile, in seconds."""
        return quantile(objective, self.buckets, increase)

    def bad(self, over: str, by: str) -> tuple[str, str]:
        """PromQL: bad and all events, each under `over` (such as `rate(%s[5m])`), summed by labels."""
        bound = re.escape(f"{self.threshold:g}") + r"(\.0)?"  # Prometheus 3 writes 1 as 1.0
        good = selector(f"{self.metric}_bucket", self.matches, f"le=~{json.dumps(bound)}")
        every = f"sum by ({by}) ({over % selector(f'{self.metric}_count', self.matches)})"
        return f"({every} - sum by ({by}) ({over % good}))", every

    def promql(self, objective: float, by: str) -> str:
        """PromQL of the figure itself over 5 minutes."""
        buckets = selector(f"{self.metric}_bucket", self.matches)
        return f"histogram_quantile({objective:g}, sum by ({by}, le) (rate({buckets}[5m])))"


@dataclass(frozen=True, slots=True)
class FailureShare:
    """Events: those of a counter whose label matches a pattern are bad.

    Args:
        metric: the counter, with its `_total`.
        failed: what marks a failure.
        matches: which of its series count at all.
    """

    metric: str
    failed: Match
    matches: tuple[Match, ...] = ()

    @property
    def unit(self) -> Unit:
        """Of the threshold and of `number`."""
        return "ratio"

    @property
    def samples(self) -> frozenset[str]:
        """Names of the samples that `read` wants."""
        return frozenset((self.metric,))

    def read(self, samples: Samples) -> Vector | None:
        """Failures and all; None where there is no such metric."""
        found = chosen(samples, self.metric, self.matches)
        failed = sum(sample.value for sample in found if self.failed.holds(sample.labels))
        return (failed, sum(sample.value for sample in found)) if found else None

    def counts(self, increase: Vector) -> tuple[float, float]:
        """Bad events, and all."""
        return increase[0], increase[1]

    def number(self, increase: Vector, objective: float) -> float | None:
        """The share of failures."""
        return increase[0] / increase[1] if increase[1] > 0 else None

    def bad(self, over: str, by: str) -> tuple[str, str]:
        """PromQL: bad and all events, each under `over`, summed by labels."""
        every = f"sum by ({by}) ({over % selector(self.metric, self.matches)})"
        failed = f"sum by ({by}) ({over % selector(self.metric, (*self.matches, self.failed))})"
        return f"({failed} or 0 * {every})", every  # before the first failure there is no such series

    def promql(self, objective: float, by: str) -> str:
        """PromQL of the figure itself over 5 minutes."""
        bad, every = self.bad("rate(%s[5m])", by)
        return f"{bad} / ({every} > 0)"


@dataclass(frozen=True, slots=True)
class MeanBelow:
    """State: the mean of a histogram's observations over the last 5 minutes is below a threshold.

    A time in which nothing was observed is no tick, neither good nor bad.

    Args:
        metric: the histogram.
        threshold: seconds.
        matches: which of its series count.
    """

    metric: str
    threshold: float
    matches: tuple[Match, ...] = ()

    @property
    def unit(self) -> Unit:
        """Of the threshold and of `number`."""
        return "seconds"

    @property
    def samples(self) -> frozenset[str]:
        """Names of the samples that `read` wants."""
        return frozenset((f"{self.metric}_sum", f"{self.metric}_count"))

    def read(self, samples: Samples) -> Vector | None:
        """Sum and count; None where there is no such metric."""
        counts = chosen(samples, f"{self.metric}_count", self.matches)
        total = sum(sample.value for sample in chosen(samples, f"{self.metric}_sum", self.matches))
        return (total, sum(sample.value for sample in counts)) if counts else None

    def number(self, increase: Vector, objective: float) -> float | None:
        """The mean."""
        return increase[0] / increase[1] if increase[1] > 0 else None

    def promql(self, objective: float, by: str) -> str:
        """PromQL of the figure itself; nothing where nothing was observed."""
        total = f"sum by ({by}) (rate({selector(f'{self.metric}_sum', self.matches)}[5m]))"
        count = f"sum by ({by}) (rate({selector(f'{self.metric}_count', self.matches)}[5m]))"
        return f"{total} / ({count} > 0)"


@dataclass(frozen=True, slots=True)
class GaugeBelow:
    """State: a gauge is below a threshold; the greatest, where it has several series.

    Args:
        metric: the gauge.
        threshold: in the gauge's unit.
        unit: that unit.
        matches: which of its series count.
    """

    metric: str
    threshold: float
    unit: Unit = "ratio"
    matches: tuple[Match, ...] = field(default=())

    @property
    def samples(self) -> frozenset[str]:
        """Names of the samples that `read` wants."""
        return frozenset((self.metric,))

    def read(self, samples: Samples) -> Vector | None:
        """The value, and 1 for the look; None where it is not measured."""
        found = [sample.value for sample in chosen(samples, self.metric, self.matches)]
        known = [value for value in found if not math.isnan(value)]
        return (max(known), 1.0) if known else None

    def number(self, increase: Vector, objective: float) -> float | None:
        """The mean."""
        return increase[0] / increase[1] if increase[1] > 0 else None

    def promql(self, objective: float, by: str) -> str:
        """PromQL of the figure itself."""
        return f"max by ({by}, instance) ({selector(self.metric, self.matches)})"


EventSLI = FasterThan | FailureShare
StateSLI = MeanBelow | GaugeBelow
SLI = EventSLI | StateSLI
