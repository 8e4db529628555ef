"""Objectives, error budgets and burn rates: arithmetic alone, without a clock and without a registry.

An objective of 99 % leaves an error budget of 1 %. The burn rate is the share of bad events over a window divided by
that budget: at 1 the budget lasts exactly its period, at 14.4 a thirty-day budget loses 2 % in an hour. An alert fires
when a long window says that it matters and a short one that it still goes on (Beyer et al., *The Site Reliability
Workbook*, ch. 5, "Alerting on SLOs", the sixth approach).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from smriti_scale.errors import ConfigurationError
from smriti_scale.monitoring.sli import (
    LATENCY_BUCKETS,
    NOT_PROBES,
    SERVER_ERRORS,
    SLI,
    FailureShare,
    FasterThan,
    GaugeBelow,
    Match,
    MeanBelow,
)

Severity = Literal["page", "ticket"]

MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0
WINDOWS = (5 * MINUTE, 30 * MINUTE, HOUR, 6 * HOUR, 3 * DAY)
"""Those for which a status tells the burn rate, in seconds."""
SHORT = 5 * MINUTE
"""Over how long the figure of a status is taken, in seconds."""


def window_name(seconds: float) -> str:
    """`5m`, `1h`, `3d`: the greatest unit that divides, as PromQL writes it."""
    for unit, name in ((DAY, "d"), (HOUR, "h"), (MINUTE, "m"), (1.0, "s")):
        if seconds >= unit and seconds % unit == 0:
            return f"{seconds / unit:.0f}{name}"
    return f"{seconds * 1000:.0f}ms"


def percent(share: float) -> str:
    """`99.9 %`."""
    return f"{round(share * 100, 6):g} %"


def duration(seconds: float) -> str:
    """`200 ms` or `1.5 s`."""
    return f"{seconds * 1000:g} ms" if seconds < 1 else f"{seconds:g} s"


@dataclass(frozen=True, slots=True)
class BurnAlert:
    """Fires while the budget burns faster than `burn` over both windows.

    Args:
        severity: `page` (somebody should come now) or `ticket` (somebody should see to it today).
        burn: the burn rate above which it fires.
        long: seconds; how much of the budget must be gone.
        short: seconds; how soon it is over when the burning stops.
    """

    severity: Severity
    burn: float
    long: float
    short: float

    def __post_init__(self) -> None:
        if not (self.burn > 0 and 0 < self.short <= self.long):
            raise ConfigurationError(f"need burn > 0 and 0 < short <= long, not {self}")


BURN_ALERTS = (
    BurnAlert("page", 14.4, HOUR, 5 * MINUTE),
    BurnAlert("page", 6.0, 6 * HOUR, 30 * MINUTE),
    BurnAlert("ticket", 1.0, 3 * DAY, 6 * HOUR),
)
"""The workbook's: 2 % of a thirty-day budget in an hour, 5 % in six, 10 % in three days."""


@dataclass(frozen=True, slots=True)
class SLO:
    """An objective. The class methods make the usual ones.

    Args:
        name: small letters, digits and `_`; the label `slo` of the Prometheus rules and part of the alert's key.
        objective: the share of good events wanted, above 0 and below 1.
        sli: what is good and what is bad.
        title: a sentence for people, such as `95 % of requests under 200 ms`.
        period: over how long the error budget is reckoned, in seconds.
        burn_alerts: when to alert. One whose burn rate this objective cannot reach (`burn × (1 − objective) ≥ 1`)
            never fires and is left out of the rules.
        minimum_bad: alerts on events wait until so many were bad within the long window, so that one failure among
            three requests wakes nobody.

    Raises:
        ConfigurationError: a value is out of range.
    """

    name: str
    objective: float
    sli: SLI = field(kw_only=True)
    title: str = field(kw_only=True)
    period: float = field(default=30 * DAY, kw_only=True)
    burn_alerts: tuple[BurnAlert, ...] = field(default=BURN_ALERTS, kw_only=True)
    minimum_bad: int = field(default=10, kw_only=True)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise ConfigurationError(f"an SLO's name is small letters, digits and _, not {self.name!r}")
        if not 0 < self.objective < 1:
            raise ConfigurationError(f"an objective is a share above 0 and below 1, not {self.objective}")
        if self.period <= 0:
            raise ConfigurationError(f"the period must be positive, not {self.period}")

    @property
    def budget(self) -> float:
        """The share of events that may be bad."""
        return round(1 - self.objective, 12)

    @property
    def threshold(self) -> float | None:
        """What the figure of `SLOStatus.value` should stay below, in its unit."""
        return self.budget if isinstance(self.sli, FailureShare) else self.sli.threshold

    @property
    def states(self) -> bool:
        """Whether it is judged by the share of good looks, having no events of its own."""
        return isinstance(self.sli, MeanBelow | GaugeBelow)

    @property
    def reachable_alerts(self) -> tuple[BurnAlert, ...]:
        """The alerts that can fire: the greatest burn rate there is, all events being bad, is 1 / (1 − objective)."""
        return tuple(alert for alert in self.burn_alerts if alert.burn * self.budget < 1)

    @classmethod
    def latency(
        cls,
        name: str = "latency",
        objective: float = 0.95,
        *,
        under: float = 0.2,
        matches: tuple[Match, ...] = (NOT_PROBES,),
        buckets: tuple[float, ...] = LATENCY_BUCKETS,
        title: str = "",
        burn_alerts: tuple[BurnAlert, ...] = BURN_ALERTS,
    ) -> SLO:
        """So many requests are answered within `under` seconds (one of the buckets).

        `matches=(Match("route", "/api/posts"), Match("method", "GET"))` makes it one about a route.
        """
        sli = FasterThan("scale_http_request_duration_seconds", under, buckets, matches)
        title = title or f"{percent(objective)} of requests under {duration(under)}"
        return cls(name, objective, sli=sli, title=title, burn_alerts=burn_alerts)

    @classmethod
    def errors(
        cls,
        name: str = "errors",
        objective: float = 0.99,
        *,
        failed: Match = SERVER_ERRORS,
        matches: tuple[Match, ...] = (NOT_PROBES,),
        title: str = "",
        burn_alerts: tuple[BurnAlert, ...] = BURN_ALERTS,
    ) -> SLO:
        """So many requests are answered without a server error (5xx)."""
        sli = FailureShare("scale_http_requests_total", failed, matches)
        title = title or f"less than {percent(1 - objective)} of requests fail"
        return cls(name, objective, sli=sli, title=title, burn_alerts=burn_alerts)

    @classmethod
    def database(
        cls,
        name: str = "database",
        objective: float = 0.99,
        *,
        under: float = 0.1,
        matches: tuple[Match, ...] = (),
        title: str = "",
        burn_alerts: tuple[BurnAlert, ...] = BURN_ALERTS,
    ) -> SLO:
        """For so much of the time, MongoDB commands take less than `under` seconds on average."""
        sli = MeanBelow("scale_mongo_command_duration_seconds", under, matches)
        title = title or f"database queries under {duration(under)} on average"
        return cls(name, objective, sli=sli, title=title, burn_alerts=burn_alerts)

    @classmethod
    def memory(
        cls,
        name: str = "memory",
        objective: float = 0.99,
        *,
        under: float = 0.8,
        title: str = "",
        burn_alerts: tuple[BurnAlert, ...] = BURN_ALERTS,
    ) -> SLO:
        """For so much of the time, less than `under` (a share) of the container's memory is used."""
        title = title or f"less than {percent(under)} of memory used"
        sli = GaugeBelow("scale_memory_used_ratio", under)
        return cls(name, objective, sli=sli, title=title, burn_alerts=burn_alerts)

    @classmethod
    def cpu(
        cls,
        name: str = "cpu",
        objective: float = 0.95,
        *,
        under: float = 0.7,
        title: str = "",
        burn_alerts: tuple[BurnAlert, ...] = BURN_ALERTS,
    ) -> SLO:
        """For so much of the time, less than `under` (a share) of the container's CPU is used."""
        title = title or f"less than {percent(under)} of CPU used"
        sli = GaugeBelow("scale_cpu_used_ratio", under)
        return cls(name, objective, sli=sli, title=title, burn_alerts=burn_alerts)


DEFAULT_SLOS = (SLO.latency(), SLO.errors(), SLO.database(), SLO.memory(), SLO.cpu())
"""p95 of responses under 200 ms, error rate under 1 %, database queries under 100 ms on average, memory under 80 %,
CPU under 70 %."""


@dataclass(frozen=True, slots=True)
class SLOStatus:
    """How an objective stands."""

    name: str
    title: str
    unit: str
    """`seconds` or `ratio`: of `threshold`, `value` and `history`."""
    objective: float
    """The share of good events wanted, 0…1."""
    threshold: float | None
    value: float | None
    """The figure itself over the last 5 minutes (p95, share of errors, mean, share used); None: no data."""
    met: bool | None
    """Whether the figure is where it should be; None: no data."""
    budget_left: float | None
    """The share of the period's error budget that is left; below 0 when more than all is gone."""
    burn: Mapping[str, float]
    """Burn rate by window: `5m`, `30m`, `1h`, `6h`, `3d`."""
    alert: str | None
    """`page`, `ticket` or None."""
    history: tuple[tuple[float, float | None], ...]
    """(seconds since the epoch, value), the oldest first."""


def burn_rate(bad: float, events: float, *, budget: float, covered: float = 1.0) -> float:
    """How many times faster than allowed the budget burns over a window.

    Args:
        bad: bad events in the window.
        events: all events in the window.
        budget: the share that may be bad, 1 − objective.
        covered: the share of the window that was watched, 0…1. The rest counts as good, at the same traffic: a process
            that just started is judged as one that had no trouble before, so a first failed request is no
            catastrophe and a real outage is told after the same time as ever.

    Returns:
        0 without events.
    """
    return bad / events * covered / budget if events > 0 else 0.0


def budget_left(bad: float, events: float, *, budget: float, covered: float = 1.0) -> float | None:
    """The share of the error budget that is left, 1 or less; None without events. Arguments as of `burn_rate`."""
    return 1 - burn_rate(bad, events, budget=budget, covered=covered) if events > 0 else None


def severity_of(slo: SLO, burn: Mapping[float, float], bad: Mapping[float, float]) -> Severity | None:
    """The greatest severity whose conditions hold.

    Args:
        slo: the objective.
        burn: burn rate by window, in seconds.
        bad: bad events by window.
    """
    enough = 0 if slo.states else slo.minimum_bad
    firing = {
        alert.severity
        for alert in slo.reachable_alerts
        if burn[alert.long] > alert.burn and burn[alert.short] > alert.burn and bad[alert.long] >= enough
    }
    return "page" if "page" in firing else "ticket" if firing else None
