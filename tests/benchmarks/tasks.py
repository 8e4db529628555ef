"""Tasks: what publishing costs the event loop beside `.delay()`, and what is left of 1,000 tasks after a kill.

`TASKS_BENCH_KILLS=0` leaves the kills out (they take some minutes).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from rich.console import Console
from rich.table import Table

from smriti_scale.local import LocalMongo, LocalRedis
from smriti_scale.tasks import make_celery, publish
from tests.benchmarks._machine import measure
from tests.tasks.kill_run import AofRedis, Flavour, Outcome, Victim, run

CALLS = 300
AT_ONCE = 500
TOGETHER = (4, 16, AT_ONCE)
CALLS_TOGETHER = 2_000
LOOP_BUDGET = 50.0
"""µs of loop time a publish may cost (issue)."""


async def main() -> None:
    console = Console()
    async with LocalRedis(use_environment=False) as redis:
        app = make_celery("bench", redis.uri)

        @app.task(name="job")
        def job(value: int) -> None: ...

        await publish(job, 0)
        console.print(await loop_time(job))
        console.print(await other_routes(job))
        await app.aclose()
    if os.environ.get("TASKS_BENCH_KILLS", "1") != "0":
        console.print(await kills())


async def loop_time(job: Any) -> Table:
    """What the loop spends for one publish.

    Busy is the time inside the loop's callbacks, in which it can do nothing else: that is the figure asked for. The
    thread's CPU time counts the kernel's part too, which lets an idle loop fall asleep and wakes it. Blocked is the
    longest pause of another coroutine meanwhile, so it counts what the publishing thread holds the interpreter for.

    One at a time, each call finds a loop that was idle and a processor that was asleep, which makes everything slow: a
    mere `asyncio.sleep` shows how much of a lone publish is that. With a few at a time the loop has work, as in a
    server, and what is left is the publish.
    """
    machine = await measure()
    table = Table(
        "publish",
        "loop busy µs",
        "",
        "loop CPU µs",
        "loop blocked µs p50",
        "worst µs",
        title="Loop time of a publish",
        caption=str(machine),
    )

    async def delay(n: int) -> None:
        job.delay(n)

    async def in_thread(n: int) -> None:
        await asyncio.to_thread(job.delay, n)

    async def ours(n: int) -> None:
        await publish(job, n)

    async def floor(n: int) -> None:
        await asyncio.to_thread(int, n)

    async def sleep(n: int) -> None:
        await asyncio.sleep(0.0003)

    calls = (
        ("floor: asyncio.sleep", sleep),
        ("floor: a thread and back", floor),
        ("task.delay()", delay),
        ("to_thread(task.delay)", in_thread),
        ("await publish()", ours),
    )
    for name, call in calls:
        busy = await busy_each(call)
        cpu = await cpu_each(call)
        blocked = await blocked_each(call)
        mark = "" if name != "await publish()" else machine.verdict(busy, LOOP_BUDGET)
        figures = (f"{busy:.0f}", mark, f"{cpu:.0f}", f"{statistics.median(blocked):.0f}", f"{max(blocked):.0f}")
        table.add_row(name, *figures)
    for together in TOGETHER:
        for name, call in (("asyncio.sleep", sleep), ("await publish()", ours)):
            busy, cpu = await together_each(call, together)
            mark = machine.verdict(busy, LOOP_BUDGET) if call is ours else ""
            table.add_row(f"{name}, {together} at a time", f"{busy:.0f}", mark, f"{cpu:.0f}", "", "")
    return table


async def together_each(call: Callable[[int], Awaitable[None]], together: int) -> tuple[float, float]:
    """Time inside the loop's callbacks, and CPU time of its thread, for one call of many: means."""
    each = CALLS_TOGETHER // together

    async def caller() -> None:
        for n in range(each):
            await call(n)

    with _timed() as busy:
        began = time.thread_time()
        await asyncio.gather(*(caller() for _ in range(together)))
        cpu = time.thread_time() - began
    calls = each * together
    return busy[0] / calls * 1e6, cpu / calls * 1e6


@contextlib.contextmanager
def _timed() -> Iterator[list[float]]:
    """Sums up in its one item how long the loop is inside its callbacks."""
    busy = [0.0]
    run = asyncio.Handle._run  # type: ignore[attr-defined]  # every callback and every step of a task goes through it

    def timed(handle: asyncio.Handle) -> None:
        began = time.perf_counter()
        run(handle)
        busy[0] += time.perf_counter() - began

    with mock.patch.object(asyncio.Handle, "_run", timed):
        yield busy


async def busy_each(call: Callable[[int], Awaitable[None]]) -> float:
    """Time inside the loop's callbacks for one call, the middle of many; what an idle loop waits is not in it."""
    taken = []
    with _timed() as busy:
        for n in range(CALLS):
            busy[0] = 0.0
            await call(n)
            await asyncio.sleep(0)  # the step that the call ended in is over now, and counted
            taken.append(busy[0] * 1e6)
    return statistics.median(taken)


async def cpu_each(call: Callable[[int], Awaitable[None]]) -> float:
    began = time.thread_time()
    for n in range(CALLS):
        await call(n)
    return (time.thread_time() - began) / CALLS * 1e6


async def blocked_each(call: Callable[[int], Awaitable[None]]) -> list[float]:
    """The longest pause of a coroutine that only yields, for each call, less its usual pause."""
    longest = 0.0
    stopped = False

    async def turn() -> None:
        nonlocal longest
        while not stopped:
            before = time.perf_counter()
            await asyncio.sleep(0)
            longest = max(longest, time.perf_counter() - before)

    turning = asyncio.create_task(turn())
    pauses = []
    for n in range(CALLS):
        await asyncio.sleep(0.001)
        longest = 0.0
        await call(n)
        await asyncio.sleep(0)
        pauses.append(longest * 1e6)
    stopped = True
    await turning
    return pauses


async def other_routes(job: Any) -> Table:
    """How an unrelated route fares while 500 tasks are published at once.

    What was there before is kept out of the garbage collector's sight: a full collection of it takes 50 ms, and falls
    on whichever load happens to be measured.
    """
    gc.collect()
    gc.freeze()
    table = Table("meanwhile", "p50 ms", "p99 ms", "worst ms", title=f"An unrelated route during {AT_ONCE} publishes")

    async def nothing() -> None:
        await asyncio.sleep(0.5)

    async def ours() -> None:
        await asyncio.gather(*(publish(job, n) for n in range(AT_ONCE)))

    async def delay() -> None:
        async def handler(n: int) -> None:
            job.delay(n)

        await asyncio.gather(*(handler(n) for n in range(AT_ONCE)))

    async def spread(call: Callable[[int], Awaitable[Any]]) -> None:
        async def handler(n: int) -> None:
            await asyncio.sleep(n * 0.001)
            await call(n)

        await asyncio.gather(*(handler(n) for n in range(AT_ONCE)))

    async def ours_spread() -> None:
        await spread(lambda n: publish(job, n))

    async def delay_spread() -> None:
        async def blocking(n: int) -> None:
            job.delay(n)

        await spread(blocking)

    loads = (
        ("nothing", nothing),
        ("publish(), one a ms", ours_spread),
        ("delay(), one a ms", delay_spread),
        ("publish(), all in one turn of the loop", ours),
        ("delay(), all in one turn of the loop", delay),
    )
    for name, load in loads:
        took = sorted(await probed(load))
        p99 = took[min(len(took) - 1, int(len(took) * 0.99))]
        table.add_row(name, f"{statistics.median(took):.2f}", f"{p99:.2f}", f"{took[-1]:.2f}")
    return table


async def probed(load: Callable[[], Awaitable[None]]) -> list[float]:
    """Requests to a trivial route every 2 ms, from when each was due to its answer, in ms."""
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def endpoint(request: Any) -> PlainTextResponse:
        return PlainTextResponse("ok")

    app = Starlette(routes=[Route("/", endpoint)])
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b"", "root_path": ""}
    took: list[float] = []
    loop = asyncio.get_running_loop()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None: ...

    async def request(due: float) -> None:
        await app({**scope}, receive, send)
        took.append((loop.time() - due) * 1000)

    requests = []
    loading = asyncio.ensure_future(load())
    due = loop.time()
    while not loading.done():
        due += 0.002
        await asyncio.sleep(max(0.0, due - loop.time()))
        requests.append(asyncio.create_task(request(due)))
    await asyncio.gather(loading, *requests)
    return took


async def kills() -> Table:
    """1,000 tasks, something killed at 300: ours and plain Celery."""
    table = Table(
        *("killed", "who", "done", "twice", "parked", "seconds to the last", ""),
        title="1,000 tasks, killed at 300",
    )
    victims: tuple[Victim, ...] = ("worker", "redis")
    flavours: tuple[Flavour, ...] = ("plain", "ours")
    async with LocalMongo(1, use_environment=False) as mongo:
        for victim in victims:
            for flavour in flavours:
                outcome = await one_kill(flavour, victim, mongo.uri)
                good = outcome.done == 1000 and not outcome.twice
                table.add_row(
                    "worker tree" if victim == "worker" else "Redis (AOF)",
                    "make_celery" if flavour == "ours" else "plain Celery",
                    str(outcome.done),
                    str(outcome.twice),
                    str(outcome.parked),
                    f"{outcome.seconds:.1f}",
                    "" if flavour == "plain" else ("✓" if good else "✗"),
                )
    return table


async def one_kill(flavour: Flavour, victim: Victim, mongo_uri: str) -> Outcome:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        redis = AofRedis(folder)
        redis.start()
        try:
            return await run(
                flavour,
                victim,
                redis=redis,
                mongo_uri=mongo_uri,
                database=f"kill_{flavour}_{victim}",
                folder=folder,
                patience=60.0 if flavour == "ours" else 20.0,
            )
        finally:
            redis.kill()
