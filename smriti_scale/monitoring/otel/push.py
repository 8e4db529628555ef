"""A thread that pushes a registry's figures to an OTLP endpoint, now and then and at the end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData, ResourceMetrics, ScopeMetrics
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from smriti_scale.monitoring.otel.figures import Figures

if TYPE_CHECKING:
    from smriti_scale.monitoring.otel.telemetry import Registry

_LAST_TIMEOUT = 5.0
_log = logging.getLogger("smriti_scale.monitoring")


class MetricsPush:
    """See the module.

    Args:
        registry: whose figures are pushed.
        resource: who they belong to.
        endpoint: the whole URL; None is what OpenTelemetry's variables say.
        headers: sent with each push; None is what OpenTelemetry's variables say.
        interval: seconds between two pushes.
        delta: see `Figures`.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        resource: Resource,
        endpoint: str | None,
        headers: Mapping[str, str] | None,
        interval: float,
        delta: bool,
    ) -> None:
        self._registry = registry
        self._resource = resource
        self._interval = interval
        self._figures = Figures(started=time.time_ns(), delta=delta)
        self._exporter = OTLPMetricExporter(endpoint=endpoint, headers=dict(headers) if headers is not None else None)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="smriti-scale-otlp", daemon=True)
        self._failing = False

    def start(self) -> None:
        """Begin to push."""
        self._thread.start()

    def close(self) -> None:
        """Push once more, and end; takes a few seconds where nobody answers."""
        self._over.set()
        self._thread.join(_LAST_TIMEOUT)
        if not self._thread.is_alive():
            self.push(timeout=_LAST_TIMEOUT)
        self._exporter.shutdown(timeout_millis=1000)

    def push(self, *, timeout: float) -> bool:
        """Send the figures as they are now; whether they arrived. A failure is logged once, until it is over."""
        try:
            metrics = self._figures.metrics(self._registry.collect(), time.time_ns())
            scope = ScopeMetrics(InstrumentationScope("smriti_scale"), metrics, "")
            data = MetricsData([ResourceMetrics(self._resource, [scope], "")])
            arrived = self._exporter.export(data, timeout_millis=timeout * 1000) is MetricExportResult.SUCCESS
        except Exception:  # noqa: BLE001 - a collector's fault must not end the thread
            arrived = False
            if not self._failing:
                _log.exception("figures could not be collected and pushed")
        if arrived:
            self._figures.arrived()
        elif not self._failing:
            _log.warning("the OTLP endpoint does not take metrics; trying on")
        self._failing = not arrived
        return arrived

    def _run(self) -> None:
        while not self._over.wait(self._interval):
            self.push(timeout=min(10.0, self._interval))
