"""Rate limits beside slowapi and limits: one decision against one raw EVALSHA, and whole requests over uvicorn.

Each row is measured in turns with what it is compared to, in the same run: read the ratios, not the figures. Where
there are cores for it, the server has one to itself. `SMRITI_BENCH_PARTS=decisions,strategies,requests,unrelated`
names the parts to run.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from starlette.requests import Request

from smriti_scale.local import LocalRedis
from smriti_scale.ratelimit import LeasePolicy, RateLimiter, client_address
from smriti_scale.ratelimit.memory_store import MemoryStore
from smriti_scale.ratelimit.redis_store import RedisStore, script_source
from smriti_scale.ratelimit.rules import Check, Strategy, parse_limits
from smriti_scale.redis_link import RedisLink, RedisScript

SECONDS = float(os.environ.get("SMRITI_BENCH_SECONDS", "3"))
REQUEST_ROUNDS = int(os.environ.get("SMRITI_BENCH_ROUNDS", "12"))
UNRELATED_ROUNDS = int(os.environ.get("SMRITI_BENCH_ROUNDS", "5"))
STARTS = 4
CONNECTIONS = 16
WRK = shutil.which("wrk")
BUNDLE = 16
LIMIT = "1000000000/hour"
Work = Callable[[], Awaitable[object]]
console = Console(width=max(110, Console().width))


PARTS = os.environ.get("SMRITI_BENCH_PARTS", "decisions,strategies,requests,unrelated").split(",")
PRODUCTION, PLAIN = ("uvloop", "httptools"), ("asyncio", "h11")
"""Uvicorn's event loop and parser: as `uvicorn[standard]` installs them, and what there is without."""


async def main() -> None:
    async with LocalRedis() as server:
        if "decisions" in PARTS:
            await _decisions(server.uri)
        if "strategies" in PARTS:
            await _strategies(server.uri)
        _keep_off_the_servers_core()
        if "requests" in PARTS:
            await _requests(server.uri, PRODUCTION, VARIANTS)
            await _requests(server.uri, PLAIN, ("unlimited", "ours redis headers", "slowapi redis headers"))
        if "unrelated" in PARTS:
            await _unrelated_route(server.uri)


def _cores() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def _keep_off_the_servers_core() -> None:
    """Leave the last core to the server; Redis, proxy and clients take the others."""
    if len(CORES) > 1:
        os.sched_setaffinity(0, CORES[:-1])


CORES = _cores()


async def _p50(works: dict[str, Work], *, calls: int = 3000) -> dict[str, float]:
    """Median microseconds of a call; the works take turns call by call, so that all meet the same weather."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(calls):
        for name, work in works.items():
            began = time.perf_counter()
            await work()
            taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) * 1e6 for name, times in taken.items()}


def _check(strategy: Any = "fixed-window") -> Check:
    (rule,) = parse_limits(LIMIT, strategy)
    return Check(rule, "198.51.100.7", f"{rule.key} /x", 1, False, None, ("198.51.100.7", "/x"))


async def _decisions(url: str) -> None:
    from limits import parse
    from limits.aio.strategies import FixedWindowRateLimiter as AsyncFixedWindow
    from limits.storage import storage_from_string
    from slowapi import Limiter

    limiter = RateLimiter(client_address(), storage_uri=url, key_prefix="bench", redis_timeout=5.0)
    leased = RateLimiter(
        client_address(), storage_uri=url, key_prefix="lease", redis_timeout=5.0, leases=LeasePolicy(ttl=60.0)
    )
    memory = MemoryStore()
    theirs = Limiter(key_func=lambda: "x", storage_uri=url)
    in_memory = Limiter(key_func=lambda: "x")
    awaited = AsyncFixedWindow(storage_from_string(f"async+{url}", implementation="redispy"))
    item = parse(LIMIT)
    check = _check()
    engine, leasing = limiter._engine, leased._engine
    in_memory_meter, leased_meter = memory.meter((check,)), leasing.meter((check,))  # as a known caller is decided for
    in_memory_meter()
    link = RedisLink(url)
    script = RedisScript(script_source())
    keys = ["bench:raw:{198.51.100.7}"]
    arguments: list[str | int] = [0, 0, 0, 0, 0, 0, 0, 1, 0, check.field, *check.rule.static, 1, 1, 0]
    await script.run(link.client, keys, arguments)

    async def raw() -> object:
        return await link.client.evalsha(script.sha, 1, *keys, *arguments)

    async def floor() -> object:
        return await link.client.get("nothing")

    async def with_headers() -> None:
        theirs.limiter.hit(item, "a", "b")
        theirs.limiter.get_window_stats(item, "a", "b")

    async def slow() -> object:
        return theirs.limiter.hit(item, "a", "b")

    async def slow_memory() -> object:
        return in_memory.limiter.hit(item, "a", "b")

    async def ours_memory() -> object:
        return in_memory_meter()

    async def ours() -> object:
        return await engine.decide((check,), None)

    async def ours_leased() -> object:
        return leased_meter() or await leasing.decide((check,), None)

    async def limits_aio() -> object:
        return await awaited.hit(item, "a", "b")

    found = await _p50(
        {
            "redis GET (the floor)": floor,
            "raw EVALSHA, same script": raw,
            "ours, Redis": ours,
            "ours, leased": ours_leased,
            "ours, memory": ours_memory,
            "limits.aio, Redis": limits_aio,
            "slowapi, Redis (blocks the loop)": slow,
            "slowapi, Redis, with headers": with_headers,
            "slowapi, memory": slow_memory,
        }
    )
    table = Table("decision", "p50 µs", "× raw EVALSHA", "figure", title="one decision, one limit, fixed window")
    for name, micros in found.items():
        ratio = micros / found["raw EVALSHA, same script"]
        mark = ("≤ 1.15 " + ("✓" if ratio <= 1.15 else "✗")) if name == "ours, Redis" else ""
        table.add_row(name, f"{micros:.1f}", f"{ratio:.2f}", mark)
    console.print(table)
    await asyncio.gather(limiter.aclose(), leased.aclose(), link.aclose())


async def _strategies(url: str) -> None:
    store = RedisStore(RedisLink(url), prefix="strategies", timeout=5.0)
    names: tuple[Strategy, ...] = ("fixed-window", "sliding-window-counter", "moving-window", "gcra")
    works: dict[str, Work] = {}
    for strategy in names:
        rule = parse_limits("1000/second" if strategy == "moving-window" else LIMIT, strategy)[0]
        check = Check(rule, "a", f"{rule.key} /x", 1, False, None, ("a", "/x"))
        works[strategy] = functools.partial(store.decide, (check,))
    four = tuple(_check(strategy) for strategy in names if strategy != "moving-window")
    works["three limits at once"] = functools.partial(store.decide, four)
    found = await _p50(works, calls=1500)
    table = Table("strategy", "p50 µs", title="in Redis, by strategy")
    for name, micros in found.items():
        table.add_row(name, f"{micros:.1f}")
    console.print(table)
    await store.link.aclose()


VARIANTS = (
    "unlimited",
    "ours memory",
    "ours memory headers",
    "slowapi memory headers",
    "ours redis headers",
    "slowapi redis headers",
    "ours leases",
)


def application(variant: str, url: str) -> Any:
    """A tiny application, limited in one of the ways."""
    from slowapi import Limiter, _rate_limit_exceeded_handler
    from slowapi.errors import RateLimitExceeded
    from slowapi.util import get_remote_address
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse, Response
    from starlette.routing import Route

    from smriti_scale.ratelimit import setup_rate_limiting

    async def page(request: Request) -> Response:
        return PlainTextResponse("ok")

    async def free(request: Request) -> Response:
        return PlainTextResponse("ok")

    if variant == "unlimited":
        return Starlette(routes=[Route("/x", page)])
    whose, where, *more = variant.split()
    if where == "leases":
        where, more = "redis", ["leases"]
    storage = url if where == "redis" else "memory://"
    headers = "headers" in more
    if whose == "slowapi":
        limiter = Limiter(key_func=get_remote_address, storage_uri=storage, headers_enabled=headers)
        app = Starlette(routes=[Route("/x", limiter.limit(LIMIT)(page)), Route("/free", free)])
        app.state.limiter = limiter
        app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)  # type: ignore[arg-type]
        return app
    ours = RateLimiter(
        client_address(),
        storage_uri=storage,
        headers_enabled=headers,
        redis_timeout=1.0,
        key_prefix=variant.replace(" ", "-"),
        leases=LeasePolicy() if "leases" in more else None,
    )
    app = Starlette(routes=[Route("/x", ours.limit(LIMIT)(page)), Route("/free", free)])
    setup_rate_limiting(app, ours)
    return app


def build() -> Any:
    """For uvicorn: the variant is named in the environment."""
    return application(os.environ["SMRITI_BENCH_VARIANT"], os.environ["SMRITI_BENCH_REDIS"])


@contextlib.asynccontextmanager
async def _served(variant: str, url: str, machinery: tuple[str, str] = PRODUCTION) -> AsyncIterator[tuple[int, int]]:
    """Port and process id of a server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "uvicorn", "tests.benchmarks.ratelimit:build", "--factory", "--port", str(port),
        "--log-level", "error", "--no-access-log", "--loop", machinery[0], "--http", machinery[1],
        env={**os.environ, "SMRITI_BENCH_VARIANT": variant, "SMRITI_BENCH_REDIS": url},
        cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        if len(CORES) > 1:
            os.sched_setaffinity(process.pid, CORES[-1:])
        for _ in range(200):
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                break
            await asyncio.sleep(0.1)
        yield port, process.pid
    finally:
        process.terminate()
        await process.wait()


async def _load(port: int, seconds: float) -> float:
    """Requests a second over kept-alive connections: by `wrk` where there is one, which costs next to nothing."""
    if WRK is None:
        return await _load_in_bundles(port, seconds)
    process = await asyncio.create_subprocess_exec(
        WRK, "-t1", f"-c{CONNECTIONS}", f"-d{max(1, round(seconds))}s", f"http://127.0.0.1:{port}/x",
        stdout=subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    rate = re.search(rb"Requests/sec:\s+([\d.]+)", out)
    if rate is None or b"Non-2xx" in out:
        raise RuntimeError(f"the server refused: {out.decode()}")
    return float(rate[1])


async def _load_in_bundles(port: int, seconds: float) -> float:
    """As `_load`, without `wrk`.

    Each connection writes its requests in bundles, which the server answers one by one: so the client costs little,
    though the server reads less often than it would otherwise.
    """
    done = 0
    end = time.perf_counter() + seconds
    bundle = b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n" * BUNDLE

    async def ask() -> None:
        nonlocal done
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < end:
            writer.write(bundle)
            read = b""
            while read.count(b"\r\n\r\nok") < BUNDLE:
                if not (chunk := await reader.read(65_536)) or b"HTTP/1.1 4" in chunk or b"HTTP/1.1 5" in chunk:
                    raise RuntimeError(f"the server refused: {chunk[:200]!r}")
                read += chunk
            done += BUNDLE
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(CONNECTIONS)))
    return done / (time.perf_counter() - began)


def _cpu_seconds(pid: int) -> float:
    """CPU time that a process has used; 0 where there is no /proc."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


async def _requests(url: str, machinery: tuple[str, str], variants: tuple[str, ...]) -> None:
    rates: dict[str, list[float]] = {variant: [] for variant in variants}
    costs: dict[str, list[float]] = {variant: [] for variant in variants}
    for _ in range(STARTS):  # one process is faster than another of the same program by some per cent, all its life
        async with contextlib.AsyncExitStack() as servers:
            served = {
                variant: await servers.enter_async_context(_served(variant, url, machinery)) for variant in variants
            }
            for port, _ in served.values():
                await _load(port, 1)
            for _ in range(max(1, REQUEST_ROUNDS // STARTS)):  # in turns, so that all meet the same weather
                for variant, (port, pid) in served.items():
                    used = _cpu_seconds(pid)
                    began = time.perf_counter()
                    rate = await _load(port, 1)
                    costs[variant].append((_cpu_seconds(pid) - used) / (rate * (time.perf_counter() - began)) * 1e6)
                    rates[variant].append(rate)

    def ratio(variant: str, base: str) -> float:
        """The middle of what the rounds say."""
        return statistics.median(ours / theirs for ours, theirs in zip(rates[variant], rates[base], strict=True))

    figures = {
        "ours memory": ("unlimited", 0.85, "of unlimited"),
        "ours redis headers": ("slowapi redis headers", 2.0, "× slowapi's"),
        "ours leases": ("unlimited", 0.80, "of unlimited"),
    }
    title = (
        f"uvicorn on {' and '.join(machinery)}, one worker, a tiny route; medians of {len(rates['unlimited'])} rounds"
    )
    table = Table("whole requests", "req/s", "of unlimited", "CPU µs", "of unlimited, by CPU", "figure", title=title)
    bare = statistics.median(costs["unlimited"])
    for variant in variants:
        mark = ""
        if variant in figures:
            base, wanted, of = figures[variant]
            found = ratio(variant, base)
            mark = f"{found:.2f} {of}, ≥ {wanted:g} {'✓' if found >= wanted else '✗'}"
        cost = statistics.median(costs[variant])
        by_cpu = f"{bare / cost:.0%}" if cost else ""
        rate = statistics.median(rates[variant])
        table.add_row(variant, f"{rate:,.0f}", f"{ratio(variant, 'unlimited'):.0%}", f"{cost:.0f}", by_cpu, mark)
    console.print(table)


async def _unrelated_route(url: str) -> None:
    """The latency of a route without limit, alone and while eight clients ask a limited one of a Redis 50 ms away."""
    from smriti_scale.testing import FaultProxy

    table = Table(
        "Redis 50 ms away", "p99 ms alone", "under load", "ratio", "probes/s", "limited answers/s", "figure",
        title=f"median of the p99 of {UNRELATED_ROUNDS} rounds",
    )  # fmt: skip
    async with FaultProxy(url) as proxy:
        for variant in ("ours redis headers", "slowapi redis headers"):
            await proxy.heal()
            async with _served(variant, proxy.uri) as (port, _):
                await _load(port, 0.3)
                await proxy.delay(0.05)
                alone, crowded, probes, answers = [], [], 0, 0
                for _ in range(UNRELATED_ROUNDS):  # in turns, so that both meet the same weather
                    alone.append(_p99(await _probed(port, "/free", SECONDS)))
                    load = [asyncio.create_task(_asking(port, "/x", SECONDS + 1)) for _ in range(8)]
                    await asyncio.sleep(0.3)
                    found = await _probed(port, "/free", SECONDS)
                    crowded.append(_p99(found))
                    probes += len(found)
                    answers += sum(await asyncio.gather(*load))
            before, after = statistics.median(alone), statistics.median(crowded)
            mark = f"≤ 1.5 {'✓' if after <= 1.5 * before else '✗'}" if variant.startswith("ours") else ""
            time_probed = SECONDS * UNRELATED_ROUNDS
            counts = (f"{probes / time_probed:,.0f}", f"{answers / (time_probed + UNRELATED_ROUNDS):,.0f}")
            table.add_row(variant, f"{before:.2f}", f"{after:.2f}", f"{after / before:.2f}", *counts, mark)
    console.print(table)


async def _probed(port: int, path: str, seconds: float) -> list[float]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.benchmarks._latency", str(port), path, str(seconds),
        cwd=Path(__file__).parents[2], stdout=subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    found: list[float] = json.loads(out)
    return found


async def _asking(port: int, path: str, seconds: float) -> int:
    """Ask one after the other; returns how many were answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answered = 0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(2)
        answered += 1
        await asyncio.sleep(0.002)
    writer.close()
    return answered


def _p99(taken: list[float]) -> float:
    return sorted(taken)[int(len(taken) * 0.99)]
