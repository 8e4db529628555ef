"""A service as the evaluator sees it: real instruments, a clock moved by hand, trouble on demand."""

from __future__ import annotations

from collections.abc import Sequence

from smriti_scale.monitoring import DEFAULT_SLOS, SLO, Alerts, Metrics, Notice, SLOEvaluator, SLOStatus
from smriti_scale.testing import ManualClock


class Service:
    """Requests and gauges of one process, looked at every 15 s."""

    def __init__(self, slos: Sequence[SLO] = DEFAULT_SLOS, *, alerts: Alerts | None = None) -> None:
        self.clock = ManualClock()
        self.notices: list[Notice] = []
        self.metrics = Metrics()
        self.alerts = alerts or Alerts(clock=self.clock)
        self.alerts.export_to(self.metrics.registry)
        self.evaluator = SLOEvaluator(self.metrics, slos, alerts=self.alerts, clock=self.clock)
        self.metrics.memory_ratio.set(0.5)
        self.metrics.cpu_ratio.set(0.3)
        self.evaluator.tick()

    def run(
        self,
        minutes: float,
        *,
        requests: int = 10,
        failing: float = 0.0,
        seconds: float = 0.05,
        slow: float = 0.0,
        query: float | None = 0.01,
    ) -> None:
        """Serve for so long: so many requests a tick, a share of them failing, a share taking 2 s."""
        for _ in range(round(minutes * 4)):
            self.clock.advance(15)
            failed = round(failing * requests)
            self.metrics.http_requests["GET", "/posts", "500"].inc(failed)
            self.metrics.http_requests["GET", "/posts", "200"].inc(requests - failed)
            for number in range(min(requests, 10)):
                self.metrics.http_duration["GET", "/posts"].observe(2.0 if number < slow * 10 else seconds)
            if query is not None:
                self.metrics.mongo_duration["posts", "find"].observe(query)
            self.evaluator.tick()

    def status(self, name: str) -> SLOStatus:
        return next(status for status in self.evaluator.statuses() if status.name == name)

    def active(self) -> list[tuple[str, str]]:
        return [(alert.key, alert.severity) for alert in self.alerts.active()]

    def gauge(self, alert: str, severity: str) -> float | None:
        return self.metrics.registry.get_sample_value("scale_alert_active", {"alert": alert, "severity": severity})
