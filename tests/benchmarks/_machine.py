"""How fast this machine is beside the one that the issues' figures were set on, by steps that both have timed.

A figure in microseconds means nothing without its machine. The raw one is always shown, with its verdict; beside it
stands what it comes to at the other machine's pace. Ratios within one run need neither.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import statistics
import time
import timeit
from dataclasses import dataclass

import orjson

_REPEATS = 15


@dataclass(frozen=True, slots=True)
class Machine:
    """This machine.

    Attributes:
        slower: how many times slower its steps are, the middle one of them.
        steps: the same for each step.
    """

    slower: float
    steps: dict[str, float]

    def __str__(self) -> str:
        each = ", ".join(f"{name} × {ratio:.1f}" for name, ratio in self.steps.items())
        return f"this machine is {self.slower:.1f} × slower than the one the figures were set on ({each})"

    def verdict(self, figure: float, asked: float) -> str:
        """`137 ✗ 100, there 68 ✓`: the figure as measured, and what it comes to on the other machine."""
        there = figure / self.slower
        raw = f"{figure:,.0f} " + ("✓" if figure <= asked else f"✗ {asked:,.0f}")
        return f"{raw}, there {there:,.0f} {'✓' if there <= asked else '✗'}"


async def measure() -> Machine:
    """Time the steps, in about a second: the fastest of many tries, since other load only ever adds.

    A machine that is busy looks slower than it is, and its figures better than they are: measure on a quiet one.
    """

    def call(user_id: str, *, limit: int = 20) -> None: ...

    posts = [{"id": n, "title": f"post {n}", "text": "a thought " * 15, "likes": n * 3} for n in range(40)]
    known = {
        "user_id": "42",
        "limit": 20,
        "make_key": functools._make_key,
        "bind": inspect.signature(call).bind,
        "loads": orjson.loads,
        "document": orjson.dumps(posts),  # 8 KB
    }
    # Nanoseconds of each there, and how often to run it.
    steps = {
        "f-string key": (116, 20_000, 'f"posts:{user_id}:{limit}"'),
        "_make_key": (380, 10_000, 'make_key((user_id,), {"limit": limit}, False)'),
        "Signature.bind": (2_500, 2_000, "bind(user_id, limit=limit)"),
        "orjson 8 KB": (10_000, 500, "loads(document)"),
    }
    ratios = {}
    for name, (there, times, step) in steps.items():
        here = min(timeit.repeat(step, globals=known, number=times, repeat=_REPEATS)) / times
        ratios[name] = here * 1e9 / there
    ratios["create_task"] = await _task_seconds(1_000) * 1e9 / 4_800
    return Machine(statistics.median(ratios.values()), ratios)


async def _task_seconds(times: int) -> float:
    async def nothing() -> None: ...

    spent = []
    for _ in range(_REPEATS):
        before = time.perf_counter()
        for _ in range(times):
            await asyncio.create_task(nothing())
        spent.append((time.perf_counter() - before) / times)
    return min(spent)
