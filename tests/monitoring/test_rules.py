"""The Prometheus rules, judged by Prometheus itself (promtool)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from smriti_scale.errors import ConfigurationError
from smriti_scale.monitoring import DEFAULT_SLOS, SLO, BurnAlert, Match
from smriti_scale.monitoring.rules import prometheus_rules, to_yaml
from smriti_scale.monitoring.slo import BURN_ALERTS

pytestmark = pytest.mark.long

ODD = (
    SLO.latency("posts", 0.9, under=1.0, matches=(Match("route", r"/posts/\{id\}"), Match("method", "GET|HEAD"))),
    SLO.errors("errors_of_jack", 0.9995, title='it\'s "quoted": 100 % {{ odd }}', matches=()),
    SLO.memory(burn_alerts=(BurnAlert("ticket", 2, 7_200, 600),)),
)


def promtool(*words: str, cwd: Path) -> str:
    ran = subprocess.run(["promtool", *words], cwd=cwd, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.parametrize("slos", [DEFAULT_SLOS, ODD], ids=["default", "odd"])
def test_promtool_takes_the_rules(slos: Sequence[SLO], tmp_path: Path) -> None:
    made = prometheus_rules(slos, by=["job", "namespace"])
    text = to_yaml(made)
    assert yaml.safe_load(text) == made
    (tmp_path / "rules.yml").write_text(text)
    count = sum(len(group["rules"]) for group in made["groups"])
    assert f"SUCCESS: {count} rules found" in promtool("check", "rules", "rules.yml", cwd=tmp_path)


def test_rules_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="one name"):
        prometheus_rules([SLO.errors(), SLO.errors()])
    with pytest.raises(ConfigurationError, match="label"):
        prometheus_rules(by=[])


def series(name: str, *stretches: tuple[int, float], **labels: str) -> dict[str, str]:
    """A series at one sample a minute: `(minutes, step)` after each other."""
    at, values = 0.0, []
    for minutes, step in stretches:
        values.append(f"{at:g}{'+' if step >= 0 else '-'}{abs(step):g}x{minutes - 1}")
        at += step * minutes
    shown = ",".join(f'{label}="{value}"' for label, value in {"job": "shop", "instance": "a:1", **labels}.items())
    return {"series": f"{name}{{{shown}}}", "values": " ".join(values)}


def steady(name: str, *stretches: tuple[int, float]) -> dict[str, str]:
    """A gauge at one sample a minute: `(minutes, value)` after each other."""
    return {
        "series": f'{name}{{job="shop",instance="a:1"}}',
        "values": " ".join(f"{value:g}x{minutes - 1}" for minutes, value in stretches),
    }


def expected(slo: SLO, severity: str, **labels: str) -> list[dict[str, Any]]:
    return [{"exp_labels": {"severity": severity, "slo": slo.name, "job": "shop", **labels}}]


def run_unit_tests(tmp_path: Path, slos: Sequence[SLO], inputs: list[dict[str, str]], checks: list[Any]) -> None:
    """`checks`: (minute, alert name, expected alerts with any annotations)."""
    made = prometheus_rules(slos)
    for group in made["groups"]:
        for rule in group["rules"]:
            rule.pop("annotations", None)  # their words are no matter here
    (tmp_path / "rules.yml").write_text(to_yaml(made))
    test = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": inputs,
                "alert_rule_test": [
                    {"eval_time": f"{minute}m", "alertname": name, "exp_alerts": alerts}
                    for minute, name, alerts in checks
                ],
            }
        ],
    }
    (tmp_path / "test.yml").write_text(json.dumps(test))
    promtool("test", "rules", "test.yml", cwd=tmp_path)


def test_an_error_burst_pages_when_the_evaluator_would_and_clears(tmp_path: Path) -> None:
    slo = SLO.errors(burn_alerts=BURN_ALERTS[:2])  # three days of samples would take promtool minutes
    name = "scale_http_requests_total"
    before = 6 * 60
    inputs = [
        series(name, (before, 60), (15, 0), (60, 60), method="GET", route="/posts", status="200"),
        series(name, (before, 0), (15, 60), (60, 0), method="GET", route="/posts", status="500"),
        series(name, (before + 75, 600), method="GET", route="/livez", status="503"),  # probes do not count
    ]
    alert = "ScaleErrorsBudgetBurn"
    page = expected(slo, "page")
    checks = [(before, alert, []), (before + 8, alert, []), (before + 10, alert, page), (before + 15, alert, page)]
    run_unit_tests(tmp_path, [slo], inputs, [*checks, (before + 22, alert, [])])


def test_slow_requests_page_after_most_of_an_hour(tmp_path: Path) -> None:
    slo = SLO.latency()
    name = "scale_http_request_duration_seconds"
    labels = {"method": "GET", "route": "/posts"}
    inputs = [
        series(f"{name}_bucket", (300, 60), (60, 0), (60, 60), le="0.2", **labels),
        series(f"{name}_bucket", (420, 60), le="+Inf", **labels),
        series(f"{name}_count", (420, 60), **labels),
    ]
    alert = "ScaleLatencyBudgetBurn"
    run_unit_tests(
        tmp_path,
        [slo],
        inputs,
        # Prometheus has seen five hours only, and takes them for three days: hence the tickets.
        [
            (299, alert, []),
            (345, alert, [*expected(slo, "ticket"), *expected(slo, "page")]),
            (415, alert, expected(slo, "ticket")),
        ],
    )


def test_memory_pages_for_the_instance_that_is_full(tmp_path: Path) -> None:
    slo = SLO.memory()
    inputs = [
        steady("scale_memory_used_ratio", (120, 0.5), (12, 0.93), (60, 0.5)),
        {"series": 'scale_memory_used_ratio{job="shop",instance="b:1"}', "values": "0.6x191"},
    ]
    alert = "ScaleMemoryBudgetBurn"
    page = expected(slo, "page", instance="a:1")
    ticket = expected(slo, "ticket", instance="a:1")
    run_unit_tests(
        tmp_path, [slo], inputs, [(119, alert, []), (131, alert, ticket + page), (150, alert, ticket + page)]
    )


def test_slow_queries_page_and_a_quiet_database_says_nothing(tmp_path: Path) -> None:
    slo = SLO.database()
    name = "scale_mongo_command_duration_seconds"
    labels = {"collection": "posts", "command": "find"}
    inputs = [
        series(f"{name}_sum", (120, 0.6), (30, 30), (120, 0), **labels),
        series(f"{name}_count", (120, 60), (30, 60), (120, 0), **labels),
    ]
    alert = "ScaleDatabaseBudgetBurn"
    run_unit_tests(
        tmp_path,
        [slo],
        inputs,
        [(119, alert, []), (149, alert, expected(slo, "ticket") + expected(slo, "page"))],
    )


def test_a_few_failures_among_few_requests_page_nobody(tmp_path: Path) -> None:
    name = "scale_http_requests_total"
    inputs = [
        series(name, (100, 0), (1, 3), (60, 0), method="GET", route="/posts", status="500"),
        series(name, (161, 0.1), method="GET", route="/posts", status="200"),
    ]
    alert = "ScaleErrorsBudgetBurn"
    run_unit_tests(tmp_path, [SLO.errors()], inputs, [(minute, alert, []) for minute in (99, 103, 110, 150)])


def test_an_open_breaker_alerts_after_a_minute(tmp_path: Path) -> None:
    inputs = [{"series": 'scale_breaker_state{job="shop",instance="a:1",breaker="cache app"}', "values": "0 0 2x4 0x4"}]
    alert = "ScaleBreakerOpen"
    firing = [{"exp_labels": {"severity": "page", "job": "shop", "breaker": "cache app"}}]
    run_unit_tests(
        tmp_path, [SLO.errors()], inputs, [(1, alert, []), (2, alert, []), (4, alert, firing), (8, alert, [])]
    )
