"""A consumer span for each Celery task, in the trace of its publisher, by Celery's own signals.

The publisher's trace arrives in the header that `tasks.publish` fills from `context.trace`; there is no span of its own
for publishing, and no listener to Celery's publishing signals, which would slow publishing down.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from contextvars import Token
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel_context, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from smriti_scale.errors import MissingExtraError
from smriti_scale.monitoring.otel.spans import continued, traceparent

if TYPE_CHECKING:
    from smriti_scale.monitoring.otel.telemetry import Telemetry

_HEADER = "smriti_scale"
"""The header in which the caller's context travels; monitoring and tasks do not know each other."""


def trace_celery(telemetry: Telemetry) -> Callable[[], None]:
    """Connect to Celery's signals; what is returned disconnects again.

    Raises:
        MissingExtraError: Celery is not installed.
    """
    try:
        from celery import signals
    except ImportError as error:
        raise MissingExtraError("tasks", package="celery", feature="tracing of tasks") from error
    running: dict[str, tuple[Span, Token[otel_context.Context]]] = {}

    def begun(*, task_id: str, task: Any, **_: Any) -> None:
        if telemetry.tracer is None:
            return
        carried = _carried(task.request)
        parent = continued(carried.get("trace"))
        span = telemetry.tracer.start_span(f"run {task.name}", parent, SpanKind.CONSUMER)
        if span.is_recording():
            delivery = getattr(task.request, "delivery_info", None) or {}
            span.set_attribute("messaging.system", "celery")
            span.set_attribute("messaging.operation.type", "process")
            span.set_attribute("messaging.message.id", task_id)
            span.set_attribute("messaging.destination.name", str(delivery.get("routing_key") or ""))
            span.set_attribute("celery.retries", int(task.request.retries or 0))
        # What the task publishes, logs and asks belongs to its own span: this is restored into context.trace.
        carried["trace"] = traceparent(span)
        running[task_id] = span, otel_context.attach(trace.set_span_in_context(span, parent))

    def ended(*, task_id: str, state: str | None = None, **_: Any) -> None:
        found = running.pop(task_id, None)
        if found is None:
            return
        span, attached = found
        if state and state != "SUCCESS":
            span.set_attribute("celery.state", state)
            if state == "FAILURE":
                span.set_status(Status(StatusCode.ERROR))
        otel_context.detach(attached)
        span.end()

    def process_begun(**_: Any) -> None:
        telemetry.start()

    def process_ended(**_: Any) -> None:
        telemetry.close()  # a worker's process ends without atexit

    signals.worker_process_init.connect(process_begun, weak=False)
    signals.worker_process_shutdown.connect(process_ended, weak=False)
    signals.task_prerun.connect(begun, weak=False)
    signals.task_postrun.connect(ended, weak=False)

    def undo() -> None:
        signals.worker_process_init.disconnect(process_begun)
        signals.worker_process_shutdown.disconnect(process_ended)
        signals.task_prerun.disconnect(begun)
        signals.task_postrun.disconnect(ended)

    return undo


def _carried(request: Any) -> MutableMapping[str, Any]:
    found = request.get(_HEADER, None) or (request.headers or {}).get(_HEADER)
    return found if isinstance(found, MutableMapping) else {}
