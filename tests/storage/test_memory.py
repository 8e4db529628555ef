"""200 MB pass through each store; the process grows by a fraction of that."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.storage import MEMORY_BUDGET, measure

pytestmark = pytest.mark.long


def grown(kind: str, place: str) -> float:
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[tuple[float, float]] = context.Queue()
    process = context.Process(target=measure, args=(kind, place, results))
    process.start()
    try:
        return results.get(timeout=280)[0]
    finally:
        process.join(20)


def test_the_disk_needs_no_more_than_its_pieces(tmp_path: Path) -> None:
    assert grown("local", str(tmp_path)) <= MEMORY_BUDGET["local"]


def test_s3_needs_no_more_than_the_parts_under_way(s3_endpoint: str) -> None:
    import httpx

    httpx.put(f"{s3_endpoint}/bench").raise_for_status()
    assert grown("s3", s3_endpoint) <= MEMORY_BUDGET["s3"]


def test_the_measure_sees_a_file_that_is_read_whole(tmp_path: Path) -> None:
    usual: Any = grown("whole", str(tmp_path))
    assert usual > 150
