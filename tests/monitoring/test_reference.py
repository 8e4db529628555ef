"""The committed reference and dashboard are what the instruments say."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smriti_scale.monitoring import Metrics, Monitoring
from smriti_scale.monitoring.alerts import EXPORTED
from smriti_scale.monitoring.grafana import dashboard
from smriti_scale.monitoring.reference import reference_page

DOCS = Path(__file__).parents[2] / "docs"


def test_the_reference_of_every_figure_is_written_from_the_instruments() -> None:
    written = reference_page(Metrics())
    assert (DOCS / "reference" / "metrics.md").read_text() == written, (
        "python -m smriti_scale.monitoring.reference > docs/reference/metrics.md"
    )


def test_every_instrument_is_described_once_in_words() -> None:
    metrics = Monitoring().metrics
    every = [*metrics.described, *EXPORTED]
    described = {one.name: one for one in every}
    assert len(described) == len(every)
    registered = {
        f"{family.name}_total" if family.type == "counter" else family.name: family
        for family in metrics.registry.collect()
    }
    assert registered.keys() == described.keys()
    for name, one in described.items():
        assert one.kind == registered[name].type
        assert one.text.endswith(".")
        assert name.startswith("scale_")


def test_the_shipped_dashboard_is_the_one_that_is_made() -> None:
    shipped = json.loads((DOCS / "assets" / "grafana-dashboard.json").read_text())
    assert shipped == dashboard(), "python -m smriti_scale.monitoring.grafana > docs/assets/grafana-dashboard.json"


def expressions() -> Iterator[tuple[str, str]]:
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for variable in dashboard()["templating"]["list"][1:]:
        yield variable["name"], variable["definition"]


def samples_of(metrics: Metrics) -> dict[str, set[str]]:
    """Names as they are scraped, with their labels."""
    found: dict[str, set[str]] = {}
    for one in (*metrics.described, *EXPORTED):
        endings = {"histogram": ("_bucket", "_sum", "_count")}.get(one.kind, ("",))
        for ending in endings:
            found[one.name + ending] = {*one.labels, *({"le"} if ending == "_bucket" else ())}
    return found


@pytest.mark.parametrize(("title", "expression"), list(expressions()))
def test_every_expression_of_the_dashboard_asks_for_figures_and_labels_that_exist(title: str, expression: str) -> None:
    known = samples_of(Metrics())
    used = set(re.findall(r"\bscale_\w+", expression))
    assert used
    assert used <= known.keys()
    labels = set().union(*(known[name] for name in used)) | {"job", "instance"}
    asked = {label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")}
    asked |= set(re.findall(r"(\w+)(?:=~|!=|=)\"", expression))
    assert asked <= labels


def test_legends_name_labels_that_the_expression_keeps() -> None:
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            kept = {label for group in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in group.split(", ")}
            assert named <= kept if kept else named <= {"instance"}, panel["title"]


def test_panels_lie_beside_each_other_within_the_width() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_prometheus_parses_every_expression(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    rules: list[dict[str, Any]] = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, (_, expression) in enumerate(expressions())
        if not expression.startswith("label_values")
    ]
    file = tmp_path / "rules.json"  # JSON is YAML
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    checked = subprocess.run([promtool, "check", "rules", str(file)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(rules)} rules found" in checked.stdout
