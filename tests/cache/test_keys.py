"""Keys: injective, typed, readable, the same in every process."""

from __future__ import annotations

import enum
import os
import subprocess
import sys
from collections import namedtuple
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from bson import ObjectId
from hypothesis import given, settings, strategies as st
from pydantic import BaseModel

from smriti_scale.cache.keys import MAX_KEY, direct_key, encode_value, parse_template
from smriti_scale.errors import CacheKeyError, ConfigurationError


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Model(BaseModel):
    id: int


@dataclass
class Data:
    id: int


Pair = namedtuple("Pair", "left right")  # noqa: PYI024

DIFFERENT: list[Any] = [
    1,
    "1",
    True,
    1.0,
    Decimal(1),
    Decimal("1.0"),
    b"1",
    Level.LOW,
    None,
    "None",
    "",
    "n~",
    0.0,
    -0.0,
    float("nan"),
    float("inf"),
    Colour.RED,
    "red",
    UUID(int=1),
    str(UUID(int=1)),
    ObjectId("0" * 24),
    "0" * 24,
    date(2026, 1, 1),
    datetime(2026, 1, 1),
    datetime(2026, 1, 1, tzinfo=UTC),
    datetime(2026, 1, 1, 5, 30, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    datetime(2026, 1, 1, fold=1),
    time(1),
    timedelta(1),
    (1, 2),
    [1, 2],
    ((1,), 2),
    {1, 2},
    {"a": 1},
    {"a": "1"},
    {1: "a"},
    Pair(1, 2),
    Model(id=1),
    Data(1),
    "a:b",
    "a<b",
    "a>b",
    "a%3Cb",
    "é",
    "\udc80",
    "~",
    "%7E",
]


def test_values_that_a_function_could_tell_apart_have_different_keys() -> None:
    keys = [encode_value(value) for value in DIFFERENT]
    assert len(set(keys)) == len(keys)


def test_a_set_and_a_dict_have_one_key_whatever_their_order() -> None:
    assert encode_value({"b": 1, "a": 2}) == encode_value({"a": 2, "b": 1})
    assert encode_value({"x", "y", "z"}) == encode_value({"z", "y", "x"})


def test_a_text_of_a_subclass_is_that_text() -> None:
    class UserId(str):
        __slots__ = ()

    assert encode_value(UserId("42")) == encode_value("42")


def test_arguments_split_differently_have_different_keys() -> None:
    template = parse_template("f:{a}:{b}")
    assert template.key({"a": "a:b", "b": "c"}) != template.key({"a": "a", "b": "b:c"})


texts = st.text(max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple),
    max_leaves=5,
)


def typed(value: Any) -> Any:
    return [type(value).__name__, [typed(item) for item in value]] if isinstance(value, (list, tuple)) else repr(value)


@settings(max_examples=40)
@given(st.tuples(values, values), st.tuples(values, values))
def test_two_calls_share_a_key_only_if_their_arguments_are_the_same(one: Any, other: Any) -> None:
    template = parse_template("t:{a}{b}")
    keys = [template.key({"a": pair[0], "b": pair[1]}) for pair in (one, other)]
    assert (keys[0] == keys[1]) == (typed(one) == typed(other))


@settings(max_examples=40)
@given(st.dictionaries(texts, values, max_size=3), st.dictionaries(texts, values, max_size=3))
def test_no_value_imitates_the_text_of_another_template(left: Any, right: Any) -> None:
    assert parse_template("a:{x}").key({"x": left}) != parse_template("a:{x}:z").key({"x": right})


def test_an_object_without_a_stable_text_is_refused_not_keyed_by_its_address() -> None:
    with pytest.raises(CacheKeyError, match=r"SimpleNamespace cannot be part of a cache key.*\{user\.id\}"):
        encode_value(SimpleNamespace(id=1))


def test_attributes_and_items_lead_into_arguments() -> None:
    template = parse_template("u:{user.id}:{row[name]}:{pair[0]}")
    arguments = {"user": SimpleNamespace(id=7), "row": {"name": "ada"}, "pair": (1, 2)}
    assert template.key(arguments) == "u:<i~7>:<ada>:<i~1>"


def test_a_field_that_leads_nowhere_says_which() -> None:
    with pytest.raises(CacheKeyError, match=r"\{user\.id\} in 'u:\{user\.id\}' leads nowhere"):
        parse_template("u:{user.id}").key({"user": None})


@pytest.mark.parametrize(
    "template",
    ["", "a:{", "a:{}", "a:{0}", "a:{x!r}", "a:{x:>5}", "a<{x}>", "a#{x}", "{{a}}", "a:{x..y}", "a:{x.}", "a:{x[}"],
)
def test_a_template_that_cannot_be_meant_is_refused(template: str) -> None:
    with pytest.raises(ConfigurationError, match="key template"):
        parse_template(template)


def test_a_long_key_keeps_a_readable_start_and_stays_distinct() -> None:
    template = parse_template("search:{query}")
    keys = {template.key({"query": "x" * length}) for length in range(MAX_KEY, MAX_KEY + 50)}
    assert len(keys) == 50
    assert all(len(key) <= MAX_KEY and key.startswith("search:<xxx") for key in keys)


def test_keys_are_the_same_in_every_process() -> None:
    script = (
        "from smriti_scale.cache.keys import encode_value, parse_template\n"
        "print(encode_value({'b', 'a', 'c'}), parse_template('q:{x}').key({'x': 'y' * 500}))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    there = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    here = encode_value({"c", "b", "a"}), parse_template("q:{x}").key({"x": "y" * 500})
    assert there.stdout.split() == list(here)


@pytest.mark.parametrize("key", ["", 7, None, "\ud800"])
def test_a_key_given_directly_is_a_non_empty_text(key: Any) -> None:
    with pytest.raises(CacheKeyError, match="cache key"):
        direct_key(key)


@pytest.mark.long
@settings(max_examples=1_500, deadline=None)
@given(st.tuples(values, values), st.tuples(values, values))
def test_in_bulk_two_calls_share_a_key_only_if_their_arguments_are_the_same(one: Any, other: Any) -> None:
    template = parse_template("t:{a}{b}")
    keys = [template.key({"a": pair[0], "b": pair[1]}) for pair in (one, other)]
    assert (keys[0] == keys[1]) == (typed(one) == typed(other))
