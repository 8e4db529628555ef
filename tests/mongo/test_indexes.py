from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

from smriti_scale.errors import ConfigurationError
from smriti_scale.mongo import Index, Indexes


def test_an_index_is_named_as_every_driver_names_it() -> None:
    assert Index("user_id", ("created_at", -1), ("_id", -1)).name == "user_id_1_created_at_-1__id_-1"


def test_an_index_prints_as_the_line_that_declares_it() -> None:
    lines = [
        Index("user_id", ("created_at", -1)),
        Index("email", unique=True, collation={"locale": "en", "strength": 2}),
        Index("expires_at", ttl=3600, name="expiry"),
        Index(("title", "text"), ("body", "text"), weights={"title": 10}, default_language="german"),
        Index("$**", wildcard_projection={"a": 1}),
        Index("state", partial={"state": {"$in": ["open"]}}, hidden=True),
    ]
    for index in lines:
        assert eval(repr(index)) == index


def test_a_ttl_may_be_a_timedelta() -> None:
    assert Index("at", ttl=datetime.timedelta(hours=1)).ttl == 3600


@pytest.mark.parametrize(
    ("fields", "options", "sentence"),
    [
        ((), {}, "at least one field"),
        (("created_at", -1), {}, "inside its own tuple"),
        ((("a", 2),), {}, "no direction"),
        ((("a", True),), {}, "no direction"),
        (("a", "a"), {}, "twice"),
        (("_id",), {}, "leave it out"),
        (("a..b",), {}, "no field path"),
        (("$a",), {}, "no field path"),
        (tuple(f"f{n}" for n in range(33)), {}, "allows 32"),
        (("a", "b"), {"ttl": 5}, "exactly one field"),
        (("a",), {"ttl": -1}, "seconds from 0"),
        (("a",), {"sparse": True, "partial": {"a": 1}}, "exclude each other"),
        (("a",), {"partial": {"$and": [{"a": {"$ne": 1}}]}}, r"no \$ne"),
        (("a",), {"partial": {"a": {"$exists": False}}}, "'\\$exists': False"),
        ((("a", "hashed"),), {"unique": True}, "cannot be unique"),
        ((("a", "hashed"), ("b", "hashed")), {}, "only one"),
        (("$**",), {"unique": True}, "wildcard"),
        (("a",), {"wildcard_projection": {"b": 1}}, r"belongs to"),
        (("a",), {"weights": {"a": 1}}, "text index"),
        ((("a", "text"),), {"weights": {"b": 1}}, "no fields of the index"),
        ((("a", "text"),), {"collation": {"locale": "de"}}, "no collation"),
        (("a",), {"name": ""}, "name"),
    ],
)
def test_what_mongodb_would_refuse_is_refused_where_it_is_written(
    fields: tuple[Any, ...], options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        Index(*fields, **options)


def test_indexes_read_back_from_the_server_equal_their_declaration() -> None:
    listed: dict[str, Any] = {
        "v": 2,
        "key": {"z": 1.0, "_fts": "text", "_ftsx": 1},
        "name": "z_1_a_text_b_text",
        "weights": {"b": 1, "a": 3},
        "default_language": "english",
        "language_override": "language",
        "textIndexVersion": 3,
    }
    assert Index.from_server(listed) == Index("z", ("a", "text"), ("b", "text"), weights={"a": 3})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"partial": {"b": 1}}, {"partial": {"b": {"$eq": 1.0}}}),
        ({"partial": {"b": 1, "c": 2}}, {"partial": {"$and": [{"c": 2}, {"b": 1}]}}),
        ({"collation": {"locale": "en"}}, {"collation": {"locale": "en", "strength": 3, "version": "57.1"}}),
        ({"collation": {"locale": "simple"}}, {}),
    ],
)
def test_two_spellings_of_one_index_are_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert Index("a", **one) == Index("a", **other)


def test_true_is_not_one_in_a_partial_filter() -> None:
    assert Index("a", partial={"b": True}) != Index("a", partial={"b": 1})


@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        (Index("a"), Index("a"), "twice"),
        (Index("a", name="x"), Index("b", name="x"), "two indexes named 'x'"),
        (Index("a"), Index("a", name="x", ttl=5), "the same index"),
        (Index(("a", "text")), Index(("b", "text")), "MongoDB allows one"),
    ],
)
def test_what_excludes_each_other_is_found_when_modules_are_composed(
    first: Index, second: Index, sentence: str
) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        Indexes({"posts": [first]}) | Indexes({"posts": [second]})


def test_modules_compose() -> None:
    both = Indexes({"posts": [Index("a")]}) | Indexes({"posts": [Index("b")], "users": [Index("c")]})
    assert both["posts"] == (Index("a"), Index("b"))
    assert list(both) == ["posts", "users"]
    assert len(both) == 3


def test_sixty_four_declared_indexes_are_one_too_many() -> None:
    with pytest.raises(ConfigurationError, match="64"):
        Indexes({"posts": [Index(f"f{n}") for n in range(64)]})


def test_models_and_dataclasses_declare_their_indexes() -> None:
    class Post(BaseModel):
        collection: ClassVar = "posts"
        indexes: ClassVar = [Index("user_id")]
        user_id: str

    @dataclass
    class User:
        collection: ClassVar = "users"
        indexes: ClassVar = [Index("email", unique=True)]
        email: str

    assert Indexes.of(Post, User).collections == {
        "posts": (Index("user_id"),),
        "users": (Index("email", unique=True),),
    }
    assert Indexes({"articles": Post})["articles"] == (Index("user_id"),)


def test_a_model_without_indexes_or_collection_says_what_to_add() -> None:
    class Bare:
        pass

    with pytest.raises(ConfigurationError, match="add indexes"):
        Indexes({"bare": Bare})
    with pytest.raises(ConfigurationError, match="add collection"):
        Indexes.of(Bare)


@pytest.mark.parametrize("declared", ["user_id", [("a", 1)], Index("a")])
def test_what_is_no_list_of_indexes_is_refused(declared: Any) -> None:
    with pytest.raises(ConfigurationError, match="must be a list|is no Index"):
        Indexes({"posts": declared})


FEED = Index("user_id", ("created_at", -1), ("_id", -1))


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ({"equality": ["user_id"], "sort": [("created_at", -1)]}, FEED),
        ({"equality": ["user_id"], "sort": [("created_at", 1)]}, FEED),
        ({"equality": ["user_id"], "sort": [("created_at", -1), ("_id", 1)]}, None),
        ({"equality": ["user_id"], "sort": [("created_at", -1), ("_id", -1)], "exact": True}, FEED),
        ({"equality": ["user_id"], "sort": [("created_at", -1)], "exact": True}, None),
        ({"equality": ["user_id"], "range": ["created_at"]}, FEED),
        ({"equality": ["user_id"], "sort": [("created_at", -1)], "range": ["_id"]}, FEED),
        ({"equality": ["user_id"], "sort": [("created_at", -1)], "range": ["likes"]}, None),
        ({"equality": ["user_id", "state"]}, None),
        ({"sort": [("created_at", -1)]}, None),
        ({"equality": ["user_id"], "collation": {"locale": "de"}}, None),
        ({"equality": ["tags"]}, Index(("tags", "hashed"))),
        ({"equality": ["tags"], "sort": [("_id", 1)]}, None),
        ({"equality": ["state"]}, None),
    ],
)
def test_serves_names_the_index_that_gives_a_list_without_scan_or_sort(
    question: dict[str, Any], answer: Index | None
) -> None:
    indexes = Indexes(
        {"posts": [FEED, Index("title"), Index(("tags", "hashed")), Index("state", partial={"state": "open"})]}
    )
    assert indexes.serves("posts", **question) == answer
