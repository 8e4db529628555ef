from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import ANY

import pytest
from pymongo.errors import OperationFailure

from smriti_scale.errors import (
    BuilderBusy,
    DuplicateKeys,
    IndexBuildFailed,
    IndexDrift,
    IndexPlanRefused,
    StalePlan,
)
from smriti_scale.events import Event, Events, IndexStepDone
from smriti_scale.mongo import Index, Indexes
from smriti_scale.mongo.catalog import BOOKKEEPING, usage_by_index
from smriti_scale.mongo.duplicates import find_duplicates
from smriti_scale.mongo.lease import Lease
from smriti_scale.mongo.plan import Progress, Step
from smriti_scale.mongo.server_errors import explained
from smriti_scale.testing import ManualClock

pytestmark = pytest.mark.long

INDEXES = Indexes({"posts": [Index("user_id"), Index(("created_at", -1))]})


async def test_a_fresh_database_gets_every_index_and_is_then_in_sync(both_drivers_db: Any) -> None:
    db = both_drivers_db
    plan = await INDEXES.plan(db)
    assert [(step.kind, step.name) for step in plan.steps] == [("create", "user_id_1"), ("create", "created_at_-1")]
    assert "does not exist yet" in str(plan)
    done = await plan.apply()
    assert [step.step.name for step in done] == ["user_id_1", "created_at_-1"]
    assert sorted(await db.posts.index_information()) == ["_id_", "created_at_-1", "user_id_1"]
    again = await INDEXES.plan(db)
    assert again.is_empty
    assert "In sync" in str(again)
    assert await again.apply() == ()


async def test_start_up_may_apply_or_only_check(db: Any) -> None:
    with pytest.raises(IndexDrift, match="2 to create"):
        await INDEXES.check(db)
    await INDEXES.apply(db)
    assert (await INDEXES.check(db)).is_empty


async def test_one_refused_step_stops_all_unless_it_is_to_be_skipped(db: Any) -> None:
    await db.posts.insert_one({"a": 1})
    await db.create_collection("recent", viewOn="posts", pipeline=[])
    indexes = Indexes({"posts": [Index("a")], "recent": [Index("b")]})
    plan = await indexes.plan(db)
    with pytest.raises(IndexPlanRefused, match=r"(?s)nothing was changed.*recent\.b_1: 'recent' is a view"):
        await plan.apply()
    assert list(await db.posts.index_information()) == ["_id_"]
    await plan.apply(skip_refused=True)
    assert "a_1" in await db.posts.index_information()


async def test_a_drop_asks_every_node_for_its_use(both_drivers_db: Any) -> None:
    db = both_drivers_db
    await db.posts.insert_many([{"a": n, "b": n} for n in range(10)])
    await db.posts.create_index("a")
    await db.posts.create_index("b")
    indexes = Indexes({"posts": []})
    usage = await usage_by_index(db, "posts")
    assert usage is not None
    assert {name: len(nodes) for name, nodes in usage.items()} == {"_id_": 3, "a_1": 3, "b_1": 3}
    # Read by a secondary only: the primary's own counter says nothing of it.
    from pymongo.read_preferences import Secondary

    from smriti_scale.mongo.drivers import rows

    read = db.get_collection("posts", read_preference=Secondary())
    assert len(await rows(read.find({"a": {"$gte": 0}}).hint("a_1"))) == 10
    plan = await indexes.plan(db, drop=["posts.a_1", "posts.b_1"])
    refused = {step.name: bool(step.refused) for step in plan.steps}
    assert refused == {"a_1": True, "b_1": False}, str(plan)
    await plan.apply(skip_refused=True)
    assert sorted(await db.posts.index_information()) == ["_id_", "a_1"]
    await (await indexes.plan(db, drop=["posts.a_1"], force=True)).apply()
    assert list(await db.posts.index_information()) == ["_id_"]


async def test_the_life_of_a_rebuild_build_hide_drop_later(both_drivers_db: Any) -> None:
    db = both_drivers_db
    await db.posts.insert_many([{"a": n, "at": None} for n in range(10)])
    await db.posts.create_index("a", expireAfterSeconds=60)
    indexes = Indexes({"posts": [Index("a", partial={"a": {"$gt": 5}})]})
    await indexes.apply(db)
    old = (await db.posts.index_information())["a_1"]
    assert old["hidden"] is True
    assert old["expireAfterSeconds"] == 2147483647  # a hidden TTL index would go on deleting
    kept = await indexes.plan(db, drop_superseded=True)
    assert kept.is_empty
    assert "replaced by 'a_1_v2'" in str(kept)
    due = await indexes.plan(db, drop_superseded=True, drop_after=0)
    assert [(step.kind, step.name) for step in due.changes] == [("drop", "a_1")]
    await due.apply()
    assert sorted(await db.posts.index_information()) == ["_id_", "a_1_v2"]
    assert await db[BOOKKEEPING].count_documents({"index": "a_1"}) == 0


async def test_the_database_is_looked_at_again_before_anything_runs(db: Any) -> None:
    await db.posts.create_index("user_id", expireAfterSeconds=60)
    indexes = Indexes({"posts": [Index("user_id", ttl=60), Index("b")]})
    plan = await indexes.plan(db)
    await db.posts.create_index("b")  # someone was faster
    assert await plan.apply() == ()
    await db.posts.drop_index("b_1")
    await db.command({"collMod": "posts", "index": {"name": "user_id_1", "expireAfterSeconds": 5}})
    with pytest.raises(StalePlan, match=r"set_ttl posts\.user_id_1"):
        await plan.apply()
    assert "b_1" not in await db.posts.index_information()


async def test_a_plan_finishes_what_another_instance_began_and_did_not_end(db: Any) -> None:
    await db.posts.create_index("a")
    indexes = Indexes({"posts": [Index("a", sparse=True)]})
    plan = await indexes.plan(db)
    assert [step.kind for step in plan.changes] == ["rebuild"]
    # What an applier leaves that is killed between the build and the hiding.
    await db[BOOKKEEPING].insert_one(
        {"_id": "posts/a_1", "collection": "posts", "index": "a_1", "superseded_by": "a_1_v2", "hidden_at": None}
    )
    await db.posts.create_index("a", sparse=True, name="a_1_v2")
    assert [one.step.key for one in await plan.apply()] == [("hide", "posts", "a_1")]
    assert (await db.posts.index_information())["a_1"]["hidden"] is True
    assert (await indexes.plan(db)).is_empty


async def test_two_appliers_at_once_build_once(db: Any) -> None:
    await db.posts.insert_many([{"a": n % 100, "b": n} for n in range(2000)])
    indexes = Indexes({"posts": [Index("a"), Index("b", unique=True), Index("a", "b")]})
    waits: list[str] = []

    def progress(now: Progress) -> None:
        if now.phase.startswith("waiting"):
            waits.append(now.phase)

    plans = await asyncio.gather(*(indexes.plan(db) for _ in range(4)))
    done = await asyncio.gather(*(plan.apply(progress=progress) for plan in plans))
    assert sorted(len(steps) for steps in done) == [0, 0, 0, 3]
    assert len(waits) == 3
    assert "process" in waits[0]
    assert await db[BOOKKEEPING].find_one({"_id": "lease"}) is None


async def test_who_does_not_want_to_wait_is_told_who_builds(db: Any) -> None:
    plan = await INDEXES.plan(db)
    async with Lease(db[BOOKKEEPING]):
        with pytest.raises(BuilderBusy, match=r"process \d+\) has been building"):
            await plan.apply(wait=0)
    await plan.apply(wait=0)


async def test_a_dead_builders_lease_passes_on(db: Any) -> None:
    dead = Lease(db[BOOKKEEPING], ttl=0.2)
    assert await dead._take()
    async with Lease(db[BOOKKEEPING], wait=10) as lease:
        lease.check()


async def test_a_lease_that_was_taken_over_stops_its_first_owner(db: Any) -> None:
    clock = ManualClock()
    async with Lease(db[BOOKKEEPING], ttl=3.0, clock=clock) as lease:
        lease.check()
        await db[BOOKKEEPING].update_one({"_id": "lease"}, {"$set": {"token": "another"}})
        await clock.until_sleepers()
        clock.advance(1.1)
        for _ in range(1000):
            await asyncio.sleep(0.01)
            if lease._safe_until == 0.0:
                break
        with pytest.raises(BuilderBusy, match="ran out"):
            lease.check()
    assert (await db[BOOKKEEPING].find_one({"_id": "lease"}))["token"] == "another"


async def test_a_lease_that_cannot_be_renewed_runs_out(db: Any) -> None:
    clock = ManualClock()
    async with Lease(db[BOOKKEEPING], ttl=3.0, clock=clock) as lease:
        lease._safe_until -= 3.0
        with pytest.raises(BuilderBusy):
            lease.check()


async def test_building_unique_on_duplicates_names_the_documents(both_drivers_db: Any) -> None:
    db = both_drivers_db
    await db.users.insert_many([{"_id": 1, "email": "A@x"}, {"_id": 2, "email": "a@x"}, {"_id": 3, "email": "b@x"}])
    index = Index("email", unique=True, collation={"locale": "en", "strength": 2})
    with pytest.raises(DuplicateKeys, match="_id 1, 2") as raised:
        await Indexes({"users": [index]}).apply(db)
    assert raised.value.total == 1
    assert list(await db.users.index_information()) == ["_id_"]


async def test_prepare_unique_keeps_new_duplicates_out_while_the_old_are_mended(both_drivers_db: Any) -> None:
    db = both_drivers_db
    await db.users.insert_many([{"_id": 1, "email": "a"}, {"_id": 2, "email": "a"}])
    await db.users.create_index("email")
    indexes = Indexes({"users": [Index("email", unique=True)]})
    plan = await indexes.plan(db)
    with pytest.raises(DuplicateKeys, match="refused from now on") as raised:
        await plan.apply(prepare_unique=True)
    assert raised.value.prepared
    with pytest.raises(OperationFailure, match="11000|E11000"):
        await db.users.insert_one({"_id": 3, "email": "a"})
    await db.users.delete_one({"_id": 2})
    await (await indexes.plan(db)).apply()
    assert (await db.users.index_information())["email_1"]["unique"] is True


@pytest.mark.parametrize(
    ("index", "documents", "keys"),
    [
        (Index("a"), [{"a": 1}, {"a": 1.0}, {"a": "1"}], [({"a": 1}, 2)]),
        (Index("a"), [{}, {"a": None}, {"a": 2}], [({"a": None}, 2)]),
        (Index("a", sparse=True), [{}, {}, {"a": None}], []),
        (Index("a"), [{"a": [1, 1, 2]}, {"a": 2}, {"a": 3}], [({"a": 2}, 2)]),
        (Index("a.b"), [{"a": [{"b": 1}]}, {"a": {"b": 1}}], [({"a.b": 1}, 2)]),
        (Index("a", "b"), [{"a": 1, "b": 2}, {"a": 1, "b": 2}, {"a": 1, "b": 3}], [({"a": 1, "b": 2}, 2)]),
        (Index("a", partial={"live": True}), [{"a": 1}, {"a": 1, "live": True}], []),
        (Index("a", collation={"locale": "en", "strength": 1}), [{"a": "é"}, {"a": "E"}], [(ANY, 2)]),
    ],
)
async def test_duplicates_are_counted_as_the_index_would(
    db: Any, index: Index, documents: list[dict[str, Any]], keys: list[Any]
) -> None:
    await db.things.insert_many([{"_id": n, **document} for n, document in enumerate(documents)])
    groups, total = await find_duplicates(db, "things", index)
    assert [(group["key"], group["count"]) for group in groups] == keys
    assert total == len(keys)
    unique = db.command({"createIndexes": "things", "indexes": [index.replace(unique=True).to_server()]})
    if keys:  # the server agrees
        with pytest.raises(OperationFailure, match="E11000"):
            await unique
    else:
        await unique


async def test_progress_and_events_tell_each_step(both_drivers_db: Any) -> None:
    heard: list[Event] = []
    told: list[tuple[int, int, float | None, str]] = []
    plan = await INDEXES.plan(both_drivers_db)
    await plan.apply(
        progress=lambda now: told.append((now.position, now.total, now.fraction, now.phase)),
        events=Events(heard.append),
    )
    assert told[0] == (1, 2, None, "starting")
    assert told[-1] == (2, 2, 1.0, "done")
    assert [(event.kind, event.index) for event in heard if isinstance(event, IndexStepDone)] == [
        ("create", "user_id_1"),
        ("create", "created_at_-1"),
    ]


async def test_what_the_server_refuses_keeps_its_code_and_gains_a_sentence(db: Any) -> None:
    await db.posts.insert_one({"a": [1], "b": [2]})
    with pytest.raises(
        IndexBuildFailed, match=r"create posts\.a_1_b_1: MongoDB says 'Index build failed.*parallel"
    ) as raised:
        await Indexes({"posts": [Index("a", "b")]}).apply(db)
    assert raised.value.code == 171
    assert isinstance(raised.value.__cause__, OperationFailure)


@pytest.mark.parametrize(("code", "sentence"), [(13, "dbAdmin"), (67, "64"), (85, "plan again"), (86, "name=")])
def test_server_codes_become_sentences(code: int, sentence: str) -> None:
    step = Step("create", "posts", "a_1", Index("a"), "declared")
    error = explained(OperationFailure("no", code, {"errmsg": "its own words"}), step)
    assert sentence in str(error)
    assert "its own words" in str(error)
    assert error.code == code
