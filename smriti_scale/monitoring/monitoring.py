"""`Monitoring`: the figures of one application and what looks them up while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self

from smriti_scale.clock import SYSTEM_CLOCK, Clock
from smriti_scale.errors import ConfigurationError
from smriti_scale.events import Events
from smriti_scale.monitoring.alerts import Alerts
from smriti_scale.monitoring.evaluator import SLOEvaluator
from smriti_scale.monitoring.loop_lag import watch_loop_lag
from smriti_scale.monitoring.metrics import Metrics
from smriti_scale.monitoring.mongo_commands import MongoCommands
from smriti_scale.monitoring.recorder import Recorder
from smriti_scale.monitoring.samplers import Samples
from smriti_scale.monitoring.slo import DEFAULT_SLOS, SLO
from smriti_scale.monitoring.slow_queries import SlowQueries, SlowShape
from smriti_scale.monitoring.system import System

_log = logging.getLogger("smriti_scale.monitoring")


class Monitoring:
    """Counts what the primitives tell, and looks up what they do not.

    ```python
    monitoring = Monitoring(events=events)
    client = AsyncMongoClient(uri, event_listeners=[monitoring.command_listener])
    monitoring.sample("cache", cache.stats)
    async with monitoring: ...
    ```

    Args:
        events: those of the primitives; it listens from now on.
        metrics: the instruments; new ones by default.
        slos: the objectives.
        alerts: who is told when one is missed or a dependency is down; started and closed with this. None: nobody,
            but `alerts.active()` and `scale_alert_active` show it.
        system: where memory and CPU are read.
        advice: what to do next, for the dashboard: called for each look, it returns mappings or dataclasses with
            `title` and `text`.
        clock: the source of time.
        sample_interval: seconds between looks at pools, caches, queues, memory and CPU.

    Attributes:
        metrics: `Metrics`.
        advice: as given.
        ignored: route templates that are not counted: probes, the metrics' own, the dashboard's.
        evaluator: `SLOEvaluator`.
        alerts: `Alerts`.
        command_listener: for the MongoDB client's `event_listeners`.

    Raises:
        MissingExtraError: `prometheus-client` is not installed.
        ConfigurationError: an interval that cannot be.
    """

    def __init__(
        self,
        *,
        events: Events | None = None,
        metrics: Metrics | None = None,
        slos: Sequence[SLO] = DEFAULT_SLOS,
        alerts: Alerts | None = None,
        system: System | None = None,
        advice: Callable[[], Sequence[Any]] | None = None,
        clock: Clock = SYSTEM_CLOCK,
        sample_interval: float = 5.0,
    ) -> None:
        if sample_interval <= 0:
            raise ConfigurationError(f"sample_interval is a number of seconds above 0, not {sample_interval!r}")
        self.metrics = metrics if metrics is not None else Metrics()
        self.advice = advice
        self.ignored: set[str] = set()
        self.clock = clock
        self.alerts = alerts if alerts is not None else Alerts(clock=clock)
        self.alerts.export_to(self.metrics.registry)
        self.evaluator = SLOEvaluator(self.metrics, slos, alerts=self.alerts, clock=clock)
        self.command_listener = MongoCommands(self.metrics)
        self._slow_queries = SlowQueries(clock=clock)
        self._system = system if system is not None else System(clock=clock)
        self._interval = sample_interval
        self._samples = Samples(self.metrics)
        self._sampled: dict[str, Callable[[], Any]] = {}
        self._failing: set[str] = set()
        self._background: dict[str, Callable[[], Awaitable[None]]] = {
            "samples": self._sample_on,
            "objectives": self.evaluator.run,
            "loop lag": lambda: watch_loop_lag(self.metrics.loop_lag.observe),
        }
        self._tasks: set[asyncio.Task[None]] = set()
        self._recorder = Recorder(self.metrics, slow_queries=self._slow_queries)
        if events is not None:
            events.subscribe(self._recorder)
            events.subscribe(self.alerts.on_event)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def slow_queries(self) -> tuple[SlowShape, ...]:
        """The shapes of slow queries seen last, those that took the most time first."""
        return self._slow_queries.shapes()

    def sample(self, name: str, function: Callable[[], Any]) -> None:
        """Call a function every interval and write down what it returns.

        Args:
            name: for logs and for `scale_sample_failures_total`.
            function: sync (quick, no I/O) or async (it gets an interval's time): `MongoClients.status`,
                `Cache.stats`, `QueueMonitor.measure`, or one that records by itself and returns None.

        Raises:
            ConfigurationError: the name is taken.
        """
        if name in self._sampled:
            raise ConfigurationError(f"there is a sample {name!r} already")
        self._sampled[name] = function

    def run(self, name: str, function: Callable[[], Awaitable[None]]) -> None:
        """Run an async function from `start` to `aclose`; one that raises is logged and not run again.

        Args:
            name: for logs.
            function: runs until cancelled.
        """
        self._background[name] = function

    async def start(self) -> None:
        """Begin to look. A second call does nothing."""
        if self._tasks:
            return
        await self.alerts.start()
        for name, function in self._background.items():
            task = asyncio.create_task(self._run(name, function), name=f"smriti_scale.monitoring {name}")
            self._tasks.add(task)

    async def aclose(self) -> None:
        """Look no longer. What was counted stays; `start` begins again."""
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.alerts.aclose()

    async def look(self) -> None:
        """One look at everything, now."""
        await asyncio.to_thread(self._look_at_system)
        await asyncio.gather(*(self._look_at(name, function) for name, function in self._sampled.items()))

    async def _run(self, name: str, function: Callable[[], Awaitable[None]]) -> None:
        try:
            await function()
        except Exception:  # noqa: BLE001 - monitoring must not take the application down
            _log.exception("monitoring: %s ended", name)

    async def _sample_on(self) -> None:
        while True:
            await self.look()
            await self.clock.sleep(self._interval)

    async def _look_at(self, name: str, function: Callable[[], Any]) -> None:
        try:
            async with asyncio.timeout(max(1.0, self._interval)):
                seen = function()
                if inspect.isawaitable(seen):
                    seen = await seen
            self._samples.record(name, seen)
        except Exception as error:  # noqa: BLE001 - whatever it was, the next look may succeed
            self.metrics.sample_failures[(name,)].inc()
            if name not in self._failing:
                _log.warning("cannot look at %s: %s", name, type(error).__name__, exc_info=True)
            self._failing.add(name)
        else:
            self._failing.discard(name)

    def _look_at_system(self) -> None:
        metrics, system = self.metrics, self._system
        with contextlib.suppress(OSError):
            metrics.resident.set(system.resident_bytes())
        memory = system.memory()
        if memory is not None:
            metrics.memory_used.set(memory.used)
            metrics.memory_limit.set(memory.limit)
            metrics.memory_ratio.set(memory.ratio)
        cpu = system.cpu_ratio()
        if cpu is not None:
            metrics.cpu_ratio.set(cpu)
