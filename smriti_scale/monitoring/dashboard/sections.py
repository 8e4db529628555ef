"""The dashboard's sections: from metric samples to rows of plain values. Pure.

Every function takes a `Span` and returns what JSON can hold; a figure that nothing was observed for is None. A section
whose metrics do not exist is None or empty, and the page leaves it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smriti_scale.monitoring.dashboard.readings import Histogram, Span

Row = dict[str, Any]

_BREAKER = {0: "closed", 1: "half open", 2: "open"}


def traffic(span: Span) -> Row:
    """All requests together."""
    requests = errors = 0.0
    for labels, value in span.grown("scale_http_requests_total"):
        requests += value
        errors += value if _is_error(labels) else 0.0
    took = span.histogram("scale_http_request_duration_seconds")
    return {
        "requests": requests,
        "rate": requests / span.seconds,
        "errors": errors,
        "error_ratio": _ratio(errors, requests),
        "in_progress": span.value("scale_http_requests_in_progress"),
        **_times(took, 0.5, 0.95),
    }


def routes(span: Span, *, most: int = 20) -> list[Row]:
    """The slowest routes by their 95th percentile, those without requests left out."""
    counts: dict[tuple[str, str], list[float]] = {}
    for labels, value in span.grown("scale_http_requests_total"):
        count = counts.setdefault((labels["method"], labels["route"]), [0.0, 0.0])
        count[0] += value
        count[1] += value if _is_error(labels) else 0.0
    took = span.histograms("scale_http_request_duration_seconds", "method", "route")
    rows = [
        {
            "method": method,
            "route": route,
            "requests": requests,
            "rate": requests / span.seconds,
            "errors": errors,
            "error_ratio": _ratio(errors, requests),
            **_times(took.get((method, route)), 0.5, 0.95),
        }
        for (method, route), (requests, errors) in counts.items()
        if requests
    ]
    rows.sort(key=lambda row: (-(row["p95"] or 0.0), row["route"], row["method"]))
    return rows[:most]


def caches(span: Span) -> list[Row]:
    """Hits by cache and tier; the ratio is of calls that waited for no factory."""
    by_tier: dict[str, dict[str, float]] = {}
    for (cache, result), value in span.totals("scale_cache_requests_total", "cache", "result").items():
        by_tier.setdefault(cache, {})[result] = value
    loads = span.histograms("scale_cache_load_seconds", "cache")
    evicted = span.totals("scale_cache_evictions_total", "cache")
    entries, held = _gauge(span, "scale_cache_entries", "cache"), _gauge(span, "scale_cache_bytes", "cache")
    rows = []
    for cache, tiers in sorted(by_tier.items()):
        known = {"memory": "hit_memory", "redis": "hit_redis", "stale": "stale", "miss": "miss"}
        named = {name: tiers.get(result, 0.0) for name, result in known.items()}
        requests = sum(named.values())
        rows.append(
            {
                "cache": cache,
                "requests": requests,
                "hit_ratio": _ratio(requests - named["miss"], requests),
                **named,
                "entries": entries.get((cache,)),
                "bytes": held.get((cache,)),
                "evictions": evicted.get((cache,), 0.0),
                "load_p95": _quantile(loads.get((cache,)), 0.95),
            }
        )
    return rows


def http_cache(span: Span) -> Row | None:
    """What became of requests to cacheable routes."""
    outcomes = {outcome: value for (outcome,), value in span.totals("scale_http_cache_total", "outcome").items()}
    if not outcomes:
        return None
    shared = sum(outcomes.get(name, 0.0) for name in ("hit", "stale", "miss"))
    return {
        **{name: outcomes.get(name, 0.0) for name in ("hit", "stale", "miss", "bypass")},
        "hit_ratio": _ratio(shared - outcomes.get("miss", 0.0), shared),
    }


def limits(span: Span, *, most: int = 20) -> list[Row]:
    """Decisions by limit and route, most refusals first."""
    rows: dict[tuple[str, str, str], Row] = {}
    decisions = span.totals("scale_limit_decisions_total", "limit", "route", "tier", "outcome")
    for (limit, route, tier, outcome), value in decisions.items():
        row = rows.setdefault(
            (limit, route, tier),
            {"limit": limit, "route": route, "tier": tier, "allowed": 0, "refused": 0, "shadow": 0, "fell_back": 0},
        )
        if outcome in row:
            row[outcome] += value
    for row in rows.values():
        row["refused_ratio"] = _ratio(row["refused"], row["refused"] + row["allowed"])
    ordered = sorted(rows.values(), key=lambda row: (-row["refused"], -row["shadow"], row["route"], row["limit"]))
    return [row for row in ordered if row["allowed"] or row["refused"] or row["shadow"] or row["fell_back"]][:most]


def mongo(span: Span, *, most: int = 10) -> Row | None:
    """Nodes with their pools and lag, and the commands that took the most time together."""
    pools: dict[str, Row] = {}

    def node(name: str) -> Row:
        return pools.setdefault(
            name, {"node": name, "in_use": None, "idle": None, "limit": None, "waiting": None, "lag": None}
        )

    for (name, state), value in _gauge(span, "scale_mongo_pool_connections", "node", "state").items():
        if state in ("in_use", "idle"):
            node(name)[state] = value
    for field in ("waiting", "limit"):
        for (name,), value in _gauge(span, f"scale_mongo_pool_{field}", "node").items():
            node(name)[field] = value
    for (name,), value in _gauge(span, "scale_mongo_replication_lag_seconds", "node", worst=True).items():
        node(name)["lag"] = value
    took = span.histograms("scale_mongo_command_duration_seconds", "collection", "command")
    failed = span.totals("scale_mongo_command_errors_total", "collection", "command")
    commands: list[Row] = [
        {
            "collection": collection,
            "command": command,
            "count": histogram.count,
            "seconds": histogram.total,
            "mean": histogram.mean,
            "p95": histogram.quantile(0.95),
            "errors": failed.get((collection, command), 0.0),
        }
        for (collection, command), histogram in took.items()
        if histogram.count
    ]
    commands.sort(key=lambda row: -row["seconds"])
    if not pools and not commands:
        return None
    counted = ("pool_exhausted", "fell_back_to_primary", "primary_changes", "slow_queries", "repeated_queries")
    waits = span.histogram("scale_mongo_causal_wait_seconds")
    return {
        "nodes": [pools[name] for name in sorted(pools)],
        "commands": commands[:most],
        **{name: sum(span.totals(f"scale_mongo_{name}_total").values()) for name in counted},
        "causal_waits": waits.count if waits else 0.0,
        "causal_wait_p95": _quantile(waits, 0.95),
    }


def redis(span: Span) -> Row | None:
    """Calls by who makes them, and the circuit breakers."""
    took = span.histograms("scale_redis_call_duration_seconds", "user")
    failed = span.totals("scale_redis_call_errors_total", "user")
    rows = [
        {
            "user": user,
            "calls": took[(user,)].count if (user,) in took else None,
            "mean": took[(user,)].mean if (user,) in took else None,
            "p95": _quantile(took.get((user,)), 0.95),
            "errors": failed.get((user,), 0.0),
        }
        for user in sorted({key[0] for key in (*took, *failed)})
    ]
    breakers = [
        {"breaker": name, "state": _BREAKER.get(int(state), "unknown")}
        for (name,), state in sorted(_gauge(span, "scale_breaker_state", "breaker", worst=True).items())
    ]
    return {"users": rows, "breakers": breakers} if rows or breakers else None


def tasks(span: Span, *, most: int = 10) -> Row | None:
    """Queues, the outbox, dead letters, and what became of tasks."""
    depth, age = _gauge(span, "scale_queue_depth", "queue"), _gauge(span, "scale_queue_age_seconds", "queue")
    queues = [
        {"queue": queue, "depth": depth.get((queue,)), "age": age.get((queue,))}
        for queue in sorted({key[0] for key in (*depth, *age)})
    ]
    outcomes: dict[tuple[str, str], Row] = {}
    for (task, queue, outcome), value in span.totals("scale_task_outcomes_total", "task", "queue", "outcome").items():
        row = outcomes.setdefault((task, queue), {"task": task, "queue": queue})
        row[outcome] = row.get(outcome, 0.0) + value
    ran = span.histograms("scale_task_duration_seconds", "task", "queue")
    waited = span.histograms("scale_task_wait_seconds", "task", "queue")
    rows = [
        {
            "succeeded": 0.0,
            "failed": 0.0,
            "retried": 0.0,
            "requeued": 0.0,
            **row,
            "p95": _quantile(ran.get(key), 0.95),
            "wait_p95": _quantile(waited.get(key), 0.95),
        }
        for key, row in outcomes.items()
    ]
    rows.sort(key=lambda row: (-row["failed"], -row["retried"], -row["succeeded"], row["task"]))
    standing = {
        "running": span.value("scale_tasks_running", worst=True),
        "dead": span.value("scale_tasks_dead", worst=True),
        "outbox_pending": span.value("scale_outbox_pending", worst=True),
        "outbox_age": span.value("scale_outbox_age_seconds", worst=True),
    }
    published = sum(span.totals("scale_task_published_total").values())
    unpublished = sum(span.totals("scale_task_publish_failures_total").values())
    if not queues and not rows and not published and not unpublished and not any(standing.values()):
        return None
    return {"queues": queues, "tasks": rows[:most], "published": published, "publish_failures": unpublished, **standing}


def instance(span: Span) -> Row:
    """Event loop, memory and CPU of the process or container."""
    lag = span.histogram("scale_event_loop_lag_seconds")
    return {
        "loop_lag_mean": lag.mean if lag else None,
        "loop_lag_p50": _quantile(lag, 0.5),
        "loop_lag_p99": _quantile(lag, 0.99),
        "memory_used": span.value("scale_memory_used_bytes", worst=True),
        "memory_limit": span.value("scale_memory_limit_bytes", worst=True),
        "memory_ratio": span.value("scale_memory_used_ratio", worst=True),
        "cpu_ratio": span.value("scale_cpu_used_ratio", worst=True),
        "resident": span.value("scale_process_resident_bytes"),
    }


def _is_error(labels: Mapping[str, str]) -> bool:
    return labels.get("status", "").startswith("5")


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _quantile(histogram: Histogram | None, q: float) -> float | None:
    return histogram.quantile(q) if histogram else None


def _times(histogram: Histogram | None, *quantiles: float) -> Row:
    return {f"p{round(q * 100)}": _quantile(histogram, q) for q in quantiles}


def _gauge(span: Span, name: str, *by: str, worst: bool = False) -> dict[tuple[str, ...], float]:
    """A gauge by some of its labels: over processes the sum, or the worst."""
    found: dict[tuple[str, ...], float] = {}
    for labels, value in span.now(name):
        key = tuple(labels.get(label, "") for label in by)
        found[key] = (max(found[key], value) if worst else found[key] + value) if key in found else value
    return found
