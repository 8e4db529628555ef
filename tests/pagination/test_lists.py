"""What a list does besides its order: aggregates, relevance, projections, jobs, totals, writers between pages."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from typing import Any

import pytest
from bson import ObjectId

from smriti_scale.errors import ConfigurationError, InvalidCursor
from smriti_scale.events import CursorRejected, Event, Events
from smriti_scale.pagination import CursorPaginator, Page
from smriti_scale.testing import ManualClock

from .walking import SECRET, Row, walk_back, walk_forward

NEWEST = [("created_at", -1), ("_id", -1)]


@pytest.fixture
async def posts(both_drivers_db: Any) -> Any:
    """Sixty posts by three people, three posts a second."""
    db = both_drivers_db
    await db.people.insert_many([{"_id": n, "name": f"person {n}"} for n in range(3)])
    await db.posts.create_index([("author.id", 1), *NEWEST])
    await db.posts.create_index(NEWEST)
    await db.posts.insert_many(
        [
            {
                "_id": n,
                "author": {"id": n % 3, "name": f"person {n % 3}"},
                "created_at": dt.datetime(2025, 1, 1) + dt.timedelta(seconds=n // 3),
                "text": "tea " * (n % 7) + "water " * (n % 3) + f"number{n}",
            }
            for n in range(60)
        ]
    )
    return db.posts


# --- aggregates


async def test_an_aggregate_runs_its_stages_on_one_page_only(posts: Any) -> None:
    paginator = CursorPaginator(NEWEST, SECRET)
    pipeline: list[dict[str, Any]] = [
        {"$match": {"author.id": 1}},
        {"$match": {"text": {"$regex": "number"}}},
        {"$lookup": {"from": "people", "localField": "author.id", "foreignField": "_id", "as": "person"}},
        {"$unwind": "$person"},
        {"$project": {"_id": 0, "number": "$_id", "name": "$person.name"}},
    ]
    seen: list[Row] = []
    cursor: str | None = None
    pages: list[Page[Row]] = []
    while True:
        page = await paginator.paginate_aggregate(posts, pipeline, limit=6, cursor=cursor, scope="ana")
        seen += page.items
        pages.append(page)
        if (cursor := page.next_cursor) is None:
            break
    assert seen == [{"number": n, "name": "person 1"} for n in range(58, 0, -3)]
    before = await paginator.paginate_aggregate(posts, pipeline, limit=6, cursor=page.previous_cursor, scope="ana")
    assert before.items == pages[-2].items
    with pytest.raises(InvalidCursor):
        await paginator.paginate_aggregate(posts, pipeline, limit=6, cursor=page.previous_cursor, scope="bo")


async def test_an_aggregate_without_stages_or_rows_is_a_page_too(posts: Any) -> None:
    paginator = CursorPaginator(NEWEST, SECRET)
    assert [row["_id"] for row in (await paginator.paginate_aggregate(posts, [], limit=2)).items] == [59, 58]
    assert (await paginator.paginate_aggregate(posts, [{"$match": {"author.id": 9}}])).items == []


@pytest.mark.parametrize(
    "stage", [{"$sort": {"x": 1}}, {"$limit": 5}, {"$group": {"_id": "$x"}}, {"$out": "x"}, {}, "x"]
)
async def test_a_stage_that_needs_the_whole_list_is_refused(db: Any, stage: Any) -> None:
    with pytest.raises(ConfigurationError):
        await CursorPaginator(NEWEST, SECRET).paginate_aggregate(db.posts, [{"$match": {}}, stage])


# --- relevance


async def test_a_search_by_relevance_is_walked_both_ways_best_first(posts: Any) -> None:
    await posts.create_index([("text", "text")])
    paginator = CursorPaginator(NEWEST, SECRET)
    search: dict[str, Any] = {"$text": {"$search": "tea water"}, "author.id": {"$ne": 0}}
    score = {"score": {"$meta": "textScore"}}
    best = posts.find(search, score).sort([*score.items(), *NEWEST])
    expected = [(row["_id"], row["score"]) for row in await best.to_list(None)]
    assert len(expected) > 30
    seen: list[Row] = []
    cursor: str | None = None
    while True:
        page = await paginator.paginate_relevance(posts, search, limit=7, cursor=cursor, score_field="score")
        seen += page.items
        if (cursor := page.next_cursor) is None:
            break
    assert [(row["_id"], row["score"]) for row in seen] == expected
    back = list(page.items)
    while page.previous_cursor is not None:
        page = await paginator.paginate_relevance(
            posts, search, limit=7, cursor=page.previous_cursor, projection={"_id": 0, "text": 1}
        )
        back = page.items + back
        assert all(set(row) == {"text"} for row in page.items)
    assert [row["text"] for row in back] == [row["text"] for row in seen]
    skipped = await paginator.paginate_relevance(posts, search, limit=5, skip=10)
    assert [row["_id"] for row in skipped.items] == [identity for identity, _ in expected[10:15]]


async def test_a_relevance_list_ends_with_its_window(posts: Any) -> None:
    await posts.create_index([("text", "text")])
    paginator = CursorPaginator(NEWEST, SECRET, total="exact")
    seen: list[Row] = []
    cursor: str | None = None
    while True:
        page = await paginator.paginate_relevance(
            posts, {"$text": {"$search": "tea"}}, cursor=cursor, limit=4, window=10
        )
        seen += page.items
        if (cursor := page.next_cursor) is None:
            break
    assert len(seen) == 10
    assert page.total == sum(1 for n in range(60) if n % 7)


async def test_cursors_of_the_same_search_in_the_two_modes_are_not_interchangeable(posts: Any) -> None:
    await posts.create_index([("text", "text")])
    paginator = CursorPaginator(NEWEST, SECRET)
    by_date = await paginator.paginate(posts, {"author.id": 1}, limit=2)
    with pytest.raises(InvalidCursor):
        await paginator.paginate_relevance(posts, {"$text": {"$search": "tea"}}, cursor=by_date.next_cursor)
    with pytest.raises(ConfigurationError, match="needs a filter with \\$text"):
        await paginator.paginate_relevance(posts, {"author.id": 1})


# --- projections


@pytest.mark.parametrize(
    "projection",
    [
        None,
        {},
        {"text": 1},
        ["text", "created_at"],
        {"text": 1, "_id": 0},
        {"_id": 0},
        {"_id": 1},
        {"created_at": 0},
        {"author.name": 0, "created_at": False},
        {"author": 0, "_id": 0},
        {"author.name": 1, "created_at": 1},
        {"text": {"$substrCP": ["$text", 0, 3]}, "created_at": "$author.name"},
        {"author": 1, "_id": True},
    ],
)
async def test_a_projection_gives_what_find_gives_even_without_the_sort_fields(posts: Any, projection: Any) -> None:
    sort = [("author.id", 1), ("created_at", -1), ("_id", -1)]
    paginator = CursorPaginator(sort, SECRET)
    expected = await posts.find({}, projection).sort(sort).to_list(None)
    seen: list[Row] = []
    cursor: str | None = None
    while True:
        page = await paginator.paginate(posts, limit=13, cursor=cursor, projection=projection)
        seen += page.items
        if (cursor := page.next_cursor) is None:
            break
    assert seen == expected


# --- jobs


async def test_pages_and_items_walk_to_the_end_and_resume_from_a_cursor(posts: Any) -> None:
    paginator = CursorPaginator(NEWEST, SECRET)
    pages = [page async for page in paginator.pages(posts, {"author.id": 1}, limit=8)]
    assert [len(page.items) for page in pages] == [8, 8, 4]
    rest = [page async for page in paginator.pages(posts, {"author.id": 1}, limit=8, cursor=pages[0].next_cursor)]
    assert [row["_id"] for page in rest for row in page.items] == [
        row["_id"] for page in pages[1:] for row in page.items
    ]
    items = [row async for row in paginator.items(posts, {"author.id": 1}, limit=6)]
    assert [row["_id"] for row in items] == list(range(58, 0, -3))
    place = paginator.cursor_after(posts, items[4], {"author.id": 1})
    after = [row["_id"] async for row in paginator.items(posts, {"author.id": 1}, cursor=place)]
    assert after == [row["_id"] for row in items[5:]]
    assert [page async for page in paginator.pages(posts, {"author.id": 9})] == []


async def test_a_job_that_deletes_what_it_reads_reads_everything(posts: Any) -> None:
    paginator = CursorPaginator(NEWEST, SECRET)
    seen: list[int] = []
    async for page in paginator.pages(posts, limit=7):
        seen += [row["_id"] for row in page.items]
        await posts.delete_many({"_id": {"$in": [row["_id"] for row in page.items]}})
    assert seen == list(range(59, -1, -1))


# --- totals, limits, expiry, events


async def test_totals_are_counted_to_their_bound(posts: Any) -> None:
    for total, most, filter, expected in (
        ("exact", 10_000, {}, (60, True)),
        ("exact", None, {"author.id": 1}, (20, True)),
        ("exact", 20, {"author.id": 1}, (20, True)),
        ("exact", 19, {"author.id": 1}, (19, False)),
        ("estimated", 10, {}, (60, False)),
        ("estimated", 10, {"author.id": 1}, (10, False)),
        ("none", 10, {}, (None, True)),
    ):
        paginator = CursorPaginator(NEWEST, SECRET, total=total, max_total=most)  # type: ignore[arg-type]
        first = await paginator.paginate(posts, filter, limit=5)
        second = await paginator.paginate(posts, filter, limit=5, cursor=first.next_cursor)
        for page in (first, second):
            assert (page.total, page.total_is_exact) == expected


async def test_a_page_that_fails_does_not_leave_its_count_running(posts: Any) -> None:
    paginator = CursorPaginator([("text", 1)], SECRET, total="exact")
    before = asyncio.all_tasks()
    with pytest.raises(ConfigurationError, match="no index serves"):
        await paginator.paginate(posts)
    left = [task for task in asyncio.all_tasks() - before if "_count" in repr(task.get_coro())]
    if left:  # a driver takes a moment to close the connection of a call that is cancelled
        _, running = await asyncio.wait(left, timeout=30)
        assert not running


async def test_a_row_without_its_id_has_no_place_and_a_scope_is_text(db: Any) -> None:
    paginator = CursorPaginator(NEWEST, SECRET)
    with pytest.raises(ConfigurationError, match="_id"):
        paginator.cursor_after(db.posts, {"created_at": 1})
    with pytest.raises(ConfigurationError, match="must be text"):
        paginator.cursor_after(db.posts, {"_id": 1}, scope=7)  # type: ignore[arg-type]


async def test_limits_and_skips_out_of_bounds_are_refused(db: Any) -> None:
    paginator = CursorPaginator(NEWEST, SECRET, default_limit=5, max_limit=10)
    for limit, skip in ((0, 0), (11, 0), (-1, 0), (5, -1), (5, 1 << 63)):
        with pytest.raises(ConfigurationError):
            await paginator.paginate(db.posts, limit=limit, skip=skip)


@pytest.mark.parametrize(
    "arguments",
    [
        {"sort": []}, {"sort": "created_at"}, {"sort": ["a"]}, {"sort": [("a", 2)]}, {"sort": [("a", True)]},
        {"sort": [("a", 1), ("a", -1)]}, {"sort": [("_id", 1), ("a", 1)]}, {"sort": [("", 1)]}, {"sort": [("$a", 1)]},
        {"sort": [("a..b", 1)]},
        {"sort": [(name, 1) for name in "abcde"]}, {"secret": "short"}, {"default_limit": 0}, {"default_limit": 200},
        {"total": "some"}, {"max_total": 0}, {"expires": 0}, {"expires": -1}, {"max_merge": 0}, {"max_merge": 201},
        {"collation": "en"}, {"collation": {"strength": 2}},
    ],
)  # fmt: skip
def test_arguments_that_cannot_work_are_refused_when_the_paginator_is_made(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        CursorPaginator(**({"sort": NEWEST, "secret": SECRET} | arguments))


async def test_a_cursor_expires_and_its_refusal_is_an_event(posts: Any, clock: ManualClock) -> None:
    heard: list[Event] = []
    paginator = CursorPaginator(NEWEST, SECRET, expires=60, clock=clock, events=Events(heard.append))
    page = await paginator.paginate(posts, limit=2)
    clock.advance(61)
    with pytest.raises(InvalidCursor) as refusal:
        await paginator.paginate(posts, limit=2, cursor=page.next_cursor)
    assert (refusal.value.reason, str(refusal.value)) == ("expired", "invalid cursor")
    with pytest.raises(InvalidCursor):
        await paginator.paginate(posts, limit=2, cursor="")
    assert heard == [CursorRejected("expired"), CursorRejected("malformed")]


# --- writers between pages


async def test_deleting_the_row_a_cursor_names_changes_nothing_for_the_others(posts: Any) -> None:
    paginator = CursorPaginator(NEWEST, SECRET)
    first = await paginator.paginate(posts, limit=10)
    second = await paginator.paginate(posts, limit=10, cursor=first.next_cursor)
    await posts.delete_many({"_id": {"$in": [first.items[-1]["_id"], second.items[0]["_id"], second.items[-1]["_id"]]}})
    again = await paginator.paginate(posts, limit=9, cursor=first.next_cursor)
    assert [row["_id"] for row in again.items] == [48, 47, 46, 45, 44, 43, 42, 41, 39]
    before = await paginator.paginate(posts, limit=20, cursor=second.previous_cursor)
    assert [row["_id"] for row in before.items] == list(range(59, 50, -1))


async def test_when_all_that_follows_is_deleted_the_way_back_misses_no_row(posts: Any) -> None:
    paginator = CursorPaginator(NEWEST, SECRET)
    first = await paginator.paginate(posts, limit=10)
    await posts.delete_many({"_id": {"$lt": 50}})
    empty = await paginator.paginate(posts, limit=10, cursor=first.next_cursor)
    assert (empty.items, empty.has_next, empty.has_previous) == ([], False, True)
    back = await paginator.paginate(posts, limit=10, cursor=empty.previous_cursor)
    assert [row["_id"] for row in back.items] == list(range(59, 49, -1))
    await posts.delete_many({"_id": {"$gt": 54}})
    nothing = await paginator.paginate(posts, limit=10, cursor=_backward_from(paginator, posts, 54))
    assert (nothing.items, nothing.has_previous, nothing.has_next) == ([], False, True)
    forward = await paginator.paginate(posts, limit=10, cursor=nothing.next_cursor)
    assert [row["_id"] for row in forward.items] == [54, 53, 52, 51, 50]


def _backward_from(paginator: CursorPaginator, posts: Any, number: int) -> str:
    from smriti_scale.pagination import Position

    binding = paginator.codec.bind(sort=paginator.sort.keys, filter={}, collection="posts", options=posts.codec_options)
    moment = dt.datetime(2025, 1, 1) + dt.timedelta(seconds=number // 3)
    return paginator.codec.encode(Position((moment, number), backward=True), binding)


@pytest.mark.long
async def test_writers_between_pages_neither_repeat_nor_hide_the_rows_they_leave_alone(both_drivers_db: Any) -> None:
    """Three writers insert and delete as fast as they can, everywhere in the list, while it is walked both ways."""
    db = both_drivers_db
    start = dt.datetime(2025, 1, 1)
    await db.rows.create_index([("at", -1), ("_id", -1)])
    await db.rows.create_index([("kind", 1), ("at", -1), ("_id", -1)])
    await db.rows.insert_many(
        [
            {"_id": ObjectId(), "stays": True, "at": start + dt.timedelta(seconds=n // 5), "kind": n % 2}
            for n in range(300)
        ]
    )
    expected = {row["_id"] for row in await db.rows.find({}).to_list(None)}
    stop = asyncio.Event()
    writes = before = 0

    async def write(seed: int) -> None:
        nonlocal writes
        randomness = random.Random(seed)
        mine: list[ObjectId] = []
        while not stop.is_set():
            row = {
                "_id": ObjectId(),
                "at": start + dt.timedelta(seconds=randomness.uniform(-5, 65)),
                "kind": randomness.randrange(2),
            }
            await db.rows.insert_one(row)
            mine.append(row["_id"])  # type: ignore[arg-type]
            if len(mine) > 10:
                await db.rows.delete_one({"_id": mine.pop(randomness.randrange(len(mine)))})
            writes += 1

    writers = [asyncio.create_task(write(seed)) for seed in range(3)]
    try:
        paginator = CursorPaginator([("at", -1)], SECRET)
        for filter in ({}, {"kind": {"$in": [0, 1, None]}}):
            forward, last = await walk_forward(paginator, db.rows, filter, limit=11)
            backward = await walk_back(paginator, db.rows, filter, last, limit=11)
            for rows in (forward, backward):
                found = [row["_id"] for row in rows]
                assert len(found) == len(set(found)), "a row came twice"
                assert expected <= set(found), "a row that was never touched is missing"
                assert found == [row["_id"] for row in sorted(rows, key=lambda r: (r["at"], r["_id"]), reverse=True)]
            assert writes > before, "nobody wrote meanwhile"
            before = writes
    finally:
        stop.set()
        await asyncio.gather(*writers)
