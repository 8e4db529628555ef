from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from smriti_scale.ratelimit import RateLimiter, client_address
from smriti_scale.ratelimit.rules import Strategy
from tests.ratelimit.checks import STRATEGIES

ROOT = Path(__file__).parents[2]
PROCESSES = 4

pytestmark = pytest.mark.long


async def hit(*arguments: str) -> tuple[int, float]:
    """Ask from four processes at once; units admitted by all, and seconds from the first question to the last."""
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.ratelimit.hitting", *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        for _ in range(PROCESSES)
    ]
    lines = [(await process.communicate())[0].decode().split() for process in processes]
    span = max(float(last) for _, _, last in lines) - min(float(first) for _, first, _ in lines)
    return sum(int(count) for count, _, _ in lines), span


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_four_processes_admit_the_limit_exactly(strategy: Strategy, redis_url: str, redis_prefix: str) -> None:
    admitted, span = await hit(redis_url, f"{redis_prefix}hits", strategy, "100/hour", "500")
    if strategy == "gcra":
        assert 100 <= admitted <= 100 + span * 100 / 3600 + 1
    else:
        assert admitted == 100


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_four_processes_that_lease_stay_within_the_limit_and_what_is_on_lease(
    strategy: Strategy, redis_url: str, redis_prefix: str
) -> None:
    prefix, limit, lease = f"{redis_prefix}leases", 2_000, 50
    admitted, span = await hit(redis_url, prefix, strategy, f"{limit}/hour", "2000", str(lease))
    more = span * limit / 3600 + 1 if strategy == "gcra" else 0
    over = 0 if strategy == "fixed-window" else PROCESSES * lease
    # Units that one process held while the others were refused went back unspent.
    assert limit - PROCESSES * lease <= admitted <= limit + over + more
    other = RateLimiter(client_address(), storage_uri=redis_url, key_prefix=prefix, redis_timeout=5.0)
    (left,) = (await other.peek("someone")).limits
    assert left.remaining >= limit - admitted  # nothing is lost
    await other.aclose()
