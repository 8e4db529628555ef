"""Random collections of every BSON type, walked page by page, beside two full sorts: Python's and the server's."""

from __future__ import annotations

import datetime as dt
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
from bson import Binary, Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from hypothesis import HealthCheck, given, settings, strategies as st
from pymongo import WriteConcern

from smriti_scale.pagination import CursorPaginator

from .bson_order import exact, in_order
from .walking import SECRET, walk_back, walk_forward

SORTS: list[list[tuple[str, int]]] = [
    [("a", 1)],
    [("a", -1), ("b.c", 1), ("_id", -1)],
    [("a", 1), ("b.c", -1), ("d", -1)],
]
PREFIXES: list[list[str]] = [[], ["p"], ["circles"]]
FILTERS: list[dict[str, Any]] = [
    {},
    {"p": 1},
    {"p": None},
    {"p": {"$in": [1, None]}},
    {"p": {"$in": [1, "x", True]}},
    {"circles": "red"},
    {"circles": {"$in": ["red", "blue"]}},
    {"$and": [{"p": {"$eq": "x"}}, {"e": {"$ne": 3}}]},
    {"a": {"$gte": 2}},
    {"a": {"$lt": 2}, "p": 1},
    {"a": {"$gt": dt.datetime(2020, 1, 1), "$lte": dt.datetime(2024, 1, 1)}},
]

numbers = st.one_of(
    st.integers(-3, 3),
    st.integers(-(2**63), 2**63 - 1).map(Int64),
    st.floats(width=64),
    st.sampled_from([0.0, -0.0, 2.5, math.nan, math.inf, -math.inf, 2**53 + 1, float(2**53)]),
    st.sampled_from(["NaN", "-Infinity", "Infinity", "1", "1.0", "2.50", "0.1", "9007199254740993", "-0"]).map(
        Decimal128
    ),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    numbers,
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=3),
    st.sampled_from(["a", "A", "ä", "aa", "", "😀", "ｱ"]),
    st.binary(max_size=3),
    st.builds(Binary, st.binary(max_size=3), st.sampled_from([0, 5, 128])),
    st.binary(min_size=12, max_size=12).map(ObjectId),
    st.sampled_from([ObjectId("0" * 24), ObjectId("f" * 24)]),
    st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2100, 1, 1)).map(
        lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    ),
    # Not 0: the server puts its own time in place of an empty timestamp.
    st.builds(Timestamp, st.integers(1, 2**32 - 1), st.integers(0, 3)),
    st.builds(Regex, st.sampled_from(["a", "b", "^c"]), st.sampled_from([0, 2])),
    st.sampled_from([Code("f"), Code("g"), Code("f", {}), Code("f", {"x": 1}), MinKey(), MaxKey()]),
)
values = st.one_of(
    scalars,
    st.dictionaries(st.sampled_from(["x", "y", "z"]), scalars, max_size=2),
)
ties = st.sampled_from([1, 1.0, 2, None, "t", math.nan])
identities = st.one_of(
    st.integers(-5, 50),
    st.text("ab", max_size=4),
    st.floats(0, 3, width=16),
    st.binary(min_size=12, max_size=12).map(ObjectId),
)


@st.composite
def collections(draw: st.DrawFn) -> list[dict[str, Any]]:
    rows = []
    some = st.one_of(values, ties)
    for identity in draw(st.lists(identities, max_size=30, unique_by=_as_key)):
        row: dict[str, Any] = {"_id": identity}
        for name, strategy in (
            ("a", some),
            ("d", ties),
            ("p", st.sampled_from([1, "x", None, True])),
            ("e", st.integers(1, 3)),
        ):
            if draw(st.integers(0, 5)):
                row[name] = draw(strategy)
        if draw(st.booleans()):
            row["b"] = draw(st.one_of(st.fixed_dictionaries({"c": some}), st.just({}), st.just(7)))
        row["circles"] = draw(st.lists(st.sampled_from(["red", "blue", "green"]), max_size=3))
        rows.append(row)
    return rows


def _as_key(identity: Any) -> Any:
    """1 and 1.0 are one key to the server."""
    return ("number", float(identity)) if isinstance(identity, (int, float)) else identity


def matches(row: dict[str, Any], number: int) -> bool:
    """Whether the row matches `FILTERS[number]`, told in Python."""
    place, colours = row.get("p"), row["circles"]
    a: Any = row.get("a")
    is_one = place == 1 and place is not True
    answers: list[Callable[[], bool]] = [
        lambda: True,
        lambda: is_one,
        lambda: place is None,
        lambda: is_one or place is None,
        lambda: is_one or place == "x" or place is True,
        lambda: "red" in colours,
        lambda: "red" in colours or "blue" in colours,
        lambda: place == "x" and row.get("e") != 3,
        lambda: _is_number(a) and exact(a) >= 2,
        lambda: is_one and _is_number(a) and exact(a) < 2,
        lambda: isinstance(a, dt.datetime) and dt.datetime(2020, 1, 1) < a <= dt.datetime(2024, 1, 1),
    ]
    return answers[number]()


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal128)):
        return False
    return not exact(value).is_nan()


async def _collection(db: Any) -> Any:
    rows = db.get_collection("rows", write_concern=WriteConcern(w=1))
    if not await rows.index_information():
        for sort, prefix in itertools.product(SORTS, PREFIXES):
            keys = sort if ("_id" in dict(sort)) else [*sort, ("_id", sort[-1][1])]
            await rows.create_index([*((name, 1) for name in prefix), *keys])
    return rows


async def _walk(db: Any, documents: list[dict[str, Any]], sort: list[tuple[str, int]], number: int, limit: int) -> None:
    rows = await _collection(db)
    await rows.delete_many({})
    if documents:
        await rows.insert_many(documents)
    paginator = CursorPaginator(sort, SECRET)
    full = list(paginator.sort.keys)
    filter = FILTERS[number]
    by_python = [repr(row["_id"]) for row in in_order([row for row in documents if matches(row, number)], full)]
    # $natural takes the indexes out of the server's answer: it sorts everything in memory.
    by_server = [repr(row["_id"]) for row in await rows.find(filter, hint=[("$natural", 1)], sort=full).to_list(None)]
    assert by_server == by_python
    forward, last = await walk_forward(paginator, rows, filter, limit=limit)
    assert [repr(row["_id"]) for row in forward] == by_python
    assert [repr(row["_id"]) for row in await walk_back(paginator, rows, filter, last, limit=limit)] == by_python


WALKS = given(
    documents=collections(),
    sort=st.sampled_from(SORTS),
    turned=st.booleans(),
    number=st.integers(0, len(FILTERS) - 1),
    limit=st.integers(1, 12),
)
# The database is the same for all examples of a test: each empties it first.
CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.mark.parametrize("mongo_driver", ["motor", "pymongo"], indirect=True)
@settings(max_examples=25, deadline=None, suppress_health_check=CHECKS)
@WALKS
async def test_every_row_comes_once_and_in_order_whatever_its_types(
    db: Any, documents: list[dict[str, Any]], sort: list[tuple[str, int]], turned: bool, number: int, limit: int
) -> None:
    await _walk(db, documents, _turned(sort) if turned else sort, number, limit)


@pytest.mark.long
@pytest.mark.parametrize("mongo_driver", ["motor", "pymongo"], indirect=True)
@settings(max_examples=400, deadline=None, suppress_health_check=CHECKS)
@WALKS
async def test_every_row_comes_once_in_many_more_collections(
    db: Any, documents: list[dict[str, Any]], sort: list[tuple[str, int]], turned: bool, number: int, limit: int
) -> None:
    await _walk(db, documents, _turned(sort) if turned else sort, number, limit)


def _turned(sort: list[tuple[str, int]]) -> list[tuple[str, int]]:
    return [(name, -direction) for name, direction in sort]
