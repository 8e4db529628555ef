"""Our column of the conformance table (`python -m tests.benchmarks conformance`)."""

from __future__ import annotations

import pytest

from smriti_scale.compression import CompressionMiddleware
from tests.benchmarks.conformance import CASES, Case


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_ours_is_right(case: Case) -> None:
    assert await case.check(CompressionMiddleware)
