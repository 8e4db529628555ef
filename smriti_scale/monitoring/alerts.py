"""`Alerts`: what is wrong, told once to those who should know, and again when it is over."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from smriti_scale.clock import SYSTEM_CLOCK, Clock
from smriti_scale.errors import ConfigurationError, MissingExtraError
from smriti_scale.events import Event
from smriti_scale.monitoring.alert_state import ActiveAlert, AlertBook, Finding, Notice
from smriti_scale.monitoring.channels import CallableChannel
from smriti_scale.monitoring.delivery import Channel, Delivery
from smriti_scale.monitoring.dependencies import DEPENDENCIES, Dependencies, Dependency
from smriti_scale.monitoring.instance_lock import InstanceLock
from smriti_scale.monitoring.metrics import Described
from smriti_scale.monitoring.slo import Severity, SLOStatus

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Gauge

_log = logging.getLogger("smriti_scale.monitoring")


EXPORTED = (
    Described(
        "Alerts", "scale_alert_active", "gauge", ("alert", "severity"), "Alerts that are raised and not over (1).",
        joined="livemax",
    ),
    Described(
        "Alerts", "scale_alert_notices_total", "counter", ("channel", "outcome"),
        "Notices by channel and outcome: `sent`, `failed`, `limited` or `lost`.",
    ),
)  # fmt: skip
"""What `Alerts.export_to` shows."""


class Alerts:
    """Watches findings and tells channels.

    Every process keeps its own book, so that each can show what is active. Of the processes of one instance (those
    that share `PROMETHEUS_MULTIPROC_DIR`) only the one that holds the lock tells the channels.

    Args:
        channels: `Webhook`, `Email`, `SentryChannel`, or any function that takes a `Notice`: an async one is awaited,
            another is called in a thread.
        service: whose alerts these are, for the messages.
        dependencies: servers to watch; see `on_event`.
        resolve_after: seconds of calm before an alert is over.
        repeat_after: seconds between reminders of an alert that lasts; None: none.
        per_hour: new alerts an hour and channel, pages and tickets counted apart.
        queue_size: notices that may wait for one channel.
        attempts: tries for each notice, with growing pauses between.
        timeout: seconds for each try.
        lock: who tells; by default `InstanceLock.from_environment()`.
        clock: the source of time.

    Raises:
        ConfigurationError: a number is out of range.
    """

    def __init__(
        self,
        channels: Sequence[Channel | Callable[[Notice], Awaitable[None] | None]] = (),
        *,
        service: str = "",
        dependencies: Sequence[Dependency] = DEPENDENCIES,
        resolve_after: float = 120.0,
        repeat_after: float | None = None,
        per_hour: int = 30,
        queue_size: int = 100,
        attempts: int = 6,
        timeout: float = 10.0,
        lock: InstanceLock | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if min(per_hour, queue_size, attempts) < 1 or timeout <= 0 or resolve_after < 0:
            raise ConfigurationError("per_hour, queue_size and attempts are 1 or more, timeout above 0 s")
        if repeat_after is not None and repeat_after <= 0:
            raise ConfigurationError(f"repeat_after must be positive or None, not {repeat_after}")
        self.service = service
        self._book = AlertBook(resolve_after=resolve_after, repeat_after=repeat_after)
        self._dependencies = Dependencies(dependencies)
        self._conditions: dict[str, Finding] = {}
        self._statuses: Sequence[SLOStatus] = ()
        self._lock = InstanceLock.from_environment() if lock is None else lock
        self._clock = clock
        self._gauge: Gauge | None = None
        self._counter: Counter | None = None
        self._shown: set[tuple[str, str]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False
        self._deliveries = tuple(
            Delivery(
                one,
                per_hour=per_hour,
                queue_size=queue_size,
                attempts=attempts,
                timeout=timeout,
                clock=clock,
                count=self._counting(one.name),
            )
            for one in (channel if isinstance(channel, Channel) else CallableChannel(channel) for channel in channels)
        )

    # --- what is wrong

    def on_event(self, event: Event) -> None:
        """A listener for `Events.subscribe`: circuit breakers and the primary tell which dependencies are down."""
        self._dependencies.on_event(event)

    def raise_alert(self, finding: Finding) -> None:
        """Hold something to be wrong until `clear`: told at the next look, once it has lasted `finding.after`."""
        self._conditions[finding.key] = finding

    def clear(self, key: str) -> None:
        """It is no longer wrong."""
        self._conditions.pop(key, None)

    def observe(self, statuses: Sequence[SLOStatus] | None = None) -> None:
        """Look once: compare everything that is wrong now with what was told. Does no I/O.

        Args:
            statuses: how the objectives stand; None: as at the last call.
        """
        if statuses is not None:
            self._statuses = statuses
        findings = [
            *(_finding(status) for status in self._statuses if status.alert),
            *self._dependencies.findings(),
            *self._conditions.values(),
        ]
        notices = self._book.look(findings, now=self._clock.monotonic(), wall=self._clock.time())
        self._show()
        for notice in notices:
            _log.warning(
                "alert %s: %s %s", notice.kind, notice.alert.key, notice.alert.title,
                extra={"alert": notice.alert.key, "severity": notice.alert.severity, "kind": notice.kind},
            )  # fmt: skip
        if not self._closed and self._tells():
            for notice in notices:
                for delivery in self._deliveries:
                    delivery.offer(replace(notice, service=self.service))

    def active(self) -> tuple[ActiveAlert, ...]:
        """What has been raised and is not over, pages first."""
        return self._book.active()

    # --- telling it

    async def start(self) -> None:
        """Begin to deliver; what was found before waits in the queues."""
        if not self._tasks:
            self._closed = False
            for delivery in self._deliveries:
                delivery.begin()
            self._tasks = [
                asyncio.create_task(delivery.run(), name=f"alerts to {delivery.channel.name}")
                for delivery in self._deliveries
            ]

    async def aclose(self, *, deadline: float = 5.0) -> None:
        """Deliver what waits, for at most `deadline` seconds, then stop. What is left is logged.

        Alerts that are active are not told to be over: whoever runs next will find out.
        """
        self._closed = True
        for delivery in self._deliveries:
            delivery.finish()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=deadline)
            for task in late:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._tasks = []
        left = {delivery.channel.name: delivery.waiting for delivery in self._deliveries if delivery.waiting}
        if left:
            _log.error("stopped with alerts undelivered: %s", left)
        if self._lock is not None:
            self._lock.release()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # --- figures

    def export_to(self, registry: CollectorRegistry) -> None:
        """Show `scale_alert_active{alert,severity}` and `scale_alert_notices_total{channel,outcome}` in a registry.

        Raises:
            MissingExtraError: prometheus_client is not installed.
        """
        try:
            from prometheus_client import Counter, Gauge
        except ImportError as error:
            raise MissingExtraError("metrics", package="prometheus_client", feature="Alerts.export_to") from error
        active, notices = EXPORTED
        self._gauge = Gauge(
            active.name, active.text, active.labels, registry=registry, multiprocess_mode=active.joined or "all"
        )
        self._counter = Counter(notices.name, notices.text, notices.labels, registry=registry)
        self._show()

    def _show(self) -> None:
        if self._gauge is None:
            return
        active: set[tuple[str, str]] = {(alert.key, alert.severity) for alert in self._book.active()}
        for key in self._shown - active:
            self._gauge.labels(*key).set(0)
        for key in active:
            self._gauge.labels(*key).set(1)
        self._shown = active

    def _counting(self, channel: str) -> Callable[[str], None]:
        def count(outcome: str) -> None:
            if self._counter is not None:
                self._counter.labels(channel, outcome).inc()

        return count

    def _tells(self) -> bool:
        if self._lock is None:
            return True
        with contextlib.suppress(ConfigurationError):
            return self._lock.acquire()
        return True  # no lock file can be made: better told twice than not at all


def _finding(status: SLOStatus) -> Finding:
    burning = ", ".join(f"{rate:.3g}× over {window}" for window, rate in status.burn.items() if rate >= 0.005)
    parts = [f"the error budget burns {burning}"]
    if status.budget_left is not None:
        parts.append(f"{status.budget_left:.1%} of it is left")
    if status.value is not None:
        shown = f"{status.value:.1%}" if status.unit == "ratio" else f"{status.value * 1000:,.0f} ms"
        parts.insert(0, f"now {shown}")
    severity: Severity = "page" if status.alert == "page" else "ticket"
    return Finding(f"slo:{status.name}", severity, f"objective missed: {status.title}", "; ".join(parts))
