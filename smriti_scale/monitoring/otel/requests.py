"""A server span for each request, named by its route template."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry import context as otel_context, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smriti_scale import context
from smriti_scale.monitoring.otel.spans import continued, traceparent
from smriti_scale.monitoring.redaction import redact
from smriti_scale.routing import UNMATCHED, method_label, resolve_route

if TYPE_CHECKING:
    from smriti_scale.monitoring.otel.telemetry import Telemetry


class RequestSpans:
    """Middleware: begins where `context.trace` says (a trusted caller's trace, if any), and is `context.trace` inside.

    So the spans of commands and tasks, log lines and published tasks belong to the request. Names of attributes are
    those of OpenTelemetry's semantic conventions for HTTP.
    """

    def __init__(self, app: ASGIApp, *, telemetry: Telemetry) -> None:
        self.app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        tracer = self._telemetry.tracer
        if scope["type"] != "http" or tracer is None or self._telemetry.is_untraced(scope["path"]):
            await self.app(scope, receive, send)
            return
        method = method_label(scope)
        parent = continued(context.trace.get())
        span = tracer.start_span(method, parent, SpanKind.SERVER)
        attached = otel_context.attach(trace.set_span_in_context(span, parent))
        before = context.trace.set(traceparent(span))
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except BaseException as error:
            status = status or 500
            _note(span, error)
            raise  # context.trace stays: the server logs the crash in this context
        else:
            context.trace.reset(before)
        finally:
            if span.is_recording():
                _describe(span, scope, method, status)
            span.end()
            otel_context.detach(attached)


def _describe(span: Span, scope: Scope, method: str, status: int) -> None:
    template = resolve_route(scope).template
    span.set_attribute("http.request.method", method)
    span.set_attribute("url.scheme", str(scope.get("scheme", "http")))
    if template != UNMATCHED:
        span.update_name(f"{method} {template}")
        span.set_attribute("http.route", template)
    if status:
        span.set_attribute("http.response.status_code", status)
    if request_id := context.request_id.get():
        span.set_attribute("request_id", request_id)
    if status >= 500:
        span.set_status(Status(StatusCode.ERROR))
        span.set_attribute("error.type", str(status))


def _note(span: Span, error: BaseException) -> None:
    if span.is_recording():
        told = {"exception.type": type(error).__qualname__, "exception.message": redact(str(error)[:1000])}
        span.add_event("exception", told)
