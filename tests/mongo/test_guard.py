from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from bson import ObjectId
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient

from smriti_scale.errors import ConfigurationError, QueryProblems
from smriti_scale.events import Event, Events, RepeatedQuery, SlowQuery
from smriti_scale.mongo import Index, QueryGuard, QueryGuardMiddleware
from smriti_scale.mongo.drivers import rows
from smriti_scale.mongo.guard import QueryWarning
from smriti_scale.testing import ManualClock


@pytest.fixture
def guard() -> QueryGuard:
    return QueryGuard(max_repeats=3)


@pytest.fixture(params=["motor", "pymongo"])
async def db(
    request: pytest.FixtureRequest, guard: QueryGuard, mongo_uri: str, mongo_database_name: str
) -> AsyncIterator[Any]:
    """A database whose client has the guard for a listener, with 300 posts."""
    if request.param == "motor":
        motor: AsyncIOMotorClient[Any] = AsyncIOMotorClient(mongo_uri, event_listeners=[guard])
        yield await filled(motor[mongo_database_name])
        motor.close()
    else:
        async with AsyncMongoClient[Any](mongo_uri, event_listeners=[guard]) as client:
            yield await filled(client[mongo_database_name])


async def filled(db: Any) -> Any:
    await db.posts.create_index("created_at")
    await db.posts.insert_many(
        [{"_id": n, "user_id": n % 5, "created_at": n, "state": "open", "place": {"n": n}} for n in range(300)]
    )
    return db


async def test_a_collection_scan_is_raised_with_the_index_that_would_serve(guard: QueryGuard, db: Any) -> None:
    with pytest.raises(QueryProblems) as raised:
        async with guard.watch(db):
            await rows(db.posts.find({"user_id": 3}, sort=[("created_at", -1)], limit=5).hint([("$natural", 1)]))
    text = str(raised.value)
    assert "scan: find posts {user_id: ?} sort {created_at: -1}" in text
    assert "COLLSCAN" in text
    assert "Index('user_id', ('created_at', -1))" in text


async def test_a_query_that_its_index_serves_passes(guard: QueryGuard, db: Any) -> None:
    await db.posts.create_index([("user_id", 1), ("created_at", -1)])
    async with guard.watch(db) as watched:
        await rows(db.posts.find({"user_id": 3}, sort=[("created_at", -1)], limit=5))
        await db.posts.find_one({"_id": 7})
        await rows(db.posts.find({}, limit=3))
    assert watched.problems == []


async def test_a_sort_in_memory_is_found(guard: QueryGuard, db: Any) -> None:
    await db.posts.create_index("user_id")
    async with guard.watch(db, action="report") as watched:
        await rows(db.posts.find({"user_id": 3}, sort=[("state", 1)], limit=5))
        await rows(db.posts.aggregate([{"$match": {"user_id": 3}}, {"$sort": {"state": 1}}, {"$limit": 5}]))
    assert [problem.kind for problem in watched.problems] == ["sort", "sort"]
    assert watched.problems[0].wants == (Index("user_id", "state"),)


async def test_a_sort_of_groups_is_no_problem_for_no_index_could_help(guard: QueryGuard, db: Any) -> None:
    await db.posts.create_index("user_id")
    async with guard.watch(db) as watched:
        await rows(
            db.posts.aggregate(
                [
                    {"$match": {"user_id": 3}},
                    {"$group": {"_id": "$state", "n": {"$sum": 1}}},
                    {"$sort": {"n": -1}},
                ]
            )
        )
    assert watched.problems == []


async def test_examining_far_more_than_is_returned_is_found(guard: QueryGuard, db: Any) -> None:
    async with guard.watch(db, action="report") as watched:
        await rows(db.posts.find({"created_at": {"$gte": 0}, "place.n": 299}))
    (problem,) = watched.problems
    assert problem.kind == "ratio"
    assert "300 documents examined, 1 returned" in problem.detail
    assert problem.wants == (Index("place.n", "created_at"),)


async def test_updates_and_deletes_that_scan_are_found_and_not_run_again(guard: QueryGuard, db: Any) -> None:
    async with guard.watch(db, action="report") as watched:
        await db.posts.update_one({"state": "open", "_id": {"$gte": 0}}, {"$inc": {"seen": 1}})
        await db.posts.update_many({"user_id": 1}, {"$inc": {"seen": 1}})
        await db.posts.find_one_and_update({"user_id": 2}, {"$inc": {"seen": 1}})
        await db.posts.delete_one({"user_id": 4})
    assert sorted(problem.shape.split()[0] for problem in watched.problems) == ["delete", "findAndModify", "update"]
    assert await db.posts.count_documents({"user_id": 1, "seen": 1}) == 60
    assert await db.posts.count_documents({"user_id": 2, "seen": 1}) == 1
    assert await db.posts.count_documents({"user_id": 4}) == 59


async def test_the_same_shape_repeated_in_one_block_is_n_plus_one(guard: QueryGuard, db: Any) -> None:
    await db.posts.create_index("user_id")
    with pytest.raises(QueryProblems, match=r"sent 5 times") as raised:
        async with guard.watch(db):
            await asyncio.gather(*(rows(db.posts.find({"user_id": n})) for n in range(5)))
    assert "BatchLoader(db.posts, 'user_id')" in str(raised.value)


async def test_one_batched_question_is_no_repetition(guard: QueryGuard, db: Any) -> None:
    async with guard.watch(db) as watched:
        await rows(db.posts.find({"_id": {"$in": [1, 2, 3, 4, 5]}}))
        for n in range(3):
            await db.posts.find_one({"_id": n})
    assert watched.problems == []


async def test_a_failing_block_keeps_its_own_error(guard: QueryGuard, db: Any) -> None:
    async def broken() -> None:
        async with guard.watch(db):
            await rows(db.posts.find({"state": "x"}))
            raise KeyError

    with pytest.raises(KeyError):
        await broken()


async def test_warnings_in_place_of_errors(guard: QueryGuard, db: Any) -> None:
    with pytest.warns(QueryWarning, match="scan: find posts"):
        async with guard.watch(db, action="warn"):
            await rows(db.posts.find({"state": "x"}))


async def test_ignored_collections_pass(guard: QueryGuard, db: Any) -> None:
    guard.ignore |= {"posts"}
    async with guard.watch(db):
        await rows(db.posts.find({"state": "x"}))


async def test_what_is_sent_outside_a_block_is_not_watched(guard: QueryGuard, db: Any) -> None:
    await rows(db.posts.find({"state": "x"}))
    async with guard.watch(db) as watched:
        await db.posts.find_one({"_id": 1})
    assert watched.problems == []


async def test_the_middleware_watches_each_request_apart(guard: QueryGuard, db: Any) -> None:
    heard: list[Event] = []
    guard.events = Events(heard.append)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for n in range(scope["reads"]):
            await db.posts.find_one({"_id": n})
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    production = QueryGuardMiddleware(app, guard=guard)
    await asyncio.gather(*(production({"type": "http", "reads": 3}, None, send) for _ in range(4)))  # type: ignore[arg-type]
    assert heard == []
    await production({"type": "http", "reads": 4}, None, send)  # type: ignore[arg-type]
    assert [(type(event), getattr(event, "shape", ""), getattr(event, "count", 0)) for event in heard] == [
        (RepeatedQuery, "find posts {_id: ?}", 4)
    ]
    assert len(sent) == 5
    strict = QueryGuardMiddleware(app, guard=guard, db=db, action="raise")
    await strict({"type": "websocket", "reads": 4}, None, send)  # type: ignore[arg-type]
    with pytest.raises(QueryProblems, match="sent 4 times"):
        await strict({"type": "http", "reads": 4}, None, send)  # type: ignore[arg-type]


async def test_slow_commands_become_events_without_values(guard: QueryGuard, db: Any) -> None:
    heard: list[Event] = []
    guard.events, guard.slow_ms = Events(heard.append), 0.0
    await rows(db.posts.find({"user_id": 3, "secret": "hunter2"}, limit=2))
    await db.posts.find_one({f"likes.{ObjectId()}": True})
    first, second = heard
    assert isinstance(first, SlowQuery)
    assert (first.collection, first.shape, first.returned) == ("posts", "find posts {user_id: ?, secret: ?}", 0)
    assert first.milliseconds > 0
    assert first.wants == "Index('user_id', 'secret')"
    assert isinstance(second, SlowQuery)
    assert second.shape == "find posts {likes.<key>: ?}"
    assert "hunter2" not in str(heard)


async def test_fast_commands_are_not_reported_and_nothing_is_kept(guard: QueryGuard, db: Any) -> None:
    heard: list[Event] = []
    guard.events, guard.slow_ms = Events(heard.append), 60_000.0
    await rows(db.posts.find({"user_id": 3}))
    with pytest.raises(Exception, match="nonsense"):
        await rows(db.posts.find({"$nonsense": 3}))
    assert heard == []
    assert guard._running == {}


async def test_reports_are_bounded_per_second(clock: ManualClock, mongo_uri: str, mongo_database_name: str) -> None:
    heard: list[Event] = []
    guard = QueryGuard(slow_ms=0.0, max_reports=2, events=Events(heard.append), clock=clock)
    clock.advance(100)
    async with AsyncMongoClient[Any](mongo_uri, event_listeners=[guard]) as client:
        posts = client[mongo_database_name].posts
        for _ in range(5):
            await posts.find_one({"a": 1})
        assert len(heard) == 2
        clock.advance(1)
        await posts.find_one({"a": 1})
    assert len(heard) == 3


@pytest.mark.parametrize("options", [{"max_ratio": 0}, {"max_repeats": 0}, {"sample": 2}])
def test_limits_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        QueryGuard(**options)
