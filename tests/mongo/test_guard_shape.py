from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from smriti_scale.mongo import Index
from smriti_scale.mongo.explain import explained
from smriti_scale.mongo.shape import shape_of


@pytest.mark.parametrize(
    ("command", "text", "wants"),
    [
        (
            {"find": "posts", "filter": {"b": {"$gt": 1, "$lt": 5}, "a": 1}, "sort": {"c": -1}},
            "find posts {b: {$gt: ?, $lt: ?}, a: ?} sort {c: -1}",
            [Index("a", ("c", -1), "b")],
        ),
        ({"find": "posts", "filter": {"a": {"$in": [1, 2, 3]}}}, "find posts {a: {$in: [?]}}", [Index("a")]),
        (
            {"find": "posts", "filter": {"$or": [{"a": 1}, {"b": {"$gt": 2}}, {"a": 3}]}},
            "find posts {$or: [{a: ?}, {b: {$gt: ?}}]}",
            [Index("a"), Index("b")],
        ),
        ({"find": "posts", "filter": {"$and": [{"a": 1}, {"b": re.compile("^x")}]}}, None, [Index("a", "b")]),
        (
            {"find": "posts", "filter": {"tags": {"$elemMatch": {"k": 1, "v": {"$gt": 2}}}}},
            None,
            [Index("tags.k", "tags.v")],
        ),
        ({"find": "posts", "filter": {"at": {"$near": [1, 2]}}}, None, [Index(("at", "2dsphere"))]),
        ({"find": "posts", "filter": {"_id": 5}}, "find posts {_id: ?}", []),
        ({"find": "posts", "filter": {}}, "find posts {}", []),
        ({"find": "posts", "filter": {}, "sort": {"_id": -1}}, None, []),
        ({"count": "posts", "query": {"a": {"b": 1}}}, "count posts {a: {b: ?}}", [Index("a")]),
        ({"distinct": "posts", "key": "t", "query": {"a": 1}}, "distinct posts {a: ?} key t", [Index("a")]),
        (
            {"find": "posts", "filter": {"a": 1}, "collation": {"locale": "de"}},
            None,
            [Index("a", collation={"locale": "de"})],
        ),
        (
            {
                "aggregate": "posts",
                "pipeline": [
                    {"$match": {"a": "$secret"}},
                    {"$sort": {"b": 1}},
                    {"$lookup": {"from": "users", "localField": "u", "foreignField": "_id", "as": "user"}},
                    {"$group": {"_id": "$u", "n": {"$sum": 1}, "x": {"$first": {"$literal": "$hidden"}}}},
                ],
            },
            (
                "aggregate posts [{$match: {a: ?}}, {$sort: {b: 1}}, "
                "{$lookup: {from: users, localField: u, foreignField: _id, as: user}}, "
                "{$group: {_id: $u, n: {$sum: ?}, x: {$first: {$literal: ?}}}}]"
            ),
            [Index("a", "b")],
        ),
        (
            {"update": "posts", "updates": [{"q": {"a": 1}, "u": {"$set": {"b": 2}}}]},
            "update posts {a: ?}",
            [Index("a")],
        ),
    ],
)
def test_a_shape_has_the_query_without_values_and_the_index_it_wants(
    command: dict[str, Any], text: str | None, wants: list[Index]
) -> None:
    shape = shape_of(command)
    assert shape is not None
    assert text in (None, shape.text)
    assert list(shape.wants) == wants


@pytest.mark.parametrize("command", [{}, {"insert": "posts"}, {"aggregate": 1, "pipeline": []}, {"hello": 1}])
def test_other_commands_have_no_shape(command: dict[str, Any]) -> None:
    assert shape_of(command) is None


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "$gt", "$in", "$or", "$elemMatch", "b.c", ""]), inner, max_size=3)
    ),
    max_leaves=4,
)


@given(secret=st.text("xyz", min_size=6, max_size=10))
def test_no_value_ever_shows_in_a_shape(secret: str) -> None:
    command = {
        "aggregate": "posts",
        "pipeline": [
            {"$match": {"a": secret, "$or": [{"b": {"$in": [secret]}}, {"c": {"$elemMatch": {"d": secret}}}]}},
            {"$project": {"a": {"$concat": [secret, "$b"]}, "c": {"$literal": f"${secret}"}}},
            {"$lookup": {"from": "users", "pipeline": [{"$match": {"n": f"${secret}"}}], "as": "x"}},
            {"$facet": {"one": [{"$match": {"n": f"${secret}"}}]}},
        ],
    }
    shape = shape_of(command)
    assert shape is not None
    assert secret not in shape.text


@settings(max_examples=60)
@given(
    condition=st.dictionaries(st.sampled_from(["a", "$and", "$or", "$expr", "b.$x", ""]), values, max_size=3),
    stages=values,
)
def test_no_filter_however_odd_breaks_the_listener(condition: dict[str, Any], stages: Any) -> None:
    for command in (
        {"find": "posts", "filter": condition, "sort": stages},
        {"aggregate": "posts", "pipeline": [{"$match": condition}, {"$sort": stages}, {"$lookup": stages}, stages]},
        {"update": "posts", "updates": stages},
    ):
        shape = shape_of(command)
        assert shape is None or shape.text


def test_an_explain_through_a_mongos_is_read_shard_by_shard() -> None:
    plan = {"stage": "SHARD_MERGE", "shards": [
        {"shardName": "a", "winningPlan": {"stage": "FETCH", "inputStage": {"stage": "IXSCAN", "indexName": "a_1"}}},
        {"shardName": "b", "winningPlan": {"stage": "COLLSCAN"}},
    ]}  # fmt: skip
    facts = explained(
        {
            "queryPlanner": {"winningPlan": plan},
            "executionStats": {"nReturned": 3, "totalKeysExamined": 5, "totalDocsExamined": 9},
        }
    )
    assert facts.scans
    assert facts.indexes == ("a_1",)
    assert (facts.keys, facts.documents, facts.returned) == (5, 9, 3)
    assert facts.ratio == 3.0


def test_an_aggregate_through_a_mongos_sums_its_shards() -> None:
    shard = {
        "queryPlanner": {"winningPlan": {"queryPlan": {"stage": "COLLSCAN"}}},
        "executionStats": {"nReturned": 1, "totalKeysExamined": 0, "totalDocsExamined": 4},
    }
    facts = explained({"shards": {"a": shard, "b": {"stages": [{"$cursor": shard}, {"$sort": {}}]}}})
    assert facts.documents == 8
    assert facts.scans
