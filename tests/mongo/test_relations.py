from __future__ import annotations

import asyncio
import datetime
import re
from typing import Any

import pytest
from bson import ObjectId
from pymongo.errors import OperationFailure

from smriti_scale.errors import ConfigurationError
from smriti_scale.mongo import BatchLoader, lookup_many, lookup_one
from smriti_scale.mongo.drivers import rows


class Counting:
    """A collection that counts what is asked of it."""

    def __init__(self, collection: Any) -> None:
        self.collection = collection
        self.filters: list[Any] = []

    def find(self, query: Any, *args: Any, **options: Any) -> Any:
        self.filters.append(query)
        return self.collection.find(query, *args, **options)


async def people(db: Any, count: int = 10) -> Counting:
    await db.users.insert_many([{"_id": n, "name": f"user {n}", "team": n % 3} for n in range(count)])
    return Counting(db.users)


async def test_handlers_that_ask_in_one_tick_share_one_query(both_drivers_db: Any) -> None:
    users = await people(both_drivers_db)
    loader: BatchLoader[Any] = BatchLoader(users)  # type: ignore[arg-type]
    found = await asyncio.gather(*(loader.load(key) for key in [3, 1, 3, 99, 1]))
    assert [user and user["name"] for user in found] == ["user 3", "user 1", "user 3", None, "user 1"]
    assert users.filters == [{"_id": {"$in": [3, 1, 99]}}]


async def test_a_key_is_asked_for_once_in_a_loaders_life_until_cleared(db: Any) -> None:
    users = await people(db)
    loader: BatchLoader[Any] = BatchLoader(users)  # type: ignore[arg-type]
    await loader.load(1)
    await loader.load(1)
    assert len(users.filters) == 1
    await db.users.update_one({"_id": 1}, {"$set": {"name": "new"}})
    loader.clear(1)
    assert (await loader.load(1))["name"] == "new"


async def test_load_many_keeps_the_order_of_the_keys_and_chunks(db: Any) -> None:
    users = await people(db)
    loader: BatchLoader[Any] = BatchLoader(users, max_batch=4)  # type: ignore[arg-type]
    found = await loader.load_many([9, 0, 5, 2, 7, 0])
    assert [user["_id"] for user in found] == [9, 0, 5, 2, 7, 0]
    assert sorted(len(asked["_id"]["$in"]) for asked in users.filters) == [1, 4]


async def test_lists_gives_every_document_of_a_key_in_order(both_drivers_db: Any) -> None:
    db = both_drivers_db
    users = await people(db)
    loader = BatchLoader.lists(users, "team", sort=[("_id", -1)], fields=["name"])  # type: ignore[arg-type]
    first, none, second = await loader.load_many([0, 7, 1])
    assert [user["_id"] for user in first] == [9, 6, 3, 0]
    assert none == []
    assert [user["_id"] for user in second] == [7, 4, 1]
    assert set(second[0]) == {"_id", "name", "team"}
    assert len(users.filters) == 1


async def test_an_array_counts_by_its_elements_and_a_path_reaches_inside(db: Any) -> None:
    await db.posts.insert_many([{"_id": 1, "tags": [{"id": "a"}, {"id": "b"}]}, {"_id": 2, "tags": [{"id": "b"}]}])
    loader = BatchLoader.lists(db.posts, "tags.id", fields=["title"])
    found = await loader.load_many(["a", "b"])
    assert [[post["_id"] for post in posts] for posts in found] == [[1], [1, 2]]


async def test_keys_that_mongodb_holds_for_equal_are_one_key(db: Any) -> None:
    noon = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)
    await db.things.insert_many([{"_id": 1}, {"_id": True}, {"_id": noon}, {"_id": {"a": 1}}])
    loader: BatchLoader[Any] = BatchLoader(db.things)
    one, also_one, true, at_noon, document = await loader.load_many(
        [1, 1.0, True, noon.astimezone(datetime.timezone(datetime.timedelta(hours=5))), {"a": 1}]
    )
    assert one is also_one
    assert one == {"_id": 1}
    assert true["_id"] is True
    assert at_noon["_id"] == noon.replace(tzinfo=None)
    assert document == {"_id": {"a": 1}}


async def test_no_key_asks_nothing(db: Any) -> None:
    users = await people(db)
    assert await BatchLoader(users).load(None) is None  # type: ignore[arg-type]
    assert await BatchLoader.lists(users, "team").load(None) == []  # type: ignore[arg-type]
    assert users.filters == []


@pytest.mark.parametrize("key", [[1, 2], re.compile("^a"), (1,)])
async def test_what_mongodb_would_match_by_other_rules_is_no_key(db: Any, key: Any) -> None:
    with pytest.raises(TypeError, match="no key"):
        await BatchLoader(db.users).load(key)


async def test_one_callers_cancellation_leaves_the_others_their_answer(db: Any) -> None:
    users = await people(db)
    loader: BatchLoader[Any] = BatchLoader(users)  # type: ignore[arg-type]
    first, second = asyncio.ensure_future(loader.load(1)), asyncio.ensure_future(loader.load(1))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second)["_id"] == 1
    assert first.cancelled()


async def test_a_failed_query_reaches_every_caller_and_is_tried_again(db: Any) -> None:
    users = await people(db)
    loader: BatchLoader[Any] = BatchLoader(users, filter={"$nonsense": 1})  # type: ignore[arg-type]
    answers = await asyncio.gather(loader.load(1), loader.load(2), return_exceptions=True)
    assert [type(answer) for answer in answers] == [OperationFailure, OperationFailure]
    loader._filter = {}
    assert (await loader.load(1))["_id"] == 1


async def test_primed_documents_are_not_asked_for(db: Any) -> None:
    users = await people(db)
    loader: BatchLoader[Any] = BatchLoader(users)  # type: ignore[arg-type]
    loader.prime(1, {"_id": 1, "name": "known"})
    assert (await loader.load(1))["name"] == "known"
    assert users.filters == []


async def test_decode_and_filter_apply(db: Any) -> None:
    users = await people(db)
    loader: BatchLoader[Any] = BatchLoader(users, filter={"team": 0}, decode=lambda user: user["name"])  # type: ignore[arg-type]
    assert await loader.load_many([0, 1]) == ["user 0", None]


@pytest.mark.parametrize("options", [{"max_batch": 0}, {"key": "a", "fields": {"a": 0}}, {"fields": "name"}])
def test_a_loader_that_cannot_work_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        BatchLoader(object(), **options)  # type: ignore[arg-type]


async def test_lookup_one_neither_drops_nor_multiplies_rows(both_drivers_db: Any) -> None:
    db = both_drivers_db
    await db.users.insert_many([{"_id": "a", "name": "A"}, {"_id": "x", "code": None}])
    await db.posts.insert_many([{"_id": 1, "user_id": "a"}, {"_id": 2, "user_id": "gone"}, {"_id": 3}])
    page = [{"$sort": {"_id": 1}}, {"$limit": 3}]
    found = await rows(
        db.posts.aggregate([*page, *lookup_one("users", local="user_id", into="author", fields=["name"])])
    )
    assert [row["author"] for row in found] == [{"_id": "a", "name": "A"}, None, None]
    # A missing local field equals a missing foreign one to $lookup; here it means no match.
    by_code = await rows(db.posts.aggregate([*page, *lookup_one("users", local="code", foreign="code", into="author")]))
    assert [row["author"] for row in by_code] == [None, None, None]


async def test_lookup_many_reads_only_the_keys_of_its_limit(both_drivers_db: Any) -> None:
    db = both_drivers_db
    await db.posts.insert_many([{"_id": 1}, {"_id": 2}, {"_id": 3}])
    await db.comments.insert_many([{"post_id": n % 2 + 1, "at": n, "body": "…"} for n in range(400)])
    await db.comments.create_index([("post_id", 1), ("at", -1)])
    pipeline = [
        {"$sort": {"_id": 1}},
        {"$limit": 3},
        *lookup_many(
            "comments", foreign="post_id", into="latest", sort=[("at", -1)], limit=2, fields={"_id": 0, "at": 1}
        ),
    ]
    found = await rows(db.posts.aggregate(pipeline))
    assert [row["latest"] for row in found] == [[{"at": 398}, {"at": 396}], [{"at": 399}, {"at": 397}], []]
    explained = await db.command(
        {"explain": {"aggregate": "posts", "pipeline": pipeline, "cursor": {}}, "verbosity": "executionStats"}
    )
    joined = next(stage for stage in explained["stages"] if "$lookup" in stage)
    assert joined["collectionScans"] == 0
    assert joined["totalKeysExamined"] <= 6


async def test_lookup_many_of_a_row_without_the_local_field_is_empty(db: Any) -> None:
    await db.posts.insert_one({"_id": 1})
    await db.tags.insert_one({"_id": ObjectId()})
    found = await rows(db.posts.aggregate(lookup_many("tags", local="tag", foreign="name", into="tags")))
    assert found == [{"_id": 1, "tags": []}]


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="limit"):
        lookup_many("comments", foreign="post_id", into="latest", limit=0)
