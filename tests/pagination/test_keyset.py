"""Choosing indexes and bounds: functions of values, without a server."""

from __future__ import annotations

import re
from typing import Any

import pytest
from bson import MaxKey, MinKey, ObjectId

from smriti_scale.pagination.filters import read_filter
from smriti_scale.pagination.keyset import IndexPath, SortSpec, comparison, page_bounds
from smriti_scale.pagination.plan import candidates, index_for

LOW, HIGH = MinKey(), MaxKey()
FIRST, SOME, NEXT = ObjectId("0" * 24), ObjectId("0" * 23 + "5"), ObjectId("0" * 23 + "6")


def _path(
    filter: dict[str, Any], sort: list[tuple[str, int]], index: list[tuple[str, int]], **more: Any
) -> IndexPath | None:
    indexes = [{"name": "i", "key": dict(index), **more}, {"name": "_id_", "key": {"_id": 1}}]
    found, _ = candidates(indexes, SortSpec.of(sort), read_filter(filter), filter, only="i")
    return found[0].path if found else None


@pytest.mark.parametrize(
    ("filter", "sort", "index", "prefix", "reverse"),
    [
        ({}, [("t", -1)], [("t", -1), ("_id", -1)], (), False),
        ({}, [("t", -1)], [("t", 1), ("_id", 1)], (), True),
        ({"u": 1}, [("t", -1)], [("u", 1), ("t", -1), ("_id", -1)], ("u",), False),
        ({"u": 1, "v": 2}, [("t", -1)], [("v", -1), ("u", 1), ("t", 1), ("_id", 1)], ("v", "u"), True),
        ({"u": 1}, [("t", -1)], [("t", -1), ("_id", -1)], (), False),
        ({}, [("a", 1), ("b", -1)], [("a", -1), ("b", 1), ("_id", 1)], (), True),
        ({}, [("t", 1)], [("t", 1), ("_id", 1), ("x", 1)], (), False),
        ({"t": 5}, [("t", 1), ("n", 1)], [("t", 1), ("n", 1), ("_id", 1)], ("t",), False),
        ({"n": 5}, [("t", 1), ("n", 1)], [("t", 1), ("n", 1), ("_id", 1)], (), False),
        ({"n": 5}, [("t", 1), ("n", 1)], [("t", 1), ("_id", 1)], (), False),
        ({"t": {"$in": [1, 2]}}, [("t", 1)], [("t", 1), ("_id", 1)], (), False),
    ],
)
def test_an_index_serves_when_the_sort_follows_fixed_fields(
    filter: dict[str, Any],
    sort: list[tuple[str, int]],
    index: list[tuple[str, int]],
    prefix: tuple[str, ...],
    reverse: bool,
) -> None:
    path = _path(filter, sort, index)
    assert path is not None
    assert (path.prefix, path.reverse) == (prefix, reverse)


@pytest.mark.parametrize(
    ("filter", "sort", "index"),
    [
        ({}, [("t", -1)], [("t", -1)]),
        ({}, [("t", -1)], [("t", -1), ("_id", 1)]),
        ({}, [("t", -1)], [("u", 1), ("t", -1), ("_id", -1)]),
        ({"u": {"$gt": 1}}, [("t", -1)], [("u", 1), ("t", -1), ("_id", -1)]),
        ({"u": 1}, [("t", -1)], [("t", -1), ("u", 1), ("_id", -1)]),
        ({}, [("a", 1), ("b", -1)], [("a", 1), ("b", 1), ("_id", 1)]),
    ],
)
def test_an_index_in_another_order_does_not(
    filter: dict[str, Any], sort: list[tuple[str, int]], index: list[tuple[str, int]]
) -> None:
    assert _path(filter, sort, index) is None


def test_the_index_with_the_longest_prefix_and_the_fewest_fields_is_taken() -> None:
    indexes = [
        {"name": "plain", "key": {"t": -1, "_id": -1}},
        {"name": "wide", "key": {"u": 1, "t": -1, "_id": -1, "x": 1}},
        {"name": "best", "key": {"u": 1, "t": -1, "_id": -1}},
    ]
    filter = {"u": 1, "w": 2}
    found, refused = candidates(indexes, SortSpec.of([("t", -1)]), read_filter(filter), filter)
    assert [(each.path.name, each.residual) for each in found] == [
        ("best", ("w",)), ("wide", ("w",)), ("plain", ("u", "w")),
    ]  # fmt: skip
    assert refused == {}


def test_the_index_to_create_has_equalities_then_ins_then_the_sort() -> None:
    sort = SortSpec.of([("t", -1), ("n", 1)])
    assert index_for(sort, {"v": {"$in": [1, 2]}, "u": ...}) == [("u", 1), ("v", 1), ("t", -1), ("n", 1), ("_id", 1)]
    assert index_for(sort, {"n": 5, "t": {"$gt": 1}}) == [("n", 1), ("t", -1), ("_id", 1)]
    assert index_for(sort, {"t": {"$in": [1, 2]}}) == [("t", -1), ("n", 1), ("_id", 1)]


def test_bounds_begin_behind_the_anchor_and_end_with_the_prefix() -> None:
    path = _path({"u": 1}, [("t", -1), ("_id", 1)], [("u", 1), ("t", -1), ("_id", 1), ("x", -1)])
    assert path is not None
    reading = read_filter({"u": 1})
    forward = page_bounds(path, {"u": 1}, reading, anchor={"t": 7, "_id": SOME}, backward=False)
    assert forward.lower == {"u": 1, "t": 7, "_id": NEXT, "x": HIGH}
    assert forward.upper == {"u": 1, "t": LOW, "_id": HIGH, "x": LOW}
    assert not forward.drops
    backward = page_bounds(path, {"u": 1}, reading, anchor={"t": 7, "_id": SOME}, backward=True)
    assert backward.lower == {"u": 1, "t": HIGH, "_id": LOW, "x": HIGH}
    assert backward.upper == {"u": 1, "t": 7, "_id": SOME, "x": HIGH}
    first = page_bounds(path, {"u": 1}, reading, anchor=None, backward=False)
    assert (first.lower, first.upper) == (backward.lower, forward.upper)


def test_an_anchor_without_a_next_id_is_dropped_by_its_id() -> None:
    descending = _path({}, [("t", -1)], [("t", -1), ("_id", -1)])
    assert descending is not None
    for identity in (FIRST, 5, "text"):
        bounds = page_bounds(descending, {}, read_filter({}), anchor={"t": 7, "_id": identity}, backward=False)
        assert bounds.lower == {"t": 7, "_id": identity}
        assert (bounds.upper, bounds.drops, bounds.without) == (None, True, identity)


@pytest.mark.parametrize(
    ("condition", "lower", "upper"),
    [
        ({"$gte": 3}, None, {"t": 3, "_id": LOW}),
        ({"$gt": 3}, None, {"t": 3, "_id": HIGH}),
        ({"$lte": 9}, {"t": 9, "_id": HIGH}, None),
        ({"$lt": 9}, {"t": 9, "_id": LOW}, None),
        ({"$gt": 3, "$lte": 9}, {"t": 9, "_id": HIGH}, {"t": 3, "_id": HIGH}),
    ],
)
def test_a_range_on_the_first_sort_field_is_an_end_of_the_scan(
    condition: dict[str, int], lower: dict[str, Any] | None, upper: dict[str, Any] | None
) -> None:
    path = _path({}, [("t", -1)], [("t", -1), ("_id", -1)])
    assert path is not None
    bounds = page_bounds(path, {}, read_filter({"t": condition}), anchor=None, backward=False)
    assert (bounds.lower, bounds.upper) == (lower, upper)


def test_a_comparison_bounds_by_the_first_field_and_keeps_missing_with_null() -> None:
    keys = [("t", -1), ("_id", -1)]
    assert comparison(keys, {"t": 7, "_id": 5}, backward=False, inclusive=False) == [
        {"$expr": {"$lte": ["$t", {"$literal": 7}]}},
        {"$nor": [{"t": 7, "$expr": {"$not": [{"$lt": ["$_id", {"$literal": 5}]}]}}]},
    ]
    for unlike in (float("nan"), re.compile("a"), {"a": 1}):  # which a query takes for something else, or may
        _, after = comparison(keys, {"t": unlike, "_id": 5}, backward=False, inclusive=False)
        assert after["$expr"]["$or"][0] == {"$ne": ["$t", {"$literal": unlike}]}
    (only,) = comparison(keys, {"t": None, "_id": 5}, backward=True, inclusive=True)
    assert only["$expr"]["$or"][0] == {"$gt": [{"$ifNull": ["$t", None]}, {"$literal": None}]}
    assert only["$expr"]["$or"][1]["$and"][1] == {"$gte": ["$_id", {"$literal": 5}]}
