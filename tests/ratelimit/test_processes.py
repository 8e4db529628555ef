from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from smriti_scale.ratelimit.rules import Strategy
from tests.ratelimit.checks import STRATEGIES

ROOT = Path(__file__).parents[2]


@pytest.mark.long
@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_four_processes_admit_the_limit_exactly(strategy: Strategy, redis_url: str, redis_prefix: str) -> None:
    arguments = ["-m", "tests.ratelimit.hitting", redis_url, f"{redis_prefix}hits", strategy, "100/hour", "500"]
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
        for _ in range(4)
    ]
    lines = [(await process.communicate())[0].decode().split() for process in processes]
    admitted = sum(int(count) for count, _, _ in lines)
    span = max(float(last) for _, _, last in lines) - min(float(first) for _, first, _ in lines)
    if strategy == "gcra":
        assert 100 <= admitted <= 100 + span * 100 / 3600 + 1
    else:
        assert admitted == 100
