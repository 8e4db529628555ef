"""What a filter says about each field, read without a server."""

from __future__ import annotations

import re
from typing import Any

import pytest
from bson import Regex

from smriti_scale.errors import ConfigurationError
from smriti_scale.pagination.filters import Bound, read_filter


@pytest.mark.parametrize(
    ("filter", "equal"),
    [
        ({"a": 1}, {"a": 1}),
        ({"a": None}, {"a": None}),
        ({"a": {"$eq": 1}}, {"a": 1}),
        ({"a": {"$in": [1]}}, {"a": 1}),
        ({"a": {"$in": [1, 1.0]}}, {"a": 1}),
        ({"a": {"x": 1}}, {"a": {"x": 1}}),
        ({"a": {}}, {"a": {}}),
        ({"$and": [{"a": 1}, {"$and": [{"b": 2}]}], "$comment": "why"}, {"a": 1, "b": 2}),
    ],
)
def test_these_fix_a_field_to_one_value(filter: dict[str, Any], equal: dict[str, Any]) -> None:
    reading = read_filter(filter)
    assert reading.equal == equal
    assert not reading.residual


@pytest.mark.parametrize(
    "condition",
    [
        [1, 2],
        {"$eq": [1]},
        re.compile("x"),
        Regex("x"),
        {"$in": [re.compile("x")]},
        {"$in": [[1]]},
        {"$ne": 1},
        {"$exists": True},
        {"$gt": None},
        {"$gt": float("nan")},
        {"$not": {"$gt": 1}},
        {"$in": list(range(21))},
    ],
)
def test_these_are_left_to_the_server(condition: Any) -> None:
    reading = read_filter({"a": condition})
    assert list(reading.residual) == ["a"]
    assert not reading.equal
    assert not reading.members


def test_a_second_condition_on_one_field_is_left_to_the_server() -> None:
    assert read_filter({"$and": [{"a": 1}, {"a": 2}]}).equal == {"a": 1}
    assert list(read_filter({"$and": [{"a": 1}, {"a": 2}]}).residual) == ["a"]
    two = read_filter({"$and": [{"a": {"$gt": 1}}, {"a": {"$gte": 3}}]})
    assert two.lower == {"a": Bound(1, strict=True)}
    assert list(two.residual) == ["a"]


def test_an_in_has_its_values_once_and_tells_true_from_one() -> None:
    reading = read_filter({"a": {"$in": [1, True, None, 1.0, "x", None]}})
    assert [repr(value) for value in reading.members["a"]] == ["1", "True", "None", "'x'"]
    assert read_filter({"a": {"$in": []}}).impossible
    assert not reading.impossible


def test_ranges_are_ends_with_strictness() -> None:
    reading = read_filter({"a": {"$gt": 1, "$lte": 5}, "b": {"$gte": 2}})
    assert reading.lower == {"a": Bound(1, strict=True), "b": Bound(2, strict=False)}
    assert reading.upper == {"a": Bound(5, strict=False)}
    assert not reading.residual


def test_a_shape_depends_on_fields_and_kinds_not_on_values() -> None:
    shapes: list[dict[str, Any]] = [
        {"a": 1, "b": {"$in": [1, 2]}},
        {"b": {"$in": ["x", "y", "z"]}, "a": None},
        {"a": {"$in": [1, 2]}, "b": 1},
        {"a": 1, "b": {"$gt": 1}},
        {"a": 1, "b": {"$lt": 1}},
        {"a": 1, "b": {"$ne": 1}},
        {"a": 1},
    ]
    first, second, *others = (read_filter(filter).shape for filter in shapes)
    assert first == second
    assert len({first, *others}) == 1 + len(others)


def test_combinations_fix_every_prefix_field() -> None:
    reading = read_filter({"a": 1, "b": {"$in": [1, None]}, "c": {"$in": ["x", "y"]}})
    assert reading.combinations(["b", "a", "c"]) == [{"b": b, "a": 1, "c": c} for b in (1, None) for c in ("x", "y")]


def test_distance_search_is_refused_with_an_alternative() -> None:
    with pytest.raises(ConfigurationError, match=r"\$geoWithin"):
        read_filter({"place": {"$near": [1, 2]}})
    assert read_filter({"$and": [{"$text": {"$search": "x"}}]}).text
