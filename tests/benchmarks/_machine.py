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

_REPEATS = 5
_ROUNDS = 5
_STEADY = 1.3


@dataclass(frozen=True, slots=True)
class Machine:
    """This machine.

    Attributes:
        slower: how many times slower its steps are, the middle one of them.
        steps: the same for each step.
        steady: whether it was as fast all the time. A busy machine looks slower than it is, and figures would look
            better than they are for it: then there are only raw ones.
    """

    slower: float
    steps: dict[str, float]
    steady: bool

    def __str__(self) -> str:
        each = ", ".join(f"{name} × {ratio:.1f}" for name, ratio in self.steps.items())
        told = f"this machine is {self.slower:.1f} × slower than the one the figures were set on ({each})"
        return told if self.steady else f"{told}; but it is busy with other things, so figures are shown as they are"

    def verdict(self, figure: float, asked: float) -> str:
        """`137 ✗ 100, there 68 ✓`: the figure as measured, and what it comes to on the other machine."""
        raw = f"{figure:,.0f} " + ("✓" if figure <= asked else f"✗ {asked:,.0f}")
        there = figure / self.slower
        return f"{raw}, there {there:,.0f} {'✓' if there <= asked else '✗'}" if self.steady else raw


async def measure() -> Machine:
    """Time the steps over two seconds: the fastest of many tries, since other load only ever adds."""
    rounds = []
    for _ in range(_ROUNDS):
        rounds.append(await _ratios())
        await asyncio.sleep(0.2)
    fastest = {name: min(each[name] for each in rounds) for name in rounds[0]}
    middles = [statistics.median(each.values()) for each in rounds]
    return Machine(statistics.median(fastest.values()), fastest, steady=max(middles) <= _STEADY * min(middles))


async def _ratios() -> dict[str, float]:
    """Of each step, how many times slower its fastest try is here."""

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
    return ratios


async def _task_seconds(times: int) -> float:
    async def nothing() -> None: ...

    spent = []
    for _ in range(_REPEATS):
        before = time.perf_counter()
        for _ in range(times):
            await asyncio.create_task(nothing())
        spent.append((time.perf_counter() - before) / times)
    return min(spent)
