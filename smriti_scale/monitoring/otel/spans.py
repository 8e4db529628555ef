"""Spans after the fact, and traces as `context.trace` holds them (W3C Trace Context, `traceparent`)."""

from __future__ import annotations

import time
from collections.abc import Mapping

from opentelemetry import context as otel_context, trace
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags, Tracer


def traceparent(span: Span) -> str:
    """The span as others continue it."""
    found = span.get_span_context()
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"


def continued(parent: str | None) -> otel_context.Context:
    """A context of its own: under `parent`, a `traceparent`, or at the root of a new trace."""
    root = otel_context.Context()
    try:
        _, trace_id, span_id, flags = (parent or "").split("-")
        remote = SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(int(flags, 16)))
    except ValueError:
        return root
    return trace.set_span_in_context(NonRecordingSpan(remote), root) if remote.is_valid else root


def record(
    tracer: Tracer | None,
    name: str,
    seconds: float,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Mapping[str, str | int] | None = None,
    error: str = "",
) -> None:
    """A span that ends now and began `seconds` ago, under the current one; nothing where that is not recorded."""
    if tracer is None or not trace.get_current_span().is_recording():
        return
    ended = time.time_ns()
    span = tracer.start_span(name, kind=kind, attributes=attributes, start_time=ended - int(seconds * 1e9))
    if error:
        span.set_attribute("error.type", error)
        span.set_status(Status(StatusCode.ERROR))
    span.end(ended)
