"""Which servers are down, from what circuit breakers and the MongoDB driver report.

No burn rate is waited for: a Redis that is gone is told after seconds, although the service goes on without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from smriti_scale.events import BreakerChanged, Event, PrimaryChanged
from smriti_scale.monitoring.alert_state import Finding
from smriti_scale.monitoring.slo import Severity


@dataclass(frozen=True, slots=True)
class Dependency:
    """A server, and how to know that it is down. All its breakers together are one alert.

    Args:
        name: the alert's key is `dependency:NAME`.
        breakers: names of circuit breakers, `*` for any text. One that is not closed means down.
        primary: whether a MongoDB without a primary means down.
        severity: of the alert.
        after: seconds it must last; shorter trouble is what breakers and retries are for.
        title: one line for people.
    """

    name: str
    breakers: Sequence[str] = ()
    primary: bool = False
    severity: Severity = "page"
    after: float = 10.0
    title: str = ""


DEPENDENCIES = (
    Dependency(
        "redis",
        breakers=("cache *", "ratelimit", "redis *", "the task broker"),
        title="Redis does not answer: caches and limits are each process's own, tasks wait",
    ),
    Dependency("mongodb", primary=True, after=30.0, title="MongoDB has no primary: nothing can be written"),
    Dependency(
        "replica", breakers=("replica *",), severity="ticket", after=60.0, title="A MongoDB secondary does not answer"
    ),
)
"""What this library's own breakers stand before. An election takes about twelve seconds, hence MongoDB's thirty."""


class Dependencies:
    """Remembers who is down. Subscribe `on_event`; it is quick and does no I/O.

    A breaker that opened stays so until a call succeeds, so without any traffic the alert stays too.

    Args:
        dependencies: what to watch.
    """

    def __init__(self, dependencies: Sequence[Dependency] = DEPENDENCIES) -> None:
        self._dependencies = tuple(dependencies)
        self._open: dict[str, None] = {}
        self._no_primary = False

    def on_event(self, event: Event) -> None:
        """Take in a `BreakerChanged` or `PrimaryChanged`; others are none of its business."""
        if isinstance(event, BreakerChanged):
            if event.state == "closed":
                self._open.pop(event.breaker, None)
            else:  # half open too: one trial call is no recovery
                self._open[event.breaker] = None
        elif isinstance(event, PrimaryChanged):
            self._no_primary = event.current is None

    def findings(self) -> list[Finding]:
        """One for each dependency that is down."""
        open_now = list(self._open)
        found = []
        for one in self._dependencies:
            causes = [breaker for breaker in open_now if any(fnmatchcase(breaker, pattern) for pattern in one.breakers)]
            if one.primary and self._no_primary:
                causes.append("no primary")
            if causes:
                title = one.title or f"{one.name} does not answer"
                detail = "open circuit breakers: " + ", ".join(causes) if one.breakers else ""
                found.append(Finding(f"dependency:{one.name}", one.severity, title, detail, one.after))
        return found
