"""What the Grafana dashboard shows: rows of panels and their expressions, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["stat", "timeseries", "table"]


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Attributes:
        title: its heading.
        queries: expressions and their legends; `%s` stands for the selector of jobs and instances.
        unit: Grafana's name of it.
        kind: how it is drawn.
        limit: a value that is not to be passed, drawn red from there on.
        width: in columns of 24.
        text: what is behind the small i.
    """

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: Kind = "timeseries"
    limit: float | None = None
    width: int = 8
    text: str = ""


_HOW_LONG = "$__rate_interval"


def _rate(name: str, *, by: str = "", where: str = "") -> str:
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({name}{{%s{where}}}[{_HOW_LONG}]))"


def _quantile(share: float, name: str, *, by: str = "", window: str = _HOW_LONG) -> str:
    grouped = f"le, {by}" if by else "le"
    return f"histogram_quantile({share:g}, sum by ({grouped}) (rate({name}_bucket{{%s}}[{window}])))"


def _mean(name: str, *, by: str = "", window: str = _HOW_LONG) -> str:
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({name}_sum{{%s}}[{window}])) / sum{grouped} (rate({name}_count{{%s}}[{window}]))"


_REQUESTS = "scale_http_requests_total"
_LATENCY = "scale_http_request_duration_seconds"
_COMMANDS = "scale_mongo_command_duration_seconds"
_ERRORS = f'(sum (rate({_REQUESTS}{{%s, status=~"5.."}}[5m])) or vector(0)) / sum (rate({_REQUESTS}{{%s}}[5m]))'

ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "The five numbers",
        (
            Panel(
                "95 % of requests within",
                ((_quantile(0.95, _LATENCY, window="5m"), ""),),
                "s",
                "stat",
                0.2,
                5,
            ),
            Panel("Requests that fail", ((_ERRORS, ""),), "percentunit", "stat", 0.01, 5),
            Panel("Mean MongoDB command", ((_mean(_COMMANDS, window="5m"), ""),), "s", "stat", 0.1, 5),
            Panel("Memory", (("max (scale_memory_used_ratio{%s})", ""),), "percentunit", "stat", 0.8, 5),
            Panel("CPU", (("max (scale_cpu_used_ratio{%s})", ""),), "percentunit", "stat", 0.7, 4),
            Panel(
                "Alerts",
                (("max by (alert, severity) (scale_alert_active{%s})", "{{alert}} ({{severity}})"),),
                width=24,
                text="1 while raised",
            ),
        ),
    ),
    (
        "Requests",
        (
            Panel("Requests by status", ((_rate(_REQUESTS, by="status"), "{{status}}"),), "reqps"),
            Panel(
                "Latency",
                tuple(
                    (_quantile(share, _LATENCY), name) for share, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
                ),
                "s",
                limit=0.2,
            ),
            Panel("Being answered", (("sum by (instance) (scale_http_requests_in_progress{%s})", "{{instance}}"),)),
            Panel(
                "Slowest routes (p95 of the last 15 minutes)",
                (("topk(10, " + _quantile(0.95, _LATENCY, by="method, route", window="15m") + ")", ""),),
                "s",
                "table",
                width=12,
            ),
            Panel(
                "Failing routes",
                (
                    (
                        _rate(_REQUESTS, by="method, route, status", where=', status=~"5.."'),
                        "{{method}} {{route}} {{status}}",
                    ),
                ),
                "reqps",
                width=12,
            ),
            Panel("Exceptions", ((_rate("scale_http_exceptions_total", by="exception"), "{{exception}}"),), "cps"),
            Panel(
                "Clients that left",
                ((_rate("scale_http_disconnects_total", by="route"), "{{route}}"),),
                "cps",
            ),
            Panel(
                "Bytes",
                (
                    (_rate("scale_http_request_size_bytes_sum"), "in"),
                    (_rate("scale_http_response_size_bytes_sum"), "out"),
                ),
                "Bps",
            ),
        ),
    ),
    (
        "MongoDB",
        (
            Panel(
                "Mean command by collection", ((_mean(_COMMANDS, by="collection"), "{{collection}}"),), "s", limit=0.1
            ),
            Panel(
                "Commands",
                ((_rate(f"{_COMMANDS}_count", by="collection, command"), "{{collection}} {{command}}"),),
                "ops",
            ),
            Panel(
                "Errors",
                ((_rate("scale_mongo_command_errors_total", by="collection, error"), "{{collection}} {{error}}"),),
                "cps",
            ),
            Panel(
                "Connections",
                (
                    ("sum by (node, state) (scale_mongo_pool_connections{%s})", "{{node}} {{state}}"),
                    ("sum by (node) (scale_mongo_pool_limit{%s})", "{{node}} limit"),
                ),
            ),
            Panel(
                "Waiting for a connection",
                (
                    ("sum by (node) (scale_mongo_pool_waiting{%s})", "{{node}}"),
                    (_rate("scale_mongo_pool_exhausted_total"), "in vain, a second"),
                ),
            ),
            Panel("Replication lag", (("max by (node) (scale_mongo_replication_lag_seconds{%s})", "{{node}}"),), "s"),
            Panel(
                "Slow and repeated queries",
                (
                    (_rate("scale_mongo_slow_queries_total", by="collection"), "{{collection}} slow"),
                    (_rate("scale_mongo_repeated_queries_total", by="collection"), "{{collection}} repeated"),
                ),
                "cps",
            ),
            Panel(
                "Reads after one's own writes",
                ((_quantile(0.95, "scale_mongo_causal_wait_seconds", by="reached"), "p95 wait, reached: {{reached}}"),),
                "s",
            ),
            Panel(
                "Sent to the primary instead, and changes of it",
                (
                    (_rate("scale_mongo_fell_back_to_primary_total"), "reads sent to the primary"),
                    (_rate("scale_mongo_primary_changes_total"), "changes of primary"),
                ),
                "cps",
            ),
        ),
    ),
    (
        "Redis and caches",
        (
            Panel(
                "Hit ratio by cache",
                (
                    (
                        _rate("scale_cache_requests_total", by="cache", where=', result!="miss"')
                        + " / "
                        + _rate("scale_cache_requests_total", by="cache"),
                        "{{cache}}",
                    ),
                ),
                "percentunit",
            ),
            Panel("Look-ups by result", ((_rate("scale_cache_requests_total", by="result"), "{{result}}"),), "ops"),
            Panel("Loads (p95)", ((_quantile(0.95, "scale_cache_load_seconds", by="function"), "{{function}}"),), "s"),
            Panel("Memory of caches", (("sum by (cache) (scale_cache_bytes{%s})", "{{cache}}"),), "bytes"),
            Panel(
                "Redis calls (p95)",
                ((_quantile(0.95, "scale_redis_call_duration_seconds", by="user"), "{{user}}"),),
                "s",
            ),
            Panel(
                "Redis errors",
                ((_rate("scale_redis_call_errors_total", by="user, error"), "{{user}} {{error}}"),),
                "cps",
            ),
            Panel(
                "Circuit breakers",
                (("max by (breaker) (scale_breaker_state{%s})", "{{breaker}}"),),
                text="0 closed, 1 half open, 2 open",
            ),
            Panel("HTTP cache", ((_rate("scale_http_cache_total", by="outcome"), "{{outcome}}"),), "reqps"),
            Panel(
                "Saved by compression",
                (
                    (
                        "1 - "
                        + _rate("scale_compressed_bytes_total", where=', moment="after"')
                        + " / "
                        + _rate("scale_compressed_bytes_total", where=', moment="before"'),
                        "share of bytes",
                    ),
                ),
                "percentunit",
            ),
        ),
    ),
    (
        "Limits, tasks, storage",
        (
            Panel("Limits", ((_rate("scale_limit_decisions_total", by="outcome"), "{{outcome}}"),), "reqps"),
            Panel(
                "Refused",
                (
                    (
                        _rate("scale_limit_decisions_total", by="route, limit", where=', outcome="refused"'),
                        "{{route}} {{limit}}",
                    ),
                ),
                "reqps",
            ),
            Panel("Tasks", ((_rate("scale_task_outcomes_total", by="task, outcome"), "{{task}} {{outcome}}"),), "ops"),
            Panel("Queues", (("max by (queue) (scale_queue_depth{%s})", "{{queue}}"),)),
            Panel("Oldest task", (("max by (queue) (scale_queue_age_seconds{%s})", "{{queue}}"),), "s"),
            Panel("Task runs (p95)", ((_quantile(0.95, "scale_task_duration_seconds", by="task"), "{{task}}"),), "s"),
            Panel(
                "Dead letters and outbox",
                (
                    ("max (scale_tasks_dead{%s})", "dead letters"),
                    ("max (scale_outbox_pending{%s})", "in the outbox"),
                ),
            ),
            Panel(
                "Storage (p95)",
                ((_quantile(0.95, "scale_storage_seconds", by="store, operation"), "{{store}} {{operation}}"),),
                "s",
            ),
            Panel(
                "Storage failures",
                ((_rate("scale_storage_failures_total", by="store, operation"), "{{store}} {{operation}}"),),
                "cps",
            ),
        ),
    ),
    (
        "Process and machine",
        (
            Panel(
                "Event-loop lag",
                ((_quantile(0.99, "scale_event_loop_lag_seconds", by="instance"), "{{instance}} p99"),),
                "s",
            ),
            Panel(
                "Memory",
                (
                    ("scale_memory_used_bytes{%s}", "{{instance}} used"),
                    ("scale_memory_limit_bytes{%s}", "{{instance}} limit"),
                    ("scale_process_resident_bytes{%s}", "{{instance}} resident"),
                ),
                "bytes",
            ),
            Panel("CPU", (("scale_cpu_used_ratio{%s}", "{{instance}}"),), "percentunit", limit=0.7),
        ),
    ),
)
