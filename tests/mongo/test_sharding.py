from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from bson import MaxKey, MinKey, ObjectId
from mockupdb import MockupDB
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient

from smriti_scale.errors import ConfigurationError, IndexBuildFailed, IndexingError, IndexPlanRefused, NotMongos
from smriti_scale.mongo import Index, Indexes, Query, ShardKey, Zone
from smriti_scale.mongo.shard_review import ShardKeyReview, review_shard_key
from tests.mongo.mongos_mock import MongosMock


@pytest.mark.parametrize(
    ("fields", "options", "sentence"),
    [
        ((), {}, "one field or more"),
        (("a", "a"), {}, "each once"),
        (("a", "b"), {"hashed": True}, "for one field"),
        ((("a", "hashed"), ("b", "hashed")), {}, "only one"),
        (("a",), {"hashed": True, "unique": True}, "cannot be unique"),
        ((("a", -1),), {}, "no kind of shard key"),
        (("$a",), {}, "no field path"),
        (("a",), {"zones": [Zone("eu", ("s",), {"b": 1}, {"b": 2})]}, "shard key's fields"),
    ],
)
def test_a_key_that_mongodb_would_refuse_is_refused(
    fields: tuple[Any, ...], options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        ShardKey(*fields, **options)


def test_a_key_prints_as_the_line_that_declares_it() -> None:
    for key in (ShardKey("a", hashed=True), ShardKey("a", ("b", "hashed")), ShardKey("a", "b", unique=True)):
        assert eval(repr(key)) == key


def test_a_collection_has_one_shard_key_beside_its_indexes() -> None:
    one, other = Indexes({"posts": [Index("a"), ShardKey("a")]}), Indexes({"posts": [ShardKey("b")]})
    assert one.shard_keys == {"posts": ShardKey("a")}
    assert one["posts"] == (Index("a"),)
    assert (one | Indexes({"users": [ShardKey("b")]})).shard_keys["posts"] == ShardKey("a")
    with pytest.raises(ConfigurationError, match="2 shard keys"):
        one | other


@pytest.mark.parametrize(
    ("key", "query", "reach"),
    [
        (ShardKey("a"), Query("a"), "one shard"),
        (ShardKey("a"), Query("a", "b"), "one shard"),
        (ShardKey("a"), Query(range=["a"]), "some shards"),
        (ShardKey("a"), Query("b"), "all shards"),
        (ShardKey("a"), Query(sort=[("a", 1)]), "all shards"),
        (ShardKey("a", hashed=True), Query("a"), "one shard"),
        (ShardKey("a", hashed=True), Query(range=["a"]), "all shards"),
        (ShardKey("a", "b"), Query("a"), "some shards"),
        (ShardKey("a", "b"), Query("b"), "all shards"),
        (ShardKey("a", ("b", "hashed")), Query("a"), "some shards"),
        (ShardKey(("a", "hashed"), "b"), Query("a"), "some shards"),
    ],
)
def test_a_query_reaches_the_shards_that_its_key_fields_name(key: ShardKey, query: Query, reach: str) -> None:
    assert key.reach(query) == reach


def test_which_indexes_support_a_key_and_which_may_be_unique() -> None:
    key = ShardKey("a")
    assert key.supported_by(Index("a", "b"))
    assert not key.supported_by(Index(("a", -1)))
    assert not key.supported_by(Index("a", sparse=True))
    assert not key.supported_by(Index("a", partial={"a": 1}))
    assert not key.supported_by(Index("a", collation={"locale": "de"}))
    assert key.allows_unique(Index("a", "b", unique=True))
    assert not key.allows_unique(Index("b", "a", unique=True))
    assert not ShardKey("a", hashed=True).allows_unique(Index("a", unique=True))


# --- review, on a real replica set


def findings(review: ShardKeyReview, level: str) -> str:
    return "\n".join(found.text for found in review.findings if found.level == level)


async def test_a_good_key_scores_full_marks(both_drivers_db: Any) -> None:
    db = both_drivers_db
    await db.posts.insert_many([{"user_id": n * 7919 % 5003, "created_at": n} for n in range(5000)])
    await db.posts.create_index([("user_id", "hashed")])
    indexes = Indexes(
        {"posts": [ShardKey("user_id", hashed=True)]},
        queries={"posts": [Query("user_id", sort=[("created_at", -1)], name="feed")]},
    )
    (review,) = await indexes.review_sharding(db)
    assert review.score == 100, str(review)
    assert review.documents == 5000
    assert review.distribution.distinct == 5000
    assert review.distribution.hottest_shard < 0.4
    assert review.reach == {"feed": "one shard"}
    assert review.supporting == Index(("user_id", "hashed"))
    assert "100 of 100" in str(review)


@pytest.mark.long
async def test_a_growing_key_sends_every_insert_to_one_shard(db: Any) -> None:
    await db.posts.insert_many([{"created_at": n, "user_id": n % 7} for n in range(4000)])
    review = await review_shard_key(db, "posts", ShardKey("created_at"), queries=[Query("user_id")])
    assert review.distribution.growth > 0.99
    assert review.distribution.hottest_shard == 1.0
    assert "every insert goes to one end" in findings(review, "bad")
    assert "1 of 1 declared queries ask every shard" in findings(review, "bad")
    assert "declare Index('created_at')" in findings(review, "warning")
    assert review.score == 0
    hashed = await review_shard_key(db, "posts", ShardKey("created_at", hashed=True))
    assert hashed.distribution.hottest_shard < 0.4
    assert not findings(hashed, "bad")


async def test_growth_is_seen_without_object_ids_too(db: Any) -> None:
    await db.posts.insert_many([{"_id": f"{n * 7919 % 3001:05}", "at": n} for n in range(3000)])
    review = await review_shard_key(db, "posts", ShardKey("at"))
    assert review.distribution.growth > 0.99


async def test_few_values_and_a_dominant_one_are_seen(db: Any) -> None:
    await db.posts.insert_many([{"country": "in" if n % 10 < 6 else ["de", "fr"][n % 2]} for n in range(3000)])
    await db.posts.insert_many([{} for _ in range(300)])
    review = await review_shard_key(db, "posts", ShardKey("country"), shards=8)
    assert "fewer than shards" in findings(review, "bad")
    assert "more than one shard's part" in findings(review, "bad")
    assert "lack a field" in findings(review, "warning")
    assert 0.5 < review.distribution.largest_share < 0.6


async def test_arrays_and_unique_indexes_without_the_key_are_seen(db: Any) -> None:
    await db.users.insert_many([{"tags": [n], "email": f"{n}"} for n in range(100)])
    await db.users.create_index("email", unique=True)
    review = await review_shard_key(db, "users", ShardKey("tags"))
    assert "holds arrays" in findings(review, "bad")
    assert "'email_1' does not begin with the key" in findings(review, "bad")


async def test_what_cannot_be_judged_says_why(db: Any) -> None:
    with pytest.raises(IndexingError, match="no documents"):
        await review_shard_key(db, "nothing", ShardKey("a"))
    await db.posts.insert_one({"a": 1})
    await db.create_collection("recent", viewOn="posts", pipeline=[])
    with pytest.raises(IndexingError, match="a view"):
        await review_shard_key(db, "recent", ShardKey("a"))
    with pytest.raises(ConfigurationError, match="at least 2"):
        await review_shard_key(db, "posts", ShardKey("a"), shards=1)


# --- plan and apply, on a mongos played by a mock server


@pytest.fixture(scope="module")
def mock_server() -> Iterator[MockupDB]:
    server = MockupDB()
    server.run()
    yield server
    server.stop()


@pytest.fixture
def mongos(mock_server: MockupDB) -> Iterator[MongosMock]:
    with MongosMock(mock_server) as mock:
        yield mock


@pytest.fixture(params=["motor", "pymongo"])
async def shop(request: pytest.FixtureRequest, mongos: MongosMock) -> AsyncIterator[Any]:
    if request.param == "motor":
        motor: AsyncIOMotorClient[Any] = AsyncIOMotorClient(mongos.uri)
        yield motor.shop
        motor.close()
    else:
        async with AsyncMongoClient[Any](mongos.uri) as client:
            yield client.shop


async def test_an_unsharded_collection_is_sharded_with_its_index_first(mongos: MongosMock, shop: Any) -> None:
    mongos.documents["posts"] = 1000
    indexes = Indexes({"posts": [ShardKey("user_id", hashed=True)], "new": [ShardKey("a", "b", unique=True)]})
    plan = await indexes.plan_sharding(shop)
    assert [str(command) for command in plan.commands] == [
        'db.adminCommand({ enableSharding: "shop" })',
        (
            'db.getSiblingDB("shop").runCommand({ createIndexes: "posts", '
            'indexes: [{ key: { user_id: "hashed" }, name: "user_id_hashed" }] })'
        ),
        'db.adminCommand({ shardCollection: "shop.posts", key: { user_id: "hashed" } })',
        'db.adminCommand({ shardCollection: "shop.new", key: { a: 1, b: 1 }, unique: true })',
    ]
    assert all(str(command) in str(plan) for command in plan.commands)
    assert mongos.told == []
    assert await plan.apply() == 4
    assert [(database, next(iter(command))) for database, command in mongos.told] == [
        ("admin", "enableSharding"),
        ("shop", "createIndexes"),
        ("admin", "shardCollection"),
        ("admin", "shardCollection"),
    ]
    again = await indexes.plan_sharding(shop)
    assert again.is_empty
    assert "In sync" in str(again)


async def test_another_key_reshards_and_a_longer_one_refines(mongos: MongosMock, shop: Any) -> None:
    mongos.documents |= {"posts": 10, "users": 10}
    mongos.sharded |= {"shop.posts": {"created_at": 1.0}, "shop.users": {"region": 1}}
    mongos.indexes |= {
        "posts": [{"key": {"user_id": 1}, "name": "user_id_1"}],
        "users": [{"key": {"region": 1, "name": 1}, "name": "n"}],
    }
    plan = await Indexes({"posts": [ShardKey("user_id")], "users": [ShardKey("region", "name")]}).plan_sharding(shop)
    assert [next(iter(command.command)) for command in plan.commands] == [
        "reshardCollection",
        "refineCollectionShardKey",
    ]
    assert await plan.apply() == 2
    assert mongos.sharded == {"shop.posts": {"user_id": 1}, "shop.users": {"region": 1, "name": 1}}


async def test_zones_are_added_once(mongos: MongosMock, shop: Any) -> None:
    mongos.zones["shard0"].append("eu")
    zones = [
        Zone("eu", ("shard0", "shard1"), {"region": "a", "user": MinKey()}, {"region": "b", "user": MaxKey()}),
        Zone("in", ("shard1",), {"region": "in"}, {"region": "io"}),
    ]
    indexes = Indexes({"posts": [ShardKey("region", "user", zones=zones)]})
    plan = await indexes.plan_sharding(shop)
    assert 'min: { region: "a", user: MinKey() }' in str(plan)
    await plan.apply()
    assert mongos.zones == {"shard0": ["eu"], "shard1": ["eu", "in"]}
    assert len(mongos.ranges) == 2
    assert (await indexes.plan_sharding(shop)).is_empty


async def test_a_unique_index_without_the_key_is_refused_before_anything_runs(mongos: MongosMock, shop: Any) -> None:
    mongos.documents["users"] = 10
    mongos.indexes["users"] = [{"key": {"email": 1}, "name": "email_1", "unique": True}]
    plan = await Indexes({"users": [ShardKey("region")]}).plan_sharding(shop)
    assert "// REFUSED: unique indexes that do not begin with the key: email_1" in str(plan)
    with pytest.raises(IndexPlanRefused, match="email_1"):
        await plan.apply()
    assert mongos.told == []


async def test_what_the_cluster_refuses_is_said_with_the_command(mongos: MongosMock, shop: Any) -> None:
    plan = await Indexes({"posts": [ShardKey("a")]}).plan_sharding(shop)
    mongos.fail["shardCollection"] = (20, "no such luck")
    with pytest.raises(IndexBuildFailed, match=r"shardCollection.*no such luck.*20"):
        await plan.apply()


async def test_a_replica_set_is_told_apart_from_a_mongos(both_drivers_db: Any) -> None:
    plan = await Indexes({"posts": [ShardKey("user_id")]}).plan_sharding(both_drivers_db)
    assert "shardCollection" in str(plan)
    assert "not connected to a mongos" in str(plan)
    with pytest.raises(NotMongos, match="connect to a mongos"):
        await plan.apply()


async def test_resharding_needs_a_server_that_can(mock_server: MockupDB) -> None:
    with MongosMock(mock_server, wire_version=9) as mongos:
        mongos.documents["posts"] = 0
        mongos.sharded["shop.posts"] = {"a": 1}
        async with AsyncMongoClient[Any](mongos.uri) as client:
            plan = await Indexes({"posts": [ShardKey("b")]}).plan_sharding(client.shop)
    assert plan.commands[0].refused == "resharding needs MongoDB 5.0 or newer"


async def test_the_servers_own_analysis_is_used_where_it_has_one(mock_server: MockupDB) -> None:
    with MongosMock(mock_server, wire_version=21) as mongos:
        mongos.documents["posts"] = 1_000_000
        mongos.analysis = {
            "numDocsTotal": 1_000_000,
            "numDocsSampled": 900_000,
            "numDistinctValues": 4321,
            "mostCommonValues": [{"value": {"user": 5}, "frequency": 9000}],
            "monotonicity": {"recordIdCorrelationCoefficient": 0.25, "type": "not monotonic"},
        }
        async with AsyncMongoClient[Any](mongos.uri) as client:
            review = await review_shard_key(client.shop, "posts", ShardKey("user"))
    seen = review.distribution
    assert (seen.source, seen.sampled, seen.distinct, seen.growth) == ("analyzeShardKey", 900_000, 4321, 0.25)
    assert seen.largest_share == pytest.approx(0.01)


async def test_object_ids_and_dates_print_as_one_types_them() -> None:
    from smriti_scale.mongo.shard_plan import shell

    one = ObjectId("0123456789abcdef01234567")
    assert shell({"a.b": one, "c": [True, None, 1.5]}) == (
        '{ "a.b": ObjectId("0123456789abcdef01234567"), c: [true, null, 1.5] }'
    )
