"""Pages at any depth of a million posts, and rows lost on the way, beside the other ways to page.

`SMRITI_BENCH_POSTS` sets another number of posts, `SMRITI_BENCH_PARTS` names some of `depths`, `overhead`, `losses`.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from bson import Decimal128, MinKey, ObjectId, Timestamp
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from smriti_scale.local import LocalMongo
from smriti_scale.pagination import CursorPaginator
from tests.benchmarks._machine import measure

PARTS = os.environ.get("SMRITI_BENCH_PARTS", "depths overhead losses").split()
POSTS = int(os.environ.get("SMRITI_BENCH_POSTS", "1000000"))
SECRET = "a secret of the benchmark, long enough"
NEWEST = [("created_at", -1), ("_id", -1)]
LIMIT = 20
FEED = {"visibility": {"$in": ["public", None]}}

Row = dict[str, Any]
Work = Callable[[], Awaitable[Any]]
console = Console(width=max(120, Console().width))


async def main() -> None:
    async with LocalMongo(replicas=1, cache_gb=1) as server, AsyncMongoClient[Row](server.uri, w=1) as client:
        motor: AsyncIOMotorClient[Row] = AsyncIOMotorClient(server.uri)
        await _seed(client)
        if "depths" in PARTS:
            await _depths(client.bench, motor.bench)
        if "overhead" in PARTS:
            await _overhead(client.bench, motor.bench)
        if "losses" in PARTS:
            await _losses(client.losses)
        motor.close()


async def _seed(client: AsyncMongoClient[Row]) -> None:
    """Posts of about 600 bytes, made on the server. Most are public, some unmarked as old ones are, some of circles."""
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(f"{POSTS:,} posts", total=POSTS)
        block = 50_000
        for start in range(0, POSTS, block):
            size = min(block, POSTS - start)
            moment = {"$add": [dt.datetime(2024, 1, 1), {"$multiply": ["$n", 15_000]}]}
            stages: list[Mapping[str, Any]] = [
                {"$documents": [{"n": {"$range": [start, start + size]}}]},
                {"$unwind": "$n"},
                {
                    "$project": {
                        "_id": {"$toObjectId": {"$concat": ["65920080", {"$substrBytes": [_hex_of("$n"), 0, 16]}]}},
                        "created_at": moment,
                        "author_id": {"$mod": ["$n", 5_000]},
                        "title": {"$concat": ["post ", {"$toString": "$n"}]},
                        "text": "a thought that is worth keeping " * 15,
                        "visibility": {
                            "$switch": {
                                "branches": [
                                    {"case": {"$lt": ["$n", POSTS // 5]}, "then": "$$REMOVE"},
                                    {"case": {"$eq": [{"$mod": ["$n", 4]}, 0]}, "then": "circles"},
                                ],
                                "default": "public",
                            }
                        },
                    }
                },
                {"$merge": {"into": "posts", "on": "_id", "whenMatched": "replace"}},
            ]
            await (await client.bench.aggregate(stages)).to_list()
            progress.update(task, completed=start + size)
        for keys in (NEWEST, [("visibility", 1), *NEWEST]):
            progress.update(task, description=f"index on {', '.join(str(name) for name, _ in keys)}")
            await client.bench.posts.create_index(keys)


def _hex_of(number: str) -> dict[str, Any]:
    """Sixteen digits, which are also hexadecimal ones, that grow with the number."""
    padded = {"$concat": ["0000000000000000", {"$toString": number}]}
    return {"$substrBytes": [padded, {"$subtract": [{"$strLenBytes": padded}, 16]}, 16]}


# --- depth


async def _depths(db: Any, motor: Any) -> None:
    depths = [depth for depth in (0, 1_000, 100_000, 900_000) if depth < POSTS - LIMIT] or [0]
    posts = db.posts
    ours = CursorPaginator(NEWEST, SECRET)
    methods: dict[str, Callable[[int, Row | None], Work]] = {
        "smriti_scale, PyMongo": lambda _, row: _page(ours, posts, {}, row),
        "smriti_scale, Motor": lambda _, row: _page(ours, motor.posts, {}, row),
        "bare find by the same bounds": lambda _, row: _bare(posts, row),
        "skip / limit": lambda depth, _: lambda: posts.find({}, sort=NEWEST, skip=depth, limit=LIMIT).to_list(),
        "fastapi-pagination, counting": lambda depth, _: _fastapi_pagination(posts, depth, total=True),
        "fastapi-pagination, no total": lambda depth, _: _fastapi_pagination(posts, depth, total=False),
        "naive $or": lambda _, row: lambda: _next_by_or(posts, NEWEST, row, naive_or),
        "naive $or, ascending": lambda _, row: (
            lambda: _next_by_or(posts, [("created_at", 1), ("_id", 1)], row, naive_or)
        ),
        "null-aware $or, hinted": lambda _, row: lambda: _next_by_or(posts, NEWEST, row, null_aware_or, hint=NEWEST),
    }
    feed: dict[str, Callable[[int, Row | None], Work]] = {
        "smriti_scale": lambda _, row: _page(ours, posts, FEED, row),
        "skip / limit": lambda depth, _: lambda: posts.find(FEED, sort=NEWEST, skip=depth, limit=LIMIT).to_list(),
        "naive $or": lambda _, row: lambda: _next_by_or(posts, NEWEST, row, naive_or, FEED),
    }
    feed_depths = [depth for depth in depths if depth < POSTS * 0.8 - LIMIT]
    await _depth_table(db, f"A page of {LIMIT} of {POSTS:,} posts, newest first", methods, {}, depths)
    await _depth_table(db, "The feed: visibility is public, null or missing", feed, FEED, feed_depths)


async def _depth_table(
    db: Any,
    title: str,
    methods: Mapping[str, Callable[[int, Row | None], Work]],
    filter: Mapping[str, Any],
    depths: Sequence[int],
) -> None:
    anchors: dict[int, Row | None] = {0: None}
    for depth in depths[1:]:
        found = await db.posts.find(filter, sort=NEWEST, skip=depth - 1, limit=1).to_list()
        anchors[depth] = found[0]
    table = Table(title=f"{title}: ms (index keys)", title_justify="left")
    table.add_column("")
    for depth in depths:
        table.add_column(f"depth {depth:,}", justify="right")
    table.add_column("deepest ÷ first", justify="right")
    works = {(name, depth): method(depth, anchors[depth]) for name, method in methods.items() for depth in depths}
    keys = {place: await _keys_examined(db, work) for place, work in works.items()}
    times = await _timed(works)
    for name in methods:
        ratio = times[name, depths[-1]] / times[name, depths[0]]
        mark = "" if not name.startswith("smriti_scale") else " ✓" if ratio <= 1.1 else " ✗ 1.1"
        cells = [f"{1000 * times[name, depth]:,.2f} ({keys[name, depth]:,})" for depth in depths]
        table.add_row(name, *cells, f"{ratio:,.2f}{mark}")
    console.print(table)


async def _timed(works: Mapping[Any, Work], budget: float = 25.0) -> dict[Any, float]:
    """Seconds of each piece of work, in turn and in shuffled order, so that the machine's load falls on all alike."""
    spent: dict[Any, list[float]] = {place: [] for place in works}

    async def run(place: Any) -> float:
        before = time.perf_counter()
        await works[place]()
        spent[place].append(time.perf_counter() - before)
        return spent[place][-1]

    slow = [place for place in works if await run(place) > 0.02]
    quick = [place for place in works if place not in slow]
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("measuring", total=budget)
        started = time.perf_counter()
        while (elapsed := time.perf_counter() - started) < budget:
            progress.update(task, completed=elapsed)
            random.shuffle(quick)
            for place in quick:
                await run(place)
        for place in slow:
            for _ in range(4):
                await run(place)
    return {place: _undisturbed(each) for place, each in spent.items()}


def _undisturbed(times: Sequence[float]) -> float:
    """The fastest tenth: other load on the machine only ever adds."""
    return statistics.quantiles(times, n=10)[0]


async def _keys_examined(db: Any, work: Work) -> int:
    await work()  # plans
    await db.command("profile", 2)
    await work()
    await db.command("profile", 0)
    entries = await db.system.profile.find({"ns": f"{db.name}.posts"}).to_list()
    await db.drop_collection("system.profile")
    return sum(entry.get("keysExamined", 0) for entry in entries)


def _page(paginator: CursorPaginator, posts: Any, filter: Mapping[str, Any], row: Row | None) -> Work:
    cursor = paginator.cursor_after(posts, row, filter) if row is not None else None
    return lambda: paginator.paginate(posts, filter, limit=LIMIT, cursor=cursor)


def _bare(posts: Any, row: Row | None) -> Work:
    options: dict[str, Any] = {"hint": NEWEST, "sort": NEWEST, "limit": LIMIT + 1, "batch_size": LIMIT + 1}
    if row is not None:
        before = ObjectId((int.from_bytes(row["_id"].binary, "big") - 1).to_bytes(12, "big"))
        options["min"] = {"created_at": row["created_at"], "_id": before}
        options["max"] = {"created_at": MinKey(), "_id": MinKey()}
    return lambda: posts.find({}, **options).to_list(None)


def _fastapi_pagination(posts: Any, depth: int, *, total: bool) -> Work:
    from fastapi_pagination import LimitOffsetPage, LimitOffsetParams, set_page
    from fastapi_pagination.customization import CustomizedPage, UseIncludeTotal
    from fastapi_pagination.ext.pymongo import apaginate

    chosen: Any = LimitOffsetPage[Any] if total else CustomizedPage[LimitOffsetPage[Any], UseIncludeTotal(False)]
    parameters: Any = (
        chosen.__params_type__(limit=LIMIT, offset=depth) if not total else LimitOffsetParams(limit=LIMIT, offset=depth)
    )

    async def run() -> Any:
        with set_page(chosen):
            return await apaginate(posts, {}, params=parameters, sort=NEWEST)

    return run


# --- the usual forms


def naive_or(sort: Sequence[tuple[str, int]], row: Row) -> dict[str, Any]:
    """What everyone writes: later in the first field, or level in it and later in the next."""
    arms: list[dict[str, Any]] = []
    for place, (name, direction) in enumerate(sort):
        level = {other: row.get(other) for other, _ in sort[:place]}
        arms.append(level | {name: {"$gt" if direction > 0 else "$lt": row.get(name)}})
    return {"$or": arms}


def null_aware_or(sort: Sequence[tuple[str, int]], row: Row) -> dict[str, Any]:
    """The same, with null first in ascending and last in descending order."""
    arms: list[dict[str, Any]] = []
    for place, (name, direction) in enumerate(sort):
        level = {other: row.get(other) for other, _ in sort[:place]}
        value = row.get(name)
        if direction > 0:
            arms.append(level | {name: {"$ne": None} if value is None else {"$gt": value}})
        elif value is not None:
            arms += [level | {name: {"$lt": value}}, level | {name: None}]
    return {"$or": arms} if arms else {"_id": {"$exists": False}}


Form = Callable[[Sequence[tuple[str, int]], Row], dict[str, Any]]


async def _next_by_or(
    rows: Any,
    sort: Sequence[tuple[str, int]],
    row: Row | None,
    form: Form,
    filter: Mapping[str, Any] | None = None,
    **options: Any,
) -> list[Row]:
    wanted = {**(filter or {}), **(form(sort, row) if row is not None else {})}
    found: list[Row] = await rows.find(wanted, sort=sort, limit=LIMIT, **options).to_list(None)
    return found


# --- overhead


async def _overhead(db: Any, motor: Any) -> None:
    """Our code around the find, per page: wall clock and processor time, in turn with the same bare find.

    `over it` compares the fastest tenth of both, which other load disturbs least; `middle pair` is the median of the
    differences of pages read one right after the other.
    """
    machine = await measure()
    console.print(str(machine), highlight=False)
    table = Table(title=f"Our code per page of {LIMIT}, over the bare driver's find: µs", title_justify="left")
    for column in ("driver", "bare find", "with cursors, plan and page", "over it", "middle pair", "processor time"):
        table.add_column(column, justify="left" if column == "driver" else "right")
    paginator = CursorPaginator(NEWEST, SECRET)
    row = (await db.posts.find({}, sort=NEWEST, skip=min(1_000, POSTS // 2), limit=1).to_list())[0]
    for name, posts in {"PyMongo Async": db.posts, "Motor": motor.posts}.items():
        bare, ours = _bare(posts, row), _page(paginator, posts, {}, row)
        wall: dict[Work, list[float]] = {bare: [], ours: []}
        processor: dict[Work, list[float]] = {bare: [], ours: []}
        for work in (bare, ours) * 50:
            await work()
        for turn in range(3_000):  # in turn, one by one: the machine's load falls on both alike
            for work in (bare, ours) if turn % 2 else (ours, bare):
                before = time.perf_counter()
                await work()
                wall[work].append(time.perf_counter() - before)
        for _ in range(40):  # processor time has a coarse clock: read around twenty-five pages
            for work in (bare, ours):
                before = time.process_time()
                for _ in range(25):
                    await work()
                processor[work].append((time.process_time() - before) / 25)
        over = 1e6 * (_undisturbed(wall[ours]) - _undisturbed(wall[bare]))
        pair = 1e6 * statistics.median(mine - its for mine, its in zip(wall[ours], wall[bare], strict=True))
        over_cpu = 1e6 * (_undisturbed(processor[ours]) - _undisturbed(processor[bare]))
        table.add_row(
            name,
            f"{1e6 * _undisturbed(wall[bare]):,.0f}",
            f"{1e6 * _undisturbed(wall[ours]):,.0f}",
            machine.verdict(over, 100),
            f"{pair:,.0f}",
            f"{over_cpu:,.0f}",
        )
    console.print(table)


# --- rows lost


async def _losses(db: Any) -> None:
    """Whole lists of 1,200 rows walked page by page; a row that never came, or came twice, counts."""
    randomness = random.Random(7)
    moments = [dt.datetime(2025, 1, 1) + dt.timedelta(hours=n) for n in range(200)]
    mixed: list[Any] = [
        *moments[:20], *range(20), 2.5, "text", "tekst", True, False, b"bytes", ObjectId(), Timestamp(5, 1),
        Decimal128("2.5"), {"a": 1}, None,
    ]  # fmt: skip
    kinds: dict[str, Callable[[], Row]] = {
        "ties": lambda: {"key": randomness.choice(moments)},
        "null and missing": lambda: randomness.choice([{}, {"key": None}, {"key": randomness.choice(moments)}]),
        "all BSON types": lambda: {"key": randomness.choice(mixed)},
        "NaN": lambda: {"key": randomness.choice([float("nan"), randomness.random(), randomness.randrange(5)])},
    }
    table = Table(title="Rows lost or repeated of 1,200, ascending / descending", title_justify="left")
    table.add_column("")
    walks: dict[str, dict[str, list[int]]] = {}
    for kind, make in kinds.items():
        table.add_column(kind, justify="right")
        await db.rows.drop()
        await db.rows.insert_many([make() for _ in range(1_200)])
        for direction in (1, -1):
            sort = [("key", direction), ("_id", direction)]
            await db.rows.create_index(sort)
            expected = [row["_id"] for row in await db.rows.find({}, sort=sort).to_list()]
            for name, walk in _walks(db.rows, sort).items():
                found = await walk
                wrong = len(set(expected) - set(found)) + len(found) - len(set(found))
                walks.setdefault(name, {}).setdefault(kind, []).append(wrong)
    for name, results in walks.items():
        perfect = all(wrong == 0 for pair in results.values() for wrong in pair)
        mark = "" if not name.startswith("smriti_scale") else " ✓" if perfect else " ✗"
        table.add_row(name + mark, *(" / ".join(f"{wrong:,}" for wrong in results[kind]) for kind in kinds))
    console.print(table)


def _walks(rows: Any, sort: list[tuple[str, int]]) -> dict[str, Awaitable[list[Any]]]:
    async def by_or(form: Form) -> list[Any]:
        found: list[Any] = []
        row: Row | None = None
        while page := await _next_by_or(rows, sort, row, form, hint=sort):
            found += [each["_id"] for each in page]
            row = page[-1]
            if len(found) > 5_000:
                break
        return found

    async def by_us() -> list[Any]:
        paginator = CursorPaginator(sort, SECRET)
        return [row["_id"] async for row in paginator.items(rows, limit=LIMIT)]

    return {"smriti_scale": by_us(), "naive $or": by_or(naive_or), "null-aware $or": by_or(null_aware_or)}


if __name__ == "__main__":
    asyncio.run(main())
