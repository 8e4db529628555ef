"""Which Celery settings keep work safe on Redis, and why: pure, a function of a few numbers.

Celery's defaults acknowledge a task before it runs, fetch four ahead for each process, and give lost work back after
an hour. What is set here, against Celery's own names, is explained in "Delivery guarantees" of the documentation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from smriti_scale.errors import ConfigurationError
from smriti_scale.redis_link import redacted

Priority = Literal["high", "normal", "low"]
PRIORITIES: Mapping[str, int] = {"high": 0, "normal": 3, "low": 6}
"""On Redis the smaller number goes first."""

_TRANSPORT = "smriti_scale.tasks.transport:Transport"
_SENTINEL_TRANSPORT = "smriti_scale.tasks.transport:SentinelTransport"


@dataclass(frozen=True, slots=True)
class TaskPolicy:
    """How long, how often and where tasks run. All times in seconds.

    Args:
        time_limit: a task's process is killed after this; the task becomes a dead letter.
        soft_time_limit: `SoftTimeLimitExceeded` is raised in the task (an async body is cancelled). By default a tenth
            less than `time_limit`.
        lease: a worker that has shown no life for so long loses its unfinished tasks to the others.
        visibility_timeout: the same for workers that cannot show life (a plain Celery worker, the `solo` pool); must
            exceed the longest task. By default `time_limit` and a fifth, but at least a minute more.
        max_retries: how often a failing task is tried again.
        retry_backoff: upper bound of the first wait before a retry; it doubles with each (full jitter).
        retry_backoff_max: upper bound of the wait.
        max_deliveries: a task whose worker died that often is not given to another: it becomes a dead letter.
        result_ttl: how long results are kept, where there is a result backend.
        shutdown_grace: after a second SIGTERM (or SIGQUIT), running tasks get this long before they are given back.
        max_dead: dead letters kept; the oldest give way.
    """

    time_limit: float = 300.0
    soft_time_limit: float | None = None
    lease: float = 10.0
    visibility_timeout: float | None = None
    max_retries: int = 5
    retry_backoff: float = 1.0
    retry_backoff_max: float = 600.0
    max_deliveries: int = 10
    result_ttl: float = 3600.0
    shutdown_grace: float = 20.0
    max_dead: int = 100_000

    def __post_init__(self) -> None:
        for name in ("time_limit", "lease", "retry_backoff", "retry_backoff_max", "result_ttl"):
            if getattr(self, name) <= 0:
                raise ConfigurationError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("max_retries", "shutdown_grace"):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"{name} cannot be negative: {getattr(self, name)}")
        for name in ("max_deliveries", "max_dead"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 < self.soft < self.time_limit:
            raise ConfigurationError(
                f"soft_time_limit {self.soft:g} must lie below time_limit {self.time_limit:g}, to leave time to tidy up"
            )
        if self.visibility <= self.time_limit:
            raise ConfigurationError(
                f"visibility_timeout {self.visibility:g} must exceed time_limit {self.time_limit:g}: "
                "Redis would hand a task that still runs to a second worker"
            )

    @property
    def soft(self) -> float:
        """The soft time limit in force."""
        return self.time_limit * 0.9 if self.soft_time_limit is None else self.soft_time_limit

    @property
    def visibility(self) -> float:
        """The visibility timeout in force."""
        if self.visibility_timeout is not None:
            return self.visibility_timeout
        return self.time_limit + max(60.0, self.time_limit * 0.2)


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker URL as kombu wants it."""

    url: str
    transport: str
    options: Mapping[str, Any]


def broker_of(url: str) -> Broker:
    """Translate a Redis URL (the forms of `redis_link`) for kombu.

    Raises:
        ConfigurationError: the URL is no Redis, or a Cluster, which Celery cannot use as a broker.
    """
    parts = urlsplit(url)
    if parts.scheme in ("redis", "rediss", "unix"):
        adapted = url.replace("unix://", "redis+socket://", 1) if parts.scheme == "unix" else url
        return Broker(adapted, _TRANSPORT, {})
    if parts.scheme in ("redis+sentinel", "rediss+sentinel"):
        service, _, database = parts.path.strip("/").partition("/")
        if not service:
            raise ConfigurationError(f"{redacted(url)!r} names no service: redis+sentinel://host:26379/SERVICE/0")
        credentials, _, hosts = parts.netloc.rpartition("@")
        nodes = [
            urlunsplit(("sentinel", f"{credentials}@{host}" if credentials else host, f"/{database or 0}", "", ""))
            for host in hosts.split(",")
        ]
        options = {"master_name": service, "sentinel_kwargs": {"socket_timeout": 1.0, "socket_connect_timeout": 1.0}}
        return Broker(";".join(nodes), _SENTINEL_TRANSPORT, options)
    if "+cluster" in parts.scheme:
        raise ConfigurationError(
            f"{redacted(url)!r}: Celery cannot use a Redis Cluster as its broker. Give tasks one Redis server of their "
            "own, or Sentinel (redis+sentinel://host:26379/SERVICE/0); the cache may stay on the Cluster"
        )
    raise ConfigurationError(
        f"{redacted(url)!r} is no broker this library knows: use redis://, rediss:// or redis+sentinel://"
    )


def celery_settings(
    policy: TaskPolicy,
    broker: Broker,
    *,
    queues: Sequence[str],
    routes: Mapping[str, str],
    key_prefix: str,
    result_backend: str | None,
    eager: bool,
) -> dict[str, Any]:
    """Everything in Celery's configuration that differs from its defaults."""
    return {
        # Work is acknowledged after it is done, and given back when its process dies.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        # A worker that lost the broker can no longer say that it lives: stop its work, others will do it again.
        "worker_cancel_long_running_tasks_on_connection_loss": True,
        "task_time_limit": policy.time_limit,
        "task_soft_time_limit": policy.soft,
        "worker_soft_shutdown_timeout": policy.shutdown_grace,
        "worker_enable_soft_shutdown_on_idle": True,
        # JSON only: a message can never carry code.
        "task_serializer": "json",
        "result_serializer": "json",
        "event_serializer": "json",
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        "enable_utc": True,
        "timezone": "UTC",
        # Queues are those declared: a typing error in a name is an error, not a queue that nobody reads.
        "task_default_queue": queues[0],
        "task_queues": {name: {"exchange": name, "routing_key": name} for name in queues},
        "task_create_missing_queues": False,
        "task_routes": {pattern: {"queue": queue} for pattern, queue in routes.items()},
        "task_default_priority": PRIORITIES["normal"],
        "task_inherit_parent_priority": True,
        "result_backend": result_backend,
        "result_expires": policy.result_ttl,
        "task_ignore_result": result_backend is None,
        "task_store_errors_even_if_ignored": False,
        "result_extended": False,
        "broker_transport": broker.transport,
        "broker_connection_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_connection_timeout": 4.0,
        "broker_pool_limit": 4,
        "task_publish_retry": True,
        "task_publish_retry_policy": {"max_retries": 2, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.5},
        "broker_transport_options": {
            **broker.options,
            "visibility_timeout": policy.visibility,
            "lease": policy.lease,
            # Look for lost work every 2 s; kombu's own 10 × 10 s makes every timeout a matter of minutes. A worker
            # that dies while it looks holds the others off for as long as the mutex lives: 10 s, not 5 minutes.
            "unacked_restore_interval": 2,
            "unacked_restore_throttle": 1,
            "unacked_mutex_expire": 10,
            "priority_steps": sorted(PRIORITIES.values()),
            "queue_order_strategy": "round_robin",
            "global_keyprefix": key_prefix,
            "socket_connect_timeout": 2.0,
            "socket_timeout": 5.0,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
        "beat_scheduler": "smriti_scale.tasks.beat:LeaderScheduler",
        "beat_max_loop_interval": 5,
        "task_always_eager": eager,
        "task_eager_propagates": True,
        "worker_send_task_events": False,
        "worker_hijack_root_logger": False,
    }
