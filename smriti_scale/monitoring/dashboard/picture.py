"""One picture of the service as plain values: what the page shows and `data.json` serves.

`compose` is pure: samples, statuses, alerts, slow queries and advice in, a dictionary out.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from smriti_scale.monitoring.dashboard import sections
from smriti_scale.monitoring.dashboard.readings import Family, Readings

WINDOWS: Mapping[str, float | None] = {"5m": 300.0, "1h": 3600.0, "start": None}
"""What the page can look back over: seconds, or None for all since the counters began (as `/metrics` has it)."""


class Collects(Protocol):
    """A registry of prometheus_client."""

    def collect(self) -> Iterable[Family]: ...


class Gathers(Protocol):
    """`Metrics`, as far as the dashboard asks."""

    def gathered(self) -> Collects: ...


class Watched(Protocol):
    """`Monitoring`, as far as the dashboard asks. What is absent or None is left out of the page."""

    @property
    def metrics(self) -> Gathers: ...


def snapshot(monitoring: Watched) -> dict[str, Any]:
    """All that the dashboard shows, counted since the process began: the figures of `/metrics`.

    Args:
        monitoring: a `Monitoring`.

    Returns:
        What JSON can hold; the reference lists the keys.
    """
    readings = Readings(started=0.0)
    readings.add(monitoring.metrics.gathered().collect(), at=time.time())
    return compose(readings, window="start", **said_by(monitoring))


def said_by(monitoring: Watched) -> dict[str, Any]:
    """What Monitoring's other parts say now: the arguments of `compose` that are not samples."""
    evaluator, alerts = getattr(monitoring, "evaluator", None), getattr(monitoring, "alerts", None)
    return {
        "statuses": evaluator.statuses() if evaluator is not None else (),
        "alerts": alerts.active() if alerts is not None else (),
        "slow_queries": _asked(getattr(monitoring, "slow_queries", None)) or (),
        "advice": _asked(getattr(monitoring, "advice", None)),
    }


def compose(
    readings: Readings,
    *,
    window: str,
    statuses: Iterable[Any] = (),
    alerts: Iterable[Any] = (),
    slow_queries: Iterable[Any] = (),
    advice: Iterable[Any] | None = None,
    title: str = "",
    most: int = 20,
) -> dict[str, Any]:
    """Put the picture together.

    Args:
        readings: looks at the registry, one at least.
        window: a key of `WINDOWS`.
        statuses: the objectives (`SLOStatus`).
        alerts: those that are active.
        slow_queries: shapes with counts and the index that would serve.
        advice: what to do next; None hides the section.
        title: the service's name.
        most: rows in the longest lists.

    Raises:
        KeyError: no such window.
        LookupError: no look was taken yet.
    """
    span = readings.span(WINDOWS[window])
    return {
        "title": title,
        "at": span.at,
        "window": {"name": window, "seconds": span.seconds if WINDOWS[window] is not None else None},
        "numbers": [plain(status) for status in statuses],
        "alerts": [plain(alert) for alert in alerts],
        "traffic": {
            **sections.traffic(span),
            "history": readings.history("scale_http_requests_total"),
        },
        "routes": sections.routes(span, most=most),
        "caches": sections.caches(span),
        "http_cache": sections.http_cache(span),
        "limits": sections.limits(span, most=most),
        "mongo": sections.mongo(span),
        "redis": sections.redis(span),
        "slow_queries": [plain(query) for query in slow_queries][:most],
        "tasks": sections.tasks(span),
        "instance": sections.instance(span),
        "advice": None if advice is None else [plain(one) for one in advice],
    }


def plain(value: Any) -> Any:
    """A value as JSON can hold it: dataclasses and mappings become dictionaries, NaN and infinity None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [plain(one) for one in value]
    return str(value)


def _asked(source: Callable[[], Any] | Any) -> Any:
    return source() if callable(source) else source
