from __future__ import annotations

from typing import Any

from smriti_scale.mongo import Index, Indexes

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


async def test_an_undeclared_index_is_reported_and_kept(both_drivers_db: Any) -> None:
    db = both_drivers_db
    await db.posts.create_index("title")
    plan = await INDEXES.plan(db)
    assert [(step.kind, step.name) for step in plan.steps if step.kind == "keep"] == [("keep", "title_1")]
    await plan.apply()
    assert "title_1" in await db.posts.index_information()
    assert (await INDEXES.plan(db)).is_empty
