"""The same objectives as Prometheus rules: recorded shares and burn rates, alerts on them.

An SLI says in PromQL what it says in process; windows, burn rates and the least number of bad events are the SLO's own.
Where the two must differ: Prometheus has no samples of a time before a service's first, and takes what it has of a
window for the whole; the evaluator counts the missing part as good.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from smriti_scale.errors import ConfigurationError
from smriti_scale.monitoring.sli import FailureShare, FasterThan
from smriti_scale.monitoring.slo import DEFAULT_SLOS, HOUR, SLO, WINDOWS, BurnAlert, window_name

_RAW = 6 * HOUR
"""Longer windows are reckoned from recorded 5-minute rates: every route's samples of three days would be too many."""

_INTERVAL = 60
"""Seconds between evaluations: what turns a sum of recorded rates into a count."""


def prometheus_rules(slos: Sequence[SLO] = DEFAULT_SLOS, *, by: Sequence[str] = ("job",)) -> dict[str, Any]:
    """A rule file as plain values: a group for each objective, one for budgets, one for circuit breakers.

    Recorded, with the label `slo`: `scale:slo_value:5m` (the figure itself), `scale:slo_bad:ratio_5m` and the like for
    every window, `scale:slo_burn:5m` and the like, `scale:slo_budget:left`; for states also `scale:slo_bad:tick`, for
    events `scale:slo_bad:rate_5m`, `scale:slo_all:rate_5m`, and `scale:slo_bad:increase_1h` and the like. Alerts are
    named `Scale…BudgetBurn`, with the label `severity`.

    Args:
        slos: the objectives.
        by: labels that tell services apart; requests are summed over all their instances. Gauges such as memory are
            judged for each `instance`.

    Raises:
        ConfigurationError: two objectives have one name, or no label is given.
    """
    if len({slo.name for slo in slos}) < len(slos):
        raise ConfigurationError(f"two SLOs have one name: {', '.join(slo.name for slo in slos)}")
    if not by:
        raise ConfigurationError("name at least one label that tells services apart, such as job")
    labels = ", ".join(by)
    groups: list[dict[str, Any]] = [
        {
            "name": f"scale_slo_{slo.name}",
            "interval": f"{_INTERVAL}s",
            "rules": [*_recorded(slo, labels), *_alerts(slo)],
        }
        for slo in slos
    ]
    budgets = [
        _record("scale:slo_budget:left", f"1 - ({_bad_ratio(slo, slo.period, labels)}) / {_plain(slo.budget)}", slo)
        for slo in slos
    ]
    groups.append({"name": "scale_slo_budgets", "interval": "5m", "rules": budgets})
    groups.append({"name": "scale_dependencies", "rules": [_breakers(labels)]})
    return {"groups": groups}


def to_yaml(value: Mapping[str, Any]) -> str:
    """Write rules as YAML: mappings, lists and strings, which is all they have."""
    return "\n".join(_lines(value, "")) + "\n"


def _recorded(slo: SLO, by: str) -> list[dict[str, Any]]:
    rules = [_record("scale:slo_value:5m", slo.sli.promql(slo.objective, by), slo)]
    if isinstance(slo.sli, FasterThan | FailureShare):
        bad, every = slo.sli.bad("rate(%s[5m])", by)
        rules += [_record("scale:slo_bad:rate_5m", bad, slo), _record("scale:slo_all:rate_5m", every, slo)]
    else:
        judged = f"{slo.sli.promql(slo.objective, by)} >= bool {slo.sli.threshold:g}"
        rules.append(_record("scale:slo_bad:tick", judged, slo))
    alerts = slo.burn_alerts
    windows = sorted({*WINDOWS, *(alert.long for alert in alerts), *(alert.short for alert in alerts)})
    rules += [
        _record(f"scale:slo_bad:ratio_{window_name(window)}", _bad_ratio(slo, window, by), slo) for window in windows
    ]
    for window in windows:
        name = window_name(window)
        burn = f'scale:slo_bad:ratio_{name}{{slo="{slo.name}"}} / {_plain(slo.budget)}'
        rules.append(_record(f"scale:slo_burn:{name}", burn, slo))
    if isinstance(slo.sli, FasterThan | FailureShare) and slo.minimum_bad:
        for window in sorted({alert.long for alert in slo.reachable_alerts}):
            name = window_name(window)
            bad, _ = slo.sli.bad(f"increase(%s[{name}])", by)
            if window > _RAW:
                bad = f'sum_over_time(scale:slo_bad:rate_5m{{slo="{slo.name}"}}[{name}]) * {_INTERVAL}'
            rules.append(_record(f"scale:slo_bad:increase_{name}", bad, slo))
    return rules


def _bad_ratio(slo: SLO, window: float, by: str) -> str:
    name, inside = window_name(window), f'{{slo="{slo.name}"}}'
    if not isinstance(slo.sli, FasterThan | FailureShare):
        return f"avg_over_time(scale:slo_bad:tick{inside}[{name}])"
    if window > _RAW:
        bad, every = (f"avg_over_time(scale:slo_{which}:rate_5m{inside}[{name}])" for which in ("bad", "all"))
    else:
        bad, every = slo.sli.bad(f"rate(%s[{name}])", by)
    return f"{bad} / ({every} > 0)"


def _alerts(slo: SLO) -> list[dict[str, Any]]:
    rules = []
    for severity in ("page", "ticket"):
        conditions = [_condition(slo, alert) for alert in slo.reachable_alerts if alert.severity == severity]
        if conditions:
            rules.append(
                {
                    "alert": f"Scale{_camel(slo.name)}BudgetBurn",
                    "expr": " or ".join(conditions),
                    "labels": {"severity": severity, "slo": slo.name},
                    "annotations": {
                        "summary": f"objective missed: {_literal(slo.title)}",
                        "description": "The error budget burns {{ $value | humanize }} times faster than allowed.",
                    },
                }
            )
    return rules


def _condition(slo: SLO, alert: BurnAlert) -> str:
    inside = f'{{slo="{slo.name}"}}'
    long, short = window_name(alert.long), window_name(alert.short)
    parts = [f"scale:slo_burn:{window}{inside} > {alert.burn:g}" for window in (long, short)]
    if isinstance(slo.sli, FasterThan | FailureShare) and slo.minimum_bad:
        parts.append(f"scale:slo_bad:increase_{long}{inside} >= {slo.minimum_bad}")
    return f"({' and '.join(parts)})"


def _breakers(by: str) -> dict[str, Any]:
    return {
        "alert": "ScaleBreakerOpen",
        "expr": f"max by ({by}, breaker) (scale_breaker_state) > 0",
        "for": "1m",
        "labels": {"severity": "page"},
        "annotations": {
            "summary": "a server does not answer: the circuit breaker {{ $labels.breaker }} is open",
        },
    }


def _record(name: str, expression: str, slo: SLO) -> dict[str, Any]:
    return {"record": name, "expr": expression, "labels": {"slo": slo.name}}


def _literal(text: str) -> str:
    """Text that stays what it is in an annotation, which is a template."""
    return text.replace("{{", '{{ "{{" }}')


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def _plain(number: float) -> str:
    return f"{number:.12g}"


def _lines(value: Any, indent: str) -> list[str]:
    lines: list[str] = []
    items = value.items() if isinstance(value, Mapping) else ((None, one) for one in value)
    for key, one in items:
        lead = f"{indent}-" if key is None else f"{indent}{key}:"
        if isinstance(one, str):
            quoted = one.replace("'", "''")
            lines.append(f"{lead} '{quoted}'")
            continue
        inner = _lines(one, indent + "  ")
        if key is None:  # the first key stands beside the dash
            inner[0] = f"{indent}- {inner[0].lstrip()}"
            lines += inner
        else:
            lines += [lead, *inner]
    return lines
