"""Traces and metrics by OTLP: what New Relic, Datadog and any OpenTelemetry collector take (extra `otel`)."""

from smriti_scale.monitoring.otel.telemetry import Telemetry, init_otel

__all__ = ["Telemetry", "init_otel"]
