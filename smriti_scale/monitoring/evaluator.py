"""Objectives judged inside the process, from the same figures that `/metrics` shows.

Every look (a tick) reads the registry once and adds what came since to a `Timeline` per objective. Time is the
monotonic clock's, so a wall clock that is set anew moves no window. Totals that went back (a registry made anew, a
worker's files swept away) start a new count: what came in that one tick is lost, nothing is counted twice.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from smriti_scale.clock import SYSTEM_CLOCK, Clock
from smriti_scale.errors import ConfigurationError
from smriti_scale.monitoring.alerts import Alerts
from smriti_scale.monitoring.sli import FasterThan, GaugeBelow, MeanBelow, Sample, Samples, Vector
from smriti_scale.monitoring.slo import (
    DEFAULT_SLOS,
    SHORT,
    SLO,
    WINDOWS,
    SLOStatus,
    budget_left,
    burn_rate,
    severity_of,
    window_name,
)
from smriti_scale.monitoring.timeline import TIERS, Timeline

_log = logging.getLogger("smriti_scale.monitoring")

_HISTORY_STEP = 30.0
_HISTORY = 120


class Registry(Protocol):
    """What is read: a prometheus_client `CollectorRegistry`, or anything like it."""

    def collect(self) -> Iterable[Any]: ...


class Gathering(Protocol):
    """Where the registry to read is made for each look: `Metrics`, which sums all processes in multi-process mode."""

    def gathered(self) -> Registry: ...


class SLOEvaluator:
    """Judges objectives by looking at a registry again and again.

    Args:
        metrics: a registry, or an object whose `gathered()` gives one for each look.
        slos: the objectives; their names differ.
        interval: seconds between two looks of `run`.
        alerts: told after each look.
        clock: the source of time.

    Raises:
        ConfigurationError: two objectives have one name, or the interval is not positive.
    """

    def __init__(
        self,
        metrics: Registry | Gathering,
        slos: Sequence[SLO] = DEFAULT_SLOS,
        *,
        interval: float = 15.0,
        alerts: Alerts | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if len({slo.name for slo in slos}) < len(slos):
            raise ConfigurationError(f"two SLOs have one name: {', '.join(slo.name for slo in slos)}")
        if interval <= 0:
            raise ConfigurationError(f"interval must be positive, not {interval}")
        self.slos = tuple(slos)
        self.interval = interval
        self.alerts = alerts
        self._metrics = metrics
        self._lock = threading.Lock()
        self._clock = clock
        self._tracks = tuple(_Track(slo) for slo in slos)
        self._names = frozenset().union(*(slo.sli.samples for slo in slos))
        self._statuses = tuple(track.status(0.0, 0.0) for track in self._tracks)

    def tick(self) -> None:
        """Look once, and tell the alerts. A registry that cannot be read is logged, and the look left out."""
        self._look()
        self._tell()

    def statuses(self) -> tuple[SLOStatus, ...]:
        """How each objective stood at the last look."""
        return self._statuses

    async def run(self) -> None:
        """Look every `interval` seconds until cancelled. The registry is read in a thread: it may be large."""
        while True:
            await asyncio.to_thread(self._look)
            self._tell()
            await self._clock.sleep(self.interval)

    def _look(self) -> None:
        with self._lock:  # `run` looks in a thread, and somebody may call `tick` meanwhile
            self._look_alone()

    def _look_alone(self) -> None:
        now, wall = self._clock.monotonic(), self._clock.time()
        samples: dict[str, list[Sample]] = {}
        try:
            for sample in self._samples():
                samples.setdefault(sample.name, []).append(sample)
        except Exception:  # noqa: BLE001 - whatever a collector raises, the next look may succeed
            _log.exception("the metrics could not be read")
        else:
            self._take_in(now, samples)
        self._statuses = tuple(track.status(now, wall) for track in self._tracks)

    def _take_in(self, now: float, samples: Samples) -> None:
        for track in self._tracks:
            try:
                track.look(now, samples)
            except ConfigurationError as error:
                track.complain(error)

    def _tell(self) -> None:
        if self.alerts is not None:
            self.alerts.observe(self._statuses)

    def _samples(self) -> Iterator[Sample]:
        registry: Any = self._metrics
        if hasattr(registry, "gathered"):
            registry = registry.gathered()
        families: Sequence[Any] = ()
        if hasattr(registry, "restricted_registry"):  # then the other metrics are not even collected
            families = tuple(registry.restricted_registry(self._names).collect())
        # A registry that joins several processes does not know its metrics by name, so it is read whole.
        for family in families or registry.collect():
            for sample in family.samples:
                if sample.name in self._names:
                    yield sample


class _Track:
    """One objective over time. What the timeline adds up: the indicator's own figures, then bad and all ticks."""

    def __init__(self, slo: SLO) -> None:
        self._slo = slo
        self._width = len(slo.sli.buckets) + 1 if isinstance(slo.sli, FasterThan) else 2
        *finer, (step, kept) = TIERS
        self._timeline = Timeline(self._width + 2, tiers=(*finer, (step, max(kept, slo.period + step))))
        self._last: Vector | None = None
        self._windows = dict.fromkeys(WINDOWS)
        for alert in slo.burn_alerts:
            self._windows |= {alert.long: None, alert.short: None}
        self._history: deque[tuple[float, float | None]] = deque(maxlen=_HISTORY)
        self._complained = ""

    def look(self, now: float, samples: Samples) -> None:
        sli = self._slo.sli
        read = sli.read(samples)
        if read is None:
            if self._last is None and not isinstance(sli, GaugeBelow):  # what appears from now on began at 0
                self._last = (0.0,) * self._width
                self._timeline.add(now, (0.0,) * (self._width + 2))
            return
        if isinstance(sli, GaugeBelow):
            step, figure = read, sli.number(read, self._slo.objective)
            self._timeline.add(now, (*step, 0.0, 0.0))
        else:
            self._timeline.add(now, (*self._since_last(read), 0.0, 0.0))
            figure = self._figure(now)
        if isinstance(sli, GaugeBelow | MeanBelow) and figure is not None:
            self._timeline.add(now, (*(0.0,) * self._width, float(figure >= sli.threshold), 1.0))

    def status(self, now: float, wall: float) -> SLOStatus:
        slo = self._slo
        value = self._figure(now)
        burn: dict[float, float] = {}
        bad: dict[float, float] = {}
        for window in self._windows:
            bad[window], events = self._counts(now, window)
            burn[window] = burn_rate(bad[window], events, budget=slo.budget, covered=self._covered(now, window))
        in_period = self._counts(now, slo.period)
        if now and (not self._history or now - self._history[-1][0] >= _HISTORY_STEP):
            self._history.append((now, value))
        return SLOStatus(
            name=slo.name,
            title=slo.title,
            unit=slo.sli.unit,
            objective=slo.objective,
            threshold=slo.threshold,
            value=value,
            met=None if value is None else self._met(now, value),
            budget_left=budget_left(*in_period, budget=slo.budget, covered=self._covered(now, slo.period)),
            burn={window_name(window): rate for window, rate in sorted(burn.items())},
            alert=severity_of(slo, burn, bad),
            history=tuple((wall - (now - at), value) for at, value in self._history),
        )

    def complain(self, error: ConfigurationError) -> None:
        """Log what cannot work, once."""
        if self._complained != str(error):
            self._complained = str(error)
            _log.error("the SLO %s cannot be judged: %s", self._slo.name, error, extra={"slo": self._slo.name})

    def _since_last(self, totals: Vector) -> Vector:
        last, self._last = self._last, totals
        if last is None or any(now < before for now, before in zip(totals, last, strict=True)):
            return (0.0,) * len(totals)
        return tuple(now - before for now, before in zip(totals, last, strict=True))

    def _figure(self, now: float) -> float | None:
        return self._slo.sli.number(self._timeline.increase(now, SHORT)[: self._width], self._slo.objective)

    def _met(self, now: float, value: float) -> bool:
        sli = self._slo.sli
        if isinstance(sli, GaugeBelow | MeanBelow):
            return value < sli.threshold
        bad, events = self._counts(now, SHORT)
        return bad <= self._slo.budget * events

    def _counts(self, now: float, window: float) -> tuple[float, float]:
        increase = self._timeline.increase(now, window)
        sli = self._slo.sli
        if isinstance(sli, GaugeBelow | MeanBelow):
            return increase[-2], increase[-1]
        return sli.counts(increase[: self._width])

    def _covered(self, now: float, window: float) -> float:
        return min(1.0, self._timeline.age(now) / window)
