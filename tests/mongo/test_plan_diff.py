from __future__ import annotations

import datetime
import json
from typing import Any

import pytest

from smriti_scale.errors import ConfigurationError
from smriti_scale.mongo import Index, IndexPlan
from smriti_scale.mongo.catalog import CollectionState, ExistingIndex, NodeUsage, Record
from smriti_scale.mongo.diff import collection_steps
from smriti_scale.mongo.plan import Policy, Step, duration_text, size_text

NOW = datetime.datetime(2026, 5, 1, tzinfo=datetime.UTC)
LONG_AGO = NOW - datetime.timedelta(days=30)


def state(*existing: ExistingIndex | Index, **facts: Any) -> CollectionState:
    indexes = tuple(one if isinstance(one, ExistingIndex) else ExistingIndex(one) for one in existing)
    return CollectionState("posts", **{"kind": "collection", "indexes": indexes, "documents": 10, **facts})


def steps(declared: list[Index], found: CollectionState, **policy: Any) -> list[Step]:
    return collection_steps(declared, found, Policy(**policy), now=NOW)


def used(index: Index, *operations: int) -> ExistingIndex:
    usage = tuple(NodeUsage(f"node{place}:27017", count, LONG_AGO) for place, count in enumerate(operations))
    return ExistingIndex(index, usage=usage)


def test_an_index_that_any_node_has_used_is_not_dropped() -> None:
    (step,) = steps([], state(used(Index("a"), 0, 0, 12)), drop={"posts": ("a_1",)})
    assert step.kind == "drop"
    assert step.refused
    assert "12 × on node2:27017 since 2026-04-01" in step.refused
    (forced,) = steps([], state(used(Index("a"), 0, 0, 12)), drop={"posts": ("a_1",)}, force=True)
    assert forced.refused is None
    assert "in use: 12 ×" in forced.reason


def test_an_index_that_no_node_has_used_is_dropped_when_named() -> None:
    (step,) = steps([], state(used(Index("a"), 0, 0, 0)), drop={"posts": ("a_1",)})
    assert step.refused is None
    assert "unused on 3 nodes since 2026-04-01" in step.reason


def test_a_node_that_does_not_say_counts_as_use() -> None:
    (step,) = steps([], state(Index("a")), drop={"posts": ("a_1",)})
    assert step.refused
    assert "not every node" in step.refused


def test_an_index_that_is_being_built_is_not_dropped() -> None:
    (step,) = steps([], state(ExistingIndex(Index("a"), building=True)), drop={"posts": ("a_1",)}, force=True)
    assert step.refused
    assert "being built" in step.refused


def test_a_name_to_drop_that_is_not_there_is_nothing_to_do() -> None:
    assert steps([], state(Index("a")), drop={"posts": ("b_1",)})[0].kind == "keep"


def test_a_declared_index_that_is_named_to_be_dropped_is_built_anew_only_once_the_drop_may_run() -> None:
    found = steps([Index("a")], state(used(Index("a"), 5)), drop={"posts": ("a_1",)})
    assert [step.kind for step in found] == ["drop", "create"]
    assert all(step.refused for step in found)
    assert [step.refused for step in steps([Index("a")], state(used(Index("a"), 0)), drop={"posts": ("a_1",)})] == [
        None,
        None,
    ]


def test_the_sixty_fifth_index_is_refused() -> None:
    full = state(*(Index(f"f{n}") for n in range(62)))
    first, second, *_ = steps([Index("a"), Index("b")], full)
    assert first.refused is None
    assert second.refused
    assert "more than 64" in second.refused


def test_a_drop_makes_room_for_a_build() -> None:
    full = state(*(used(Index(f"f{n}"), 0) for n in range(63)))
    found = steps([Index("a")], full, drop={"posts": ("f0_1",)})
    assert [(step.kind, step.refused) for step in found[:2]] == [("drop", None), ("create", None)]


def test_a_collection_over_the_size_gate_is_not_built_on_without_force() -> None:
    large = state(data_bytes=20_000, documents=10**9)
    (step,) = steps([Index("a")], large, size_gate=10_000)
    assert step.refused
    assert "20.0 KB, over the gate of 10.0 KB" in step.refused
    assert steps([Index("a")], large, size_gate=10_000, force=True)[0].refused is None


def test_a_view_is_refused() -> None:
    (step,) = steps([Index("a")], CollectionState("posts", kind="view"))
    assert step.refused == "'posts' is a view; declare the indexes on the collection it reads from"


def test_a_second_text_index_is_refused_with_the_way_out() -> None:
    (step, _) = steps([Index(("b", "text"))], state(Index(("a", "text"))))
    assert step.refused
    assert "two text indexes" in step.refused
    assert "Name it in `drop` (posts.a_text)" in step.refused


def test_an_index_that_is_being_built_is_waited_for() -> None:
    (step,) = steps([Index("a")], state(ExistingIndex(Index("a"), building=True)))
    assert (step.kind, step.refused) == ("create", None)
    assert "is being built" in step.reason


def test_the_collections_collation_is_every_indexes_own() -> None:
    german = {"locale": "de"}
    assert steps([Index("a")], state(Index("a", collation=german), collation=german)) == []
    simple = Index("a", collation={"locale": "simple"})
    assert [step.kind for step in steps([simple], state(Index("a", collation=german), collation=german))] == ["rebuild"]


def test_a_left_over_prepare_unique_is_finished_or_taken_back() -> None:
    prepared = state(ExistingIndex(Index("a"), prepared=True))
    assert [step.kind for step in steps([Index("a")], prepared)] == ["unprepare"]
    (step,) = steps([Index("a", unique=True)], prepared)
    assert step.kind == "make_unique"
    assert "already set" in step.reason


def test_of_two_twins_the_one_with_the_declared_uniqueness_is_taken() -> None:
    twins = state(Index("a", name="one"), Index("a", unique=True, name="two"))
    (kept,) = (step for step in steps([Index("a", unique=True, name="two")], twins))
    assert (kept.kind, kept.name) == ("keep", "one")


def test_an_interrupted_rebuild_is_finished_by_hiding_the_old_index() -> None:
    found = state(
        Index("a", partial={"b": 1}),
        Index("a", name="a_1_v2"),
        records={"a_1": Record(superseded_by="a_1_v2"), "a_1_v2": Record()},
    )
    (step,) = steps([Index("a")], found)
    assert (step.kind, step.name) == ("hide", "a_1")
    assert "finishes a rebuild" in step.reason


@pytest.mark.parametrize(
    ("policy", "kind"),
    [
        ({}, "keep"),
        ({"drop_superseded": True, "drop_after": 86400.0 * 31}, "keep"),
        ({"drop_superseded": True, "drop_after": 86400.0 * 29}, "drop"),
    ],
)
def test_what_a_rebuild_replaced_is_dropped_later_and_only_when_allowed(policy: dict[str, Any], kind: str) -> None:
    old = used(Index("a", partial={"b": 1}, hidden=True, unique=True), 0)
    records = {"a_1": Record(superseded_by="a_1_v2", hidden_at=LONG_AGO)}
    (step,) = steps([Index("a")], state(old, Index("a", name="a_1_v2"), records=records), **policy)
    assert step.kind == kind
    assert "hidden for 720.0 h" in step.reason


def test_going_back_to_the_old_declaration_unhides_the_old_index() -> None:
    found = state(
        Index("a", partial={"b": 1}, hidden=True),
        Index("a", name="a_1_v2"),
        records={"a_1": Record(superseded_by="a_1_v2", hidden_at=LONG_AGO), "a_1_v2": Record()},
    )
    back = steps([Index("a", partial={"b": 1})], found)
    assert [(step.kind, step.name) for step in back] == [("unhide", "a_1"), ("keep", "a_1_v2")]
    assert "no longer declared" in back[1].reason


def test_a_rebuild_takes_a_name_that_is_free() -> None:
    found = state(Index("a", partial={"b": 1}), Index("c", name="a_1_v2"))
    assert steps([Index("a")], found)[0].name == "a_1_v3"


def test_names_are_told_apart_by_the_longest_collection() -> None:
    from smriti_scale.mongo.indexes import _by_collection

    assert _by_collection(["fs.files.a_1", "fs.b_1"], ["fs", "fs.files"]) == {"fs.files": ("a_1",), "fs": ("b_1",)}
    assert _by_collection("fs.b_1", ["fs"]) == {"fs": ("b_1",)}
    for wrong in ("other.a_1", "fs._id_"):
        with pytest.raises(ConfigurationError):
            _by_collection([wrong], ["fs"])


def plan_of(declared: list[Index], found: CollectionState, **policy: Any) -> IndexPlan:
    return IndexPlan("smriti", tuple(steps(declared, found, **policy)), {"posts": found})


def test_a_plan_prints_as_a_diff_that_people_read() -> None:
    found = state(
        ExistingIndex(Index("expires_at", ttl=60), size=40_000),
        Index("title"),
        documents=1_200_000,
        data_bytes=1_200_000_000,
    )
    declared = [Index("user_id", ("created_at", -1)), Index("expires_at", ttl=7200), Index(("b", "text"))]
    assert str(plan_of(declared, found, size_gate=10**9)) == (
        "Indexes of smriti\n"
        "\n"
        "posts (1,200,000 documents, 1.2 GB, 3 of 64 indexes)\n"
        "  ~ set TTL  expires_at_1  (40.0 KB)\n"
        "             Index('expires_at', ttl=7200)\n"
        "             TTL 60 s → 7200 s, by collMod\n"
        "  + create   user_id_1_created_at_-1\n"
        "             Index('user_id', ('created_at', -1))\n"
        "             declared, not in the database\n"
        "             about 20 s, 28.8 MB\n"
        "             REFUSED: 'posts' holds 1.2 GB, over the gate of 1.0 GB; "
        "build in a quiet hour with `force`, or raise `size_gate`\n"
        "  + create   b_text\n"
        "             Index(('b', 'text'))\n"
        "             declared, not in the database\n"
        "             about 20 s, 28.8 MB\n"
        "             REFUSED: 'posts' holds 1.2 GB, over the gate of 1.0 GB; "
        "build in a quiet hour with `force`, or raise `size_gate`\n"
        "  = keep     title_1\n"
        "             Index('title')\n"
        "             not declared\n"
        "\n"
        "Plan: 2 to create, 1 to set TTL; 2 refused."
    )


def test_a_plan_is_also_for_machines() -> None:
    told = json.loads(plan_of([Index("a")], state(Index("b"))).to_json())
    assert told["in_sync"] is False
    assert [(step["kind"], step["index"]) for step in told["steps"]] == [("create", "a_1"), ("keep", "b_1")]
    assert told["collections"]["posts"]["documents"] == 10


async def test_a_plan_made_by_hand_knows_no_database() -> None:
    with pytest.raises(TypeError, match="knows no database"):
        await plan_of([Index("a")], state()).apply()


def test_sizes_and_durations_are_for_people() -> None:
    assert [size_text(size) for size in (0, 999, 1500, 123_456_789, 5e13)] == [
        "0 B",
        "999 B",
        "1.5 KB",
        "123 MB",
        "50.0 TB",
    ]
    assert [duration_text(seconds) for seconds in (0.2, 30, 300, 7200)] == ["1 s or less", "30 s", "5 min", "2.0 h"]
