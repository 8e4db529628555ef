"""Prometheus samples as OTLP metrics: the same names, labels and buckets, so that every backend gets the same figures.

Pure but for the state that deltas need. Source: OpenTelemetry's "Prometheus and OpenMetrics Compatibility".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    Sum,
)

Series = tuple[str, tuple[tuple[str, str], ...]]
"""A metric's name and its labels, sorted."""

_UNITS = (("_seconds", "s"), ("_bytes", "By"), ("_ratio", "1"), ("_seconds_total", "s"), ("_bytes_total", "By"))


class Figures:
    """Turns what a registry collects into metrics.

    Args:
        started: when the process began to count, in nanoseconds since the epoch.
        delta: whether counters and histograms tell what was added since the last push that arrived.
    """

    def __init__(self, *, started: int, delta: bool) -> None:
        self._started = started
        self._delta = delta
        self._since = started
        self._sent: dict[Series, tuple[float, ...]] = {}
        self._sending: dict[Series, tuple[float, ...]] = {}
        self._sending_at = started

    def metrics(self, families: Iterable[Any], now: int) -> list[Metric]:
        """The metrics at the moment `now`, in nanoseconds since the epoch."""
        self._sending, self._sending_at = {}, now
        return [metric for family in families for metric in self._family(family, now)]

    def arrived(self) -> None:
        """The last metrics were taken: later deltas begin there. Without it, they are told again with what follows."""
        self._sent.update(self._sending)
        self._since = self._sending_at

    def _family(self, family: Any, now: int) -> Iterator[Metric]:
        created = {_labels(one): int(one.value * 1e9) for one in family.samples if one.name == f"{family.name}_created"}
        if family.type == "histogram":
            buckets = list(self._histogram(family, created, now))
            if buckets:
                yield _metric(family, family.name, Histogram(buckets, self._temporality))
            return
        by_name: dict[str, list[Any]] = {}
        for sample in family.samples:
            if sample.name != f"{family.name}_created":
                by_name.setdefault(sample.name, []).append(sample)
        for name, samples in by_name.items():
            if family.type == "counter" or (family.type == "summary" and name.endswith(("_count", "_sum"))):
                added = list(self._added(name, samples, created, now))
                if added:
                    yield _metric(family, name, Sum(added, self._temporality, is_monotonic=True))
            else:
                points = [NumberDataPoint(dict(one.labels), 0, now, one.value) for one in samples]
                yield _metric(family, name, Gauge(points))

    def _added(self, name: str, samples: list[Any], created: Mapping[Any, int], now: int) -> Iterator[NumberDataPoint]:
        for one in samples:
            labels = _labels(one)
            (value,), start = self._told((name, labels), (one.value,), created.get(labels))
            if not self._delta or value:
                yield NumberDataPoint(dict(one.labels), start, now, value)

    def _histogram(self, family: Any, created: Mapping[Any, int], now: int) -> Iterator[HistogramDataPoint]:
        found: dict[Any, dict[str, Any]] = {}
        for sample in family.samples:
            series = found.setdefault(_labels(sample, without="le"), {"buckets": [], "labels": sample.labels})
            if sample.name.endswith("_bucket"):
                series["buckets"].append((float(sample.labels["le"]), sample.value))
            elif sample.name.endswith("_sum"):
                series["sum"] = sample.value
        for labels, series in found.items():
            if not series["buckets"]:
                continue
            series["buckets"].sort()
            bounds = [bound for bound, _ in series["buckets"]][:-1]
            upto = [count for _, count in series["buckets"]]
            counts = [float(count - before) for count, before in zip(upto, [0, *upto], strict=False)]
            total = float(series.get("sum", 0.0))
            told, start = self._told((family.name, labels), (total, *counts), created.get(labels))
            within = [int(count) for count in told[1:]]
            if self._delta and not sum(within):
                continue
            unknown: Any = None  # a Prometheus histogram knows no smallest and largest value
            yield HistogramDataPoint(
                {name: value for name, value in series["labels"].items() if name != "le"},
                start,
                now,
                sum(within),
                told[0],
                within,
                bounds,
                unknown,
                unknown,
            )

    def _told(self, series: Series, values: tuple[float, ...], created: int | None) -> tuple[tuple[float, ...], int]:
        """The values to send, and the moment since which they were counted."""
        if not self._delta:
            return values, created or self._started
        self._sending[series] = values
        before = self._sent.get(series)
        if before is None:
            return values, created or self._started
        if len(before) != len(values) or any(now < then for now, then in zip(values[1:], before[1:], strict=False)):
            return values, self._since  # counted anew
        if values[0] < before[0]:
            return values, self._since
        return tuple(now - then for now, then in zip(values, before, strict=True)), self._since

    @property
    def _temporality(self) -> AggregationTemporality:
        return AggregationTemporality.DELTA if self._delta else AggregationTemporality.CUMULATIVE


def _metric(family: Any, name: str, data: Any) -> Metric:
    unit = next((unit for ending, unit in _UNITS if name.endswith(ending)), "")
    return Metric(name, family.documentation, unit, data)


def _labels(sample: Any, *, without: str = "") -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, value) for name, value in sample.labels.items() if name != without))
