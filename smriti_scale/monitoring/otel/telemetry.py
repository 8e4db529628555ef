"""`init_otel`: one object that traces an app and pushes its figures, and is closed with it.

Nothing global is set: OpenTelemetry's own global provider stays as it is, so that several apps can live in one process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from starlette.applications import Starlette

from smriti_scale.errors import ConfigurationError, MissingExtraError
from smriti_scale.events import CacheLoaded, Event, Events
from smriti_scale.monitoring.sentry import release_from

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer
    from pymongo.monitoring import CommandListener

    from smriti_scale.monitoring.otel.push import MetricsPush

Temporality = Literal["cumulative", "delta"]

_UNTRACED = ("/livez", "/readyz", "/startupz", "/metrics", "/health")
_TEMPORALITY = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"


class Registry(Protocol):
    """What figures are read from: a `prometheus_client.CollectorRegistry`, or anything that collects like one."""

    def collect(self) -> Iterable[Any]:
        """Metric families with their samples."""
        ...


class Telemetry:
    """Traces requests, MongoDB commands, cache loads and tasks, and pushes a Prometheus registry's figures.

    Spans are named by route template, collection and task; no values, paths, query strings, addresses or bodies are in
    them. Make it with `init_otel`, or make it, wire it, and `start` it later: until then its parts do nothing.

    Args:
        service: the service's name.
        endpoint: where OTLP/HTTP goes, without `/v1/traces`; by default what `OTEL_EXPORTER_OTLP_ENDPOINT` says, else
            an agent or collector on this machine (`http://localhost:4318`).
        headers: sent with each request, such as an API key; by default those of `OTEL_EXPORTER_OTLP_HEADERS`.
        environment: `production`, `staging`, …
        release: the version that runs; by default what the platform says.
        traces_sample_rate: share of traces that are recorded, 0…1. Where `context.trace` says what the caller decided
            (`trust_traceparent`, a task's publisher), that is followed.
        registry: whose figures are pushed; None pushes none.
        interval: seconds between two pushes.
        temporality: `cumulative` (Prometheus, New Relic), or `delta`, which Datadog's own endpoint asks for; by default
            what `OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE` says.
        untraced: how further paths end that are never traced; health checks, `/metrics` and `/_scale` never are.
        events: where the cache reports its loads.

    Raises:
        MissingExtraError: the extra `otel` is not installed.
        ConfigurationError: an argument cannot work.
    """

    def __init__(
        self,
        service: str,
        *,
        endpoint: str | None = None,
        headers: Mapping[str, str] | None = None,
        environment: str = "",
        release: str | None = None,
        traces_sample_rate: float = 0.1,
        registry: Registry | None = None,
        interval: float = 30.0,
        temporality: Temporality | None = None,
        untraced: Sequence[str] = (),
        events: Events | None = None,
    ) -> None:
        try:
            import opentelemetry.exporter.otlp.proto.http
            import opentelemetry.sdk.trace  # noqa: F401 - to fail now, not at the first request
        except ImportError as error:
            raise MissingExtraError("otel", package="opentelemetry-sdk", feature="OpenTelemetry") from error
        from smriti_scale.monitoring.otel.commands import CommandSpans

        if not 0 <= traces_sample_rate <= 1:
            raise ConfigurationError(f"traces_sample_rate is a share from 0 to 1, not {traces_sample_rate!r}")
        if not 1 <= interval <= 3600:
            raise ConfigurationError(f"figures are pushed every 1 to 3600 seconds, not {interval!r}")
        chosen = temporality or os.environ.get(_TEMPORALITY, "cumulative").lower()
        if chosen not in ("cumulative", "delta"):
            raise ConfigurationError(f'temporality is "cumulative" or "delta", not {chosen!r}')
        if endpoint is not None and not endpoint.startswith(("http://", "https://")):
            raise ConfigurationError(f"the OTLP endpoint is an http(s) URL, not {endpoint!r}")
        self.service = service
        self._endpoint = endpoint.rstrip("/") if endpoint else None
        self._headers = dict(headers) if headers is not None else None
        self._attributes = {
            "service.name": service,
            "service.version": release or release_from(os.environ) or "",
            "deployment.environment.name": environment,
        }
        self._rate = traces_sample_rate
        self.registry = registry
        """Whose figures are pushed; may be set until `start`."""
        self._interval = interval
        self._delta = chosen == "delta"
        self._untraced = (*_UNTRACED, *untraced)
        self._events = events
        self._provider: TracerProvider | None = None
        self._push: MetricsPush | None = None
        self._undo = contextlib.ExitStack()
        self.tracer: Tracer | None = None
        """For spans of one's own: `with telemetry.tracer.start_as_current_span("resize"): …`; None until started."""
        self.command_listener: CommandListener = CommandSpans(self)
        """For `MongoClients(client_options={"event_listeners": [telemetry.command_listener]})`, or any driver."""

    def start(self) -> None:
        """Begin; threads send from now on. Call it in the process that serves, after any fork."""
        if self.tracer is not None:
            return
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

        from smriti_scale.monitoring.otel.push import MetricsPush

        told = {name: value for name, value in self._attributes.items() if value}
        resource = Resource.create({**told, "service.instance.id": uuid.uuid4().hex})
        self._provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(self._rate)), resource=resource)
        exporter = OTLPSpanExporter(endpoint=self._url("traces"), headers=self._headers)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self.tracer = self._provider.get_tracer("smriti_scale")
        if self._events is not None:
            self._undo.callback(self._events.subscribe(self._heard))
        if self.registry is not None:
            self._push = MetricsPush(
                self.registry,
                resource=resource,
                endpoint=self._url("metrics"),
                headers=self._headers,
                interval=self._interval,
                delta=self._delta,
            )
            self._push.start()

    def install(self, app: Starlette) -> None:
        """A span for each request of the app; middleware that is added later is not part of it."""
        from smriti_scale.monitoring.otel.requests import RequestSpans

        app.add_middleware(RequestSpans, telemetry=self)

    def trace_tasks(self) -> Callable[[], None]:
        """Give each Celery task a span of its own, in the trace of whoever published it.

        Call it where the tasks are declared. Each worker process starts this object when it begins and closes it when
        it ends; in other processes nothing happens.

        Returns:
            A function that undoes it; `close` does, too.
        """
        from smriti_scale.monitoring.otel.tasks import trace_celery

        undo = trace_celery(self)
        self._undo.callback(undo)
        return undo

    def is_untraced(self, path: str) -> bool:
        """Whether requests to this path get no span."""
        return path.endswith(self._untraced) or "/_scale" in path

    def close(self) -> None:
        """Send what is left, for a few seconds at most, and stop. Blocks: in async code use `aclose`."""
        self.tracer = None
        self._undo.close()
        push, provider = self._push, self._provider
        self._push = self._provider = None
        if push is not None:
            push.close()
        if provider is not None:
            provider.shutdown()

    async def aclose(self) -> None:
        """`close`, in a thread."""
        await asyncio.to_thread(self.close)

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _url(self, signal: str) -> str | None:
        return f"{self._endpoint}/v1/{signal}" if self._endpoint else None

    def _heard(self, event: Event) -> None:
        if isinstance(event, CacheLoaded):
            from smriti_scale.monitoring.otel.spans import record

            record(self.tracer, f"cache load {event.function}", event.seconds, error=event.error)


def init_otel(service: str, **options: Any) -> Telemetry:
    """Make a `Telemetry` and start it.

    Args:
        service: the service's name.
        **options: the arguments of `Telemetry`.

    Returns:
        What to add to the app and to close with it.

    Raises:
        MissingExtraError: the extra `otel` is not installed.
        ConfigurationError: an argument cannot work.
    """
    telemetry = Telemetry(service, **options)
    telemetry.start()
    return telemetry
