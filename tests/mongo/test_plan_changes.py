"""Every kind of change, with what others make of it beside our outcome.

The peers' outcomes (Beanie, mongoengine, Mongoose `syncIndexes`, ODMantic) were measured for a changed TTL, an index
that becomes unique and an administrator's own index; for the other kinds they follow from what those calls do there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from smriti_scale.errors import DuplicateKeys
from smriti_scale.mongo import Index, Indexes
from smriti_scale.mongo.index import TTL_OFF

pytestmark = pytest.mark.long

CLEAN = [{"_id": n, "a": n, "b": n % 3, "t": "x"} for n in range(30)]
DIRTY = [*CLEAN, {"_id": 100, "a": 7}, {"_id": 101, "a": 7}, {"_id": 102, "a": 8}]


@dataclass
class Case:
    """`before` and `after` are what the server lists, but for `_id_`; `steps` what the plan says."""

    what: str
    before: list[Index]
    declared: list[Index]
    steps: list[str]
    after: list[Index]
    peers: str
    documents: list[dict[str, Any]] = field(default_factory=lambda: CLEAN)
    options: dict[str, Any] = field(default_factory=dict)


CASES = [
    Case(
        "add",
        [],
        [Index("a"), Index(("b", -1))],
        ["create a_1", "create b_-1"],
        [Index("a"), Index(("b", -1))],
        "all create it, one scan of the collection for each index; here one scan for all",
    ),
    Case(
        "remove",
        [Index("a"), Index("b")],
        [Index("a")],
        ["keep b_1"],
        [Index("a"), Index("b")],
        "Beanie keeps it (or drops with allow_index_dropping), Mongoose and ODMantic drop it, in use or not",
    ),
    Case(
        "remove, named to be hidden",
        [Index("a"), Index("b")],
        [Index("a")],
        ["hide b_1"],
        [Index("a"), Index("b", hidden=True)],
        "none can hide",
        options={"hide": ["things.b_1"]},
    ),
    Case(
        "remove, named to be dropped",
        [Index("a"), Index("b")],
        [Index("a")],
        ["drop b_1"],
        [Index("a")],
        "Mongoose and ODMantic drop it without being told",
        options={"drop": ["things.b_1"]},
    ),
    Case(
        "TTL changed",
        [Index("a", ttl=60)],
        [Index("a", ttl=3600)],
        ["set_ttl a_1"],
        [Index("a", ttl=3600)],
        "Beanie raises 85 or drops and rebuilds; mongoengine does not see it; Mongoose, ODMantic drop and rebuild",
    ),
    Case(
        "TTL added",
        [Index("a")],
        [Index("a", ttl=3600)],
        ["set_ttl a_1"],
        [Index("a", ttl=3600)],
        "as TTL changed",
    ),
    Case(
        "TTL taken away",
        [Index("a", ttl=3600)],
        [Index("a")],
        ["set_ttl a_1"],
        [Index("a", ttl=TTL_OFF)],
        "as TTL changed; documents go on expiring under mongoengine",
    ),
    Case(
        "unique, no duplicates",
        [Index("a")],
        [Index("a", unique=True)],
        ["make_unique a_1"],
        [Index("a", unique=True)],
        "Beanie raises 86 or drops first; Mongoose and ODMantic drop first",
    ),
    Case(
        "no longer unique",
        [Index("a", unique=True)],
        [Index("a")],
        ["rebuild a_1_v2"],
        [Index("a", unique=True, hidden=True), Index("a", name="a_1_v2")],
        "Mongoose and ODMantic drop and rebuild: queries scan meanwhile",
    ),
    Case(
        "other partial filter",
        [Index("a", partial={"b": 1})],
        [Index("a", partial={"b": {"$gte": 1}})],
        ["rebuild a_1_v2"],
        [Index("a", partial={"b": 1}, hidden=True), Index("a", partial={"b": {"$gte": 1}}, name="a_1_v2")],
        "Beanie raises 86; mongoengine does not see it; Mongoose and ODMantic drop and rebuild",
    ),
    Case(
        "the same partial filter, spelled otherwise",
        [Index("a", partial={"$and": [{"b": {"$eq": 1}}]})],
        [Index("a", partial={"b": 1})],
        [],
        [Index("a", partial={"$and": [{"b": {"$eq": 1}}]})],
        "Mongoose and ODMantic drop and rebuild at every start",
    ),
    Case(
        "other collation",
        [Index("t", collation={"locale": "en"})],
        [Index("t", collation={"locale": "en", "strength": 2})],
        ["rebuild t_1_v2"],
        [
            Index("t", collation={"locale": "en"}, hidden=True),
            Index("t", collation={"locale": "en", "strength": 2}, name="t_1_v2"),
        ],
        "Beanie raises 86; Mongoose and ODMantic drop and rebuild",
    ),
    Case(
        "sparse added",
        [Index("a")],
        [Index("a", sparse=True)],
        ["rebuild a_1_v2"],
        [Index("a", hidden=True), Index("a", sparse=True, name="a_1_v2")],
        "Beanie raises 86; mongoengine does not see it; Mongoose and ODMantic drop and rebuild",
    ),
    Case(
        "hidden",
        [Index("a")],
        [Index("a", hidden=True)],
        ["hide a_1"],
        [Index("a", hidden=True)],
        "createIndexes ignores it without a word, so do all that call it",
    ),
    Case(
        "no longer hidden",
        [Index("a", hidden=True)],
        [Index("a")],
        ["unhide a_1"],
        [Index("a")],
        "as hidden",
    ),
    Case(
        "key order",
        [Index("a", "b")],
        [Index("b", "a")],
        ["create b_1_a_1", "keep a_1_b_1"],
        [Index("a", "b"), Index("b", "a")],
        "Beanie adds it; Mongoose drops the old one before it builds the new one",
    ),
    Case(
        "key order under one name",
        [Index("a", "b", name="feed")],
        [Index("b", "a", name="feed")],
        ["rebuild feed_v2"],
        [Index("a", "b", name="feed", hidden=True), Index("b", "a", name="feed_v2")],
        "Beanie raises 86; Mongoose drops the old one first, and is left with nothing when the build fails",
    ),
    Case(
        "rename",
        [Index("a")],
        [Index("a", name="by_a")],
        ["keep a_1"],
        [Index("a")],
        "Beanie raises 85; Mongoose and ODMantic drop and rebuild for a name",
    ),
    Case(
        "an administrator's own index",
        [Index("b", name="nightly_report")],
        [Index("a")],
        ["create a_1", "keep nightly_report"],
        [Index("b", name="nightly_report"), Index("a")],
        "Beanie with allow_index_dropping, Mongoose and ODMantic drop it",
    ),
    Case(
        "an administrator's own index that does what a declared one does",
        [Index("a", name="nightly_report")],
        [Index("a")],
        ["keep nightly_report"],
        [Index("a", name="nightly_report")],
        "all raise 85 or drop it",
    ),
    Case(
        "several changes of one index",
        [Index("a", hidden=True)],
        [Index("a", ttl=60, unique=True)],
        ["set_ttl a_1", "unhide a_1", "make_unique a_1"],
        [Index("a", ttl=60, unique=True)],
        "drop and rebuild, or an error",
    ),
    Case(
        "text weights, the old index named to be dropped",
        [Index(("t", "text"))],
        [Index(("t", "text"), weights={"t": 5})],
        ["drop t_text", "create t_text"],
        [Index(("t", "text"), weights={"t": 5})],
        "Mongoose and ODMantic drop and rebuild",
        options={"drop": ["things.t_text"]},
    ),
    Case(
        "rename, the old index named to be dropped",
        [Index("a")],
        [Index("a", name="by_a")],
        ["drop a_1", "create by_a"],
        [Index("a", name="by_a")],
        "as rename",
        options={"drop": ["things.a_1"]},
    ),
    Case(
        "wildcard projection",
        [Index("$**", wildcard_projection={"a": 1})],
        [Index("$**", wildcard_projection={"b": 1})],
        ["rebuild $**_1_v2"],
        [
            Index("$**", wildcard_projection={"a": 1}, hidden=True),
            Index("$**", wildcard_projection={"b": 1}, name="$**_1_v2"),
        ],
        "as other partial filter",
    ),
    Case(
        "special indexes",
        [],
        [Index(("p", "2dsphere")), Index(("a", "hashed")), Index(("t", "text"), "b", weights={"t": 2})],
        ["create p_2dsphere", "create a_hashed", "create t_text_b_1"],
        [Index(("p", "2dsphere")), Index(("a", "hashed")), Index(("t", "text"), "b", weights={"t": 2})],
        "all create them; Mongoose and ODMantic see a text index as changed at every start",
    ),
]


@pytest.mark.parametrize(
    ("case", "mongo_driver"),
    # By turns, since every case by both would take twice the time and tell nothing more.
    [pytest.param(case, ("motor", "pymongo")[place % 2], id=case.what) for place, case in enumerate(CASES)],
    indirect=["mongo_driver"],
)
async def test_a_change_takes_these_steps_and_is_then_in_sync(case: Case, db: Any) -> None:
    await db.things.insert_many(case.documents)
    await existing(db, case.before)
    indexes = Indexes({"things": case.declared})
    plan = await indexes.plan(db, **case.options)
    assert [f"{step.kind} {step.name}" for step in plan.steps] == case.steps, str(plan)
    done = await plan.apply()
    assert [step.step.key for step in done] == [step.key for step in plan.changes]
    assert await listed(db) == {index.name: index for index in case.after}
    again = await indexes.plan(db)
    assert again.is_empty, str(again)
    replaced = [step.replaces for step in plan.steps if step.replaces]
    assert [step.name for step in again.steps if step.reason.startswith("replaced by")] == replaced


async def test_unique_with_duplicates_is_refused_with_the_documents_and_changes_nothing(both_drivers_db: Any) -> None:
    """Peers: Beanie raises 86 or is left without the index; Mongoose and ODMantic are left without the index."""
    db = both_drivers_db
    await db.things.insert_many(DIRTY)
    await existing(db, [Index("a")])
    indexes = Indexes({"things": [Index("a", unique=True)]})
    with pytest.raises(DuplicateKeys) as raised:
        await indexes.apply(db)
    assert raised.value.total == 2
    assert raised.value.groups[0] == {"key": {"a": 7}, "count": 3, "ids": [7, 100, 101]}
    assert "{'a': 7} in 3 documents, _id 7, 100, 101" in str(raised.value)
    assert not raised.value.prepared
    assert await listed(db) == {"a_1": Index("a")}
    await db.things.insert_one({"_id": 103, "a": 8})  # not refused: nothing is left prepared
    await db.things.delete_many({"_id": {"$gte": 100}})
    await indexes.apply(db)
    assert await listed(db) == {"a_1": Index("a", unique=True)}


async def existing(db: Any, indexes: list[Index]) -> None:
    if indexes:
        await db.command({"createIndexes": "things", "indexes": [index.to_server() for index in indexes]})


async def listed(db: Any) -> dict[str, Index]:
    answer = await db.command({"listIndexes": "things"})
    found = [Index.from_server(one) for one in answer["cursor"]["firstBatch"] if one["name"] != "_id_"]
    return {index.name: index for index in found}
