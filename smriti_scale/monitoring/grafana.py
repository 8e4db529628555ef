"""A Grafana dashboard for these figures: `python -m smriti_scale.monitoring.grafana > dashboard.json`, then import it.

Every expression is cut down to the chosen jobs and instances, so one dashboard serves many services.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from smriti_scale.monitoring.grafana_panels import ROWS, Panel

_WIDTH = 24
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def dashboard() -> dict[str, Any]:
    """The dashboard, as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS:
        panels.append({"type": "row", "title": title, "gridPos": {"h": 1, "w": _WIDTH, "x": 0, "y": top}})
        placed, top = _placed(row, top + 1)
        panels += placed
    for number, panel in enumerate(panels, 1):
        panel["id"] = number
    return {
        "title": "smriti_scale",
        "uid": "smriti-scale",
        "tags": ["smriti_scale"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_datasource(), _variable("job"), _variable("instance", job='job=~"$job"')]},
        "panels": panels,
    }


def _placed(row: Sequence[Panel], top: int) -> tuple[list[dict[str, Any]], int]:
    placed: list[dict[str, Any]] = []
    left, height = 0, 0
    for panel in row:
        if left + panel.width > _WIDTH:
            left, top = 0, top + height
        height = 5 if panel.kind == "stat" else 8
        placed.append(_panel(panel) | {"gridPos": {"h": height, "w": panel.width, "x": left, "y": top}})
        left += panel.width
    return placed, top + height


def _panel(panel: Panel) -> dict[str, Any]:
    selector = 'job=~"$job", instance=~"$instance"'
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.limit is not None:
        steps.append({"color": "red", "value": panel.limit})
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "min": 0,
        "thresholds": {"mode": "absolute", "steps": steps},
    }
    if panel.kind == "timeseries" and panel.limit is not None:
        defaults["custom"] = {"thresholdsStyle": {"mode": "line"}}
    drawn: dict[str, Any] = {
        "type": panel.kind,
        "title": panel.title,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": _SOURCE,
                "expr": expression.replace("%s", selector),
                "legendFormat": legend,
                **({"format": "table", "instant": True} if panel.kind == "table" else {}),
            }
            for number, (expression, legend) in enumerate(panel.queries)
        ],
    }
    if panel.text:
        drawn["description"] = panel.text
    if panel.kind == "table":
        drawn["transformations"] = [{"id": "organize", "options": {"excludeByName": {"Time": True}}}]
    return drawn


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _variable(name: str, *, job: str = "") -> dict[str, Any]:
    query = f"label_values(scale_http_requests_in_progress{{{job}}}, {name})"
    return {
        "name": name,
        "type": "query",
        "datasource": _SOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


if __name__ == "__main__":
    json.dump(dashboard(), sys.stdout, indent=2)
    sys.stdout.write("\n")
