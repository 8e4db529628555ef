"""Each file of `examples/minimal` runs as a user would run it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

MINIMAL = Path(__file__).parents[2] / "examples" / "minimal"


@pytest.mark.parametrize("example", sorted(path.name for path in MINIMAL.glob("*.py")))
def test_the_example_runs_and_says_something(example: str, mongo_uri: str, redis_url: str) -> None:
    ran = subprocess.run(
        [sys.executable, str(MINIMAL / example)],
        env={**os.environ, "MONGODB_URI": mongo_uri, "REDIS_URL": redis_url},
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip(), "an example shows what it does"
