"""Reading figures back, as a scraper would."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from smriti_scale.monitoring import Metrics


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """One sample; 0 where there is none yet."""
    return metrics.registry.get_sample_value(name, labels) or 0.0


def series(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    """All samples of a name, by their labels' values in the order of the labels' names."""
    return {
        tuple(text for _, text in sorted(sample.labels.items())): sample.value
        for metric in metrics.registry.collect()
        for sample in metric.samples
        if sample.name == name
    }


async def until(condition: Callable[[], object]) -> None:
    """Let other tasks run until it is so; TimeoutError when it never is."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - figures change without telling
            await asyncio.sleep(0.001)
