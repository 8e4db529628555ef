"""What arrived at an OTLP sink, decoded by OpenTelemetry's own protocol buffers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.monitoring.wire_sink import Sink


@dataclass(frozen=True)
class ArrivedSpan:
    name: str
    kind: int
    trace_id: str
    span_id: str
    parent: str
    failed: bool
    attributes: Mapping[str, Any]
    events: tuple[Mapping[str, Any], ...]
    resource: Mapping[str, Any]
    seconds: float


def spans(sink: Sink) -> list[ArrivedSpan]:
    return [
        ArrivedSpan(
            span.name,
            span.kind,
            span.trace_id.hex(),
            span.span_id.hex(),
            span.parent_span_id.hex(),
            span.status.code == 2,
            values(span.attributes),
            tuple(values(event.attributes) for event in span.events),
            values(resource.resource.attributes),
            (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
        )
        for request in sink.requests
        if request.path == "/v1/traces"
        for resource in ExportTraceServiceRequest.FromString(request.body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def metrics(sink: Sink) -> list[dict[str, Any]]:
    """The metrics of each push, by name."""
    found = []
    for request in sink.requests:
        if request.path == "/v1/metrics":
            (resource,) = ExportMetricsServiceRequest.FromString(request.body).resource_metrics
            found.append({one.name: one for scope in resource.scope_metrics for one in scope.metrics})
    return found


def values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}
