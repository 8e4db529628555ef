"""Every figure there is: real prometheus_client instruments on one registry, and what each of them means."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from smriti_scale.errors import ConfigurationError, MissingExtraError
from smriti_scale.monitoring.labels import Children, LabelValues
from smriti_scale.monitoring.multiprocess import SharedCollector, shared_folder

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

Kind = Literal["counter", "gauge", "histogram"]
Joined = Literal["livesum", "livemax", "livemostrecent"]

LATENCY = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0, 10.0)
COMMAND = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)
QUICK = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
WORK = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0)
STREAM = (0.1, 1.0, 10.0, 60.0, 600.0, 3600.0)
SIZE = (256.0, 1024.0, 4096.0, 16_384.0, 65_536.0, 1_048_576.0, 16_777_216.0)

_MANY_ROUTES = 1000


@dataclass(frozen=True, slots=True)
class Described:
    """What an instrument is, for the reference.

    Attributes:
        section: what it belongs to, as a heading.
        name: as it is scraped; a counter's ends in `_total`.
        kind: `counter`, `gauge` or `histogram`.
        labels: their names.
        text: what it counts or measures.
        buckets: of a histogram: the upper bounds.
        joined: of a gauge: how several processes' values become one.
    """

    section: str
    name: str
    kind: Kind
    labels: tuple[str, ...]
    text: str
    buckets: tuple[float, ...] = ()
    joined: Joined | None = None


class Metrics:
    """All instruments of one application.

    Every labelled instrument is a `Children`: `metrics.http_requests["GET", "/posts", "200"].inc()`.

    Args:
        registry: where they are registered; a new one by default. It must not have them already.
        max_values: values that a label may have in this process; further ones are counted as `(other)`.
            Routes may have 1,000.

    Raises:
        MissingExtraError: `prometheus-client` is not installed.
        ConfigurationError: `PROMETHEUS_MULTIPROC_DIR` was set too late, or `max_values` is not positive.
    """

    def __init__(self, registry: CollectorRegistry | None = None, *, max_values: int = 200) -> None:
        if max_values < 1:
            raise ConfigurationError(f"max_values must be at least 1, not {max_values}")
        try:
            from prometheus_client import CollectorRegistry
        except ImportError as error:
            raise MissingExtraError("metrics", package="prometheus_client", feature="monitoring") from error
        self.folder = shared_folder()
        if self.folder is not None:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.registry = registry if registry is not None else CollectorRegistry()
        self.described: list[Described] = []
        self._bounds: defaultdict[str, LabelValues] = defaultdict(lambda: LabelValues(max_values))
        self._bounds["route"] = LabelValues(max(max_values, _MANY_ROUTES))
        self._bounds["status"] = LabelValues(501)
        for section, define in (
            ("HTTP", self._http),
            ("MongoDB", self._mongo),
            ("Redis", self._redis),
            ("Cache", self._cache),
            ("Limits, compression, pagination", self._traffic),
            ("Tasks", self._tasks),
            ("Storage", self._storage),
            ("Process and machine", self._process),
        ):
            self._section = section
            define()

    def gathered(self) -> CollectorRegistry:
        """What to scrape: this process's registry, or one that joins all processes of the instance.

        Reading it takes milliseconds, more with many processes: do it in a thread.
        """
        if self.folder is None:
            return self.registry
        from prometheus_client import CollectorRegistry

        joined = CollectorRegistry()
        joined.register(SharedCollector(self.folder))
        return joined

    def _http(self) -> None:
        self.http_requests = self._counters(
            "scale_http_requests",
            "Requests answered, by exact status. 499: the client left before the answer began. A response that an "
            "exception broke off counts as 500. A WebSocket's handshake counts as 101, or what it was refused with.",
            "method", "route", "status",
        )  # fmt: skip
        self.http_duration = self._histograms(
            "scale_http_request_duration_seconds",
            "From the request's arrival to the first bytes of the body, so that neither slow clients nor endless "
            "streams count.",
            "method", "route", buckets=LATENCY,
        )  # fmt: skip
        self.http_in_progress = self._gauge(
            "scale_http_requests_in_progress", "Requests being answered, streams included.", joined="livesum"
        )
        self.http_request_size = self._histograms(
            "scale_http_request_size_bytes", "Bodies of requests, as read.", "method", "route", buckets=SIZE
        )
        self.http_response_size = self._histograms(
            "scale_http_response_size_bytes", "Bodies of responses, as sent.", "method", "route", buckets=SIZE
        )
        self.http_stream_duration = self._histograms(
            "scale_http_stream_duration_seconds",
            "Whole responses that came in several parts, and WebSockets while open.",
            "method", "route", buckets=STREAM,
        )  # fmt: skip
        self.http_exceptions = self._counters(
            "scale_http_exceptions", "Exceptions that reached the server.", "method", "route", "exception"
        )
        self.http_disconnects = self._counters(
            "scale_http_disconnects", "Clients that left before their answer was complete.", "method", "route"
        )
        self.websockets_open = self._gauge("scale_websockets_open", "WebSockets that are open.", joined="livesum")

    def _mongo(self) -> None:
        self.mongo_duration = self._histograms(
            "scale_mongo_command_duration_seconds",
            "MongoDB commands, failed ones included, as the driver measures them. `hello`, `ping` and the end of "
            "sessions are left out.",
            "collection", "command", buckets=COMMAND,
        )  # fmt: skip
        self.mongo_errors = self._counters(
            "scale_mongo_command_errors",
            "Commands that failed: the server's name of the error (`DuplicateKey`), or the driver's class.",
            "collection", "command", "error",
        )  # fmt: skip
        self.mongo_pool = self._gauges(
            "scale_mongo_pool_connections", "Connections to a node: `in_use` and `idle`.", "node", "state"
        )
        self.mongo_pool_waiting = self._gauges(
            "scale_mongo_pool_waiting", "Commands that wait for a connection to a node.", "node"
        )
        self.mongo_pool_limit = self._gauges("scale_mongo_pool_limit", "Connections to a node at most.", "node")
        self.mongo_pool_exhausted = self._counter(
            "scale_mongo_pool_exhausted", "Commands that found no free connection in time."
        )
        self.mongo_lag = self._gauges(
            "scale_mongo_replication_lag_seconds", "How far a secondary is behind its primary.", "node",
            joined="livemax",
        )  # fmt: skip
        self.mongo_causal_wait = self._histograms(
            "scale_mongo_causal_wait_seconds",
            "Waits for a secondary to reach a caller's own writes, and whether it did.",
            "reached", buckets=QUICK,
        )  # fmt: skip
        self.mongo_tokens_ignored = self._counters(
            "scale_mongo_causal_tokens_ignored", "Consistency tokens that could not be used.", "reason"
        )
        self.mongo_fell_back = self._counter(
            "scale_mongo_fell_back_to_primary",
            "Reads that went to the primary since no secondary was known to be far enough.",
        )
        self.mongo_primary_changes = self._counter(
            "scale_mongo_primary_changes", "Times that the primary was lost or replaced."
        )
        self.mongo_slow = self._counters("scale_mongo_slow_queries", "Slow queries that were reported.", "collection")
        self.mongo_repeated = self._counters(
            "scale_mongo_repeated_queries", "Requests that sent one shape of query too often (N+1).", "collection"
        )

    def _redis(self) -> None:
        self.redis_duration = self._histograms(
            "scale_redis_call_duration_seconds",
            "Calls to Redis, by who made them: a cache, the limiter, the causal positions.",
            "user", buckets=QUICK,
        )  # fmt: skip
        self.redis_errors = self._counters(
            "scale_redis_call_errors", "Calls to Redis that failed or came too late.", "user", "error"
        )
        self.breaker_state = self._gauges(
            "scale_breaker_state", "Circuit breakers: 0 closed, 1 half open, 2 open.", "breaker", joined="livemax"
        )

    def _cache(self) -> None:
        self.cache_requests = self._counters(
            "scale_cache_requests",
            "Look-ups by result: `hit_memory` (counted per cache, `function` is empty), `hit_redis`, `stale`, `miss`.",
            "cache", "function", "result",
        )  # fmt: skip
        self.cache_load = self._histograms(
            "scale_cache_load_seconds", "Calls of cached functions, to load.", "cache", "function", buckets=LATENCY
        )
        self.cache_load_errors = self._counters(
            "scale_cache_load_errors", "Loads that raised.", "cache", "function", "error"
        )
        self.cache_invalidations = self._counters(
            "scale_cache_invalidations", "Keys, tags and clears that this process invalidated.", "cache"
        )
        self.cache_evictions = self._counters(
            "scale_cache_evictions", "Entries that memory dropped to stay within its bounds.", "cache"
        )
        self.cache_rejected = self._counters(
            "scale_cache_rejected", "Values in Redis that could not be used.", "cache", "reason"
        )
        self.cache_entries = self._gauges("scale_cache_entries", "Entries in memory.", "cache")
        self.cache_bytes = self._gauges("scale_cache_bytes", "Bytes in memory, about.", "cache")
        self.cache_channel = self._gauges(
            "scale_cache_channel_live", "Whether the channel of invalidations stands: 1 or 0.", "cache"
        )
        self.http_cache = self._counters(
            "scale_http_cache", "Requests of cacheable routes: `hit`, `stale`, `miss` or `bypass`.", "outcome", "route"
        )
        self.cdn_purges = self._counters(
            "scale_cdn_purged_keys", "Keys that a CDN was told to forget, or could not be told.", "cdn", "outcome"
        )

    def _traffic(self) -> None:
        self.limit_decisions = self._counters(
            "scale_limit_decisions",
            "Decisions of limits: `allowed`, `refused`, `shadow` (would have been refused) or `fell_back` (made "
            "without Redis).",
            "limit", "route", "outcome", "tier",
        )  # fmt: skip
        self.compressed_bytes = self._counters(
            "scale_compressed_bytes", "Bytes of bodies `before` and `after` they were coded.", "encoding", "moment"
        )
        self.cursors_rejected = self._counters("scale_cursors_rejected", "Page cursors that were refused.", "reason")

    def _tasks(self) -> None:
        self.task_published = self._counters("scale_task_published", "Tasks that the broker took.", "task")
        self.task_publish = self._histograms(
            "scale_task_publish_seconds", "From asking for a task to the broker's having it.", "task", buckets=QUICK
        )
        self.task_publish_failures = self._counters(
            "scale_task_publish_failures", "Tasks that the broker did not take.", "task"
        )
        self.task_duration = self._histograms(
            "scale_task_duration_seconds", "Runs of tasks.", "task", "queue", buckets=WORK
        )
        self.task_wait = self._histograms(
            "scale_task_wait_seconds", "From a task's publishing to its start.", "task", "queue", buckets=WORK
        )
        self.task_outcomes = self._counters(
            "scale_task_outcomes",
            "Deliveries that ended: `succeeded`, `failed`, `retried` or `requeued`.",
            "task", "queue", "outcome",
        )  # fmt: skip
        self.task_dead = self._counters(
            "scale_task_dead", "Tasks that went to the dead letters.", "task", "queue", "reason"
        )
        seen: Joined = "livemostrecent"
        self.queue_depth = self._gauges("scale_queue_depth", "Tasks that wait in a queue.", "queue", joined=seen)
        self.queue_age = self._gauges(
            "scale_queue_age_seconds", "How long the oldest of a queue has waited.", "queue", joined=seen
        )
        self.tasks_running = self._gauge("scale_tasks_running", "Tasks in workers' hands.", joined=seen)
        self.tasks_dead = self._gauge("scale_tasks_dead", "Dead letters.", joined=seen)
        self.outbox_pending = self._gauge(
            "scale_outbox_pending", "Tasks in the outbox that the broker does not have yet.", joined=seen
        )
        self.outbox_age = self._gauge(
            "scale_outbox_age_seconds", "How long the oldest of the outbox has waited.", joined=seen
        )

    def _storage(self) -> None:
        self.storage = self._histograms(
            "scale_storage_seconds", "Operations of stores.", "store", "operation", buckets=LATENCY
        )
        self.storage_failures = self._counters(
            "scale_storage_failures", "Operations that failed after their retries.", "store", "operation"
        )
        self.stored_bytes = self._counters("scale_stored_bytes", "Bytes that were stored.", "store")

    def _process(self) -> None:
        seen: Joined = "livemostrecent"
        where = "of the container, or of the machine where the container has no limit"
        self.loop_lag = self._histogram(
            "scale_event_loop_lag_seconds",
            "How late the event loop is: what blocks it delays every request.",
            buckets=QUICK,
        )
        self.memory_used = self._gauge("scale_memory_used_bytes", f"Memory in use {where}.", joined=seen)
        self.memory_limit = self._gauge("scale_memory_limit_bytes", f"Memory there is, {where}.", joined=seen)
        self.memory_ratio = self._gauge("scale_memory_used_ratio", f"Share of memory in use {where}.", joined=seen)
        self.cpu_ratio = self._gauge("scale_cpu_used_ratio", f"Share of CPU time in use {where}.", joined=seen)
        self.resident = self._gauge(
            "scale_process_resident_bytes", "Resident memory of this instance's processes.", joined="livesum"
        )
        self.sample_failures = self._counters(
            "scale_sample_failures", "Looks at a pool, cache or queue that failed.", "sample"
        )

    # --- making them

    def _counter(self, name: str, text: str) -> Counter:
        from prometheus_client import Counter

        self.described.append(Described(self._section, f"{name}_total", "counter", (), text))
        return Counter(name, text, registry=self.registry)

    def _counters(self, name: str, text: str, *labels: str) -> Children[Counter]:
        from prometheus_client import Counter

        self.described.append(Described(self._section, f"{name}_total", "counter", labels, text))
        made = Counter(name, text, labels, registry=self.registry)
        return Children(made, made.labels, labels, self._bounds)

    def _gauge(self, name: str, text: str, *, joined: Joined) -> Gauge:
        from prometheus_client import Gauge

        self.described.append(Described(self._section, name, "gauge", (), text, joined=joined))
        made = Gauge(name, text, registry=self.registry, multiprocess_mode=joined)
        if joined == "livesum":
            made.set(0)  # a process of this id that was killed may have left its value in the shared folder
        return made

    def _gauges(self, name: str, text: str, *labels: str, joined: Joined = "livesum") -> Children[Gauge]:
        from prometheus_client import Gauge

        self.described.append(Described(self._section, name, "gauge", labels, text, joined=joined))
        made = Gauge(name, text, labels, registry=self.registry, multiprocess_mode=joined)
        return Children(made, made.labels, labels, self._bounds)

    def _histogram(self, name: str, text: str, *, buckets: Sequence[float]) -> Histogram:
        from prometheus_client import Histogram

        self.described.append(Described(self._section, name, "histogram", (), text, tuple(buckets)))
        return Histogram(name, text, registry=self.registry, buckets=buckets)

    def _histograms(self, name: str, text: str, *labels: str, buckets: Sequence[float]) -> Children[Histogram]:
        from prometheus_client import Histogram

        self.described.append(Described(self._section, name, "histogram", labels, text, tuple(buckets)))
        made = Histogram(name, text, labels, registry=self.registry, buckets=buckets)
        return Children(made, made.labels, labels, self._bounds)
