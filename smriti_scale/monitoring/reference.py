"""The reference of every figure, written from the instruments: `python -m smriti_scale.monitoring.reference`."""

from __future__ import annotations

import sys
from itertools import groupby

from smriti_scale.monitoring.alerts import EXPORTED
from smriti_scale.monitoring.labels import OTHER
from smriti_scale.monitoring.metrics import Described, Metrics

_JOINED = {
    "livesum": "the sum",
    "livemax": "the largest",
    "livemostrecent": "the latest",
}
_OPENING = f"""\
# Every figure

Written from the instruments by `python -m smriti_scale.monitoring.reference`; do not edit.

Times are seconds, sizes bytes, ratios 0…1. A counter only grows while its process lives; a histogram has `_bucket`
(upper bounds below), `_sum` and `_count`. `route` is a route's template, or `(unmatched)`. A label has 200 values at
most (routes 1,000) in each process; further ones are counted as `{OTHER}`. Where several processes serve, counters and
histograms are summed; what becomes of a gauge is said with it, and the dead count no longer.
"""


def reference_page(metrics: Metrics) -> str:
    """The page, as Markdown."""
    parts = [_OPENING]
    for section, group in groupby([*metrics.described, *EXPORTED], key=lambda described: described.section):
        parts.append(f"\n## {section}\n")
        parts += [_entry(described) for described in group]
    return "".join(parts)


def _entry(described: Described) -> str:
    labels = "{" + ", ".join(described.labels) + "}" if described.labels else ""
    kind: str = described.kind
    if described.joined is not None:
        kind += f"; of several processes {_JOINED[described.joined]}"
    lines = [f"\n### `{described.name}`\n", f"`{described.name}{labels}` · {kind}\n", described.text]
    if described.buckets:
        lines.append(f"\nUp to {', '.join(map(_shown, described.buckets))}.")
    return "\n".join(lines) + "\n"


def _shown(bound: float) -> str:
    return f"{bound:,.0f}" if bound >= 1000 else f"{bound:g}"


if __name__ == "__main__":
    sys.stdout.write(reference_page(Metrics()))
