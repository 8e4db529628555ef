"""Which index serves a list, what it costs, and what is refused, on a real server."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from bson import ObjectId
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient, ReadPreference
from pymongo.collation import Collation
from pymongo.monitoring import CommandListener, CommandStartedEvent
from pymongo.server_api import ServerApi
from pymongo.write_concern import WriteConcern

from smriti_scale.errors import ConfigurationError
from smriti_scale.mongo import Index, Indexes
from smriti_scale.pagination import CursorPaginator
from smriti_scale.testing import ManualClock

from .walking import SECRET, walk_back, walk_forward

BY_T = [("t", -1), ("_id", -1)]


async def _rows(db: Any, count: int = 120, **extra: Any) -> Any:
    # A third of the rows share one value of `t`, so ties are long.
    await db.rows.insert_many(
        [
            {
                "_id": ObjectId(),
                "u": n % 2,
                "t": max(n, 40),
                "p": ("x", None, "y")[n % 3],
                "tags": ["a", n % 4],
                "name": f"n{n}",
            }
            | extra
            for n in range(count)
        ]
    )
    return db.rows


@asynccontextmanager
async def keys_examined(db: Any) -> AsyncIterator[list[int]]:
    """How many index keys each find in the block cost, as the server's profiler tells."""
    keys: list[int] = []
    await db.command("profile", 2)
    try:
        yield keys
    finally:
        await db.command("profile", 0)
    found = db.system.profile.find({"ns": f"{db.name}.rows", "op": "query"}).sort("ts", 1)
    keys += [entry["keysExamined"] async for entry in found]


@pytest.mark.parametrize(
    ("filter", "index", "extra_keys"),
    [
        ({}, BY_T, 0),
        ({"u": 1}, [("u", 1), *BY_T], 0),
        ({"p": None}, [("p", 1), *BY_T], 0),
        ({"tags": "a"}, [("tags", 1), *BY_T], 0),
        ({"u": 1, "p": "x"}, [("u", 1), ("p", 1), ("t", 1), ("_id", 1)], 0),
        ({"t": {"$gte": 30, "$lt": 110}}, BY_T, 0),
        ({"u": 0, "t": {"$lte": 100}}, [("u", 1), *BY_T, ("name", 1)], 0),
    ],
)
async def test_a_page_costs_one_key_a_row_at_any_depth_and_one_to_look_ahead(
    db: Any, filter: dict[str, Any], index: list[tuple[str, int]], extra_keys: int
) -> None:
    rows = await _rows(db)
    await rows.create_index(index)
    paginator = CursorPaginator(BY_T, SECRET)
    plan = await paginator.check(rows, filter)
    assert plan is not None
    assert plan.method == "bounds"
    assert plan.exact
    expected = [row["_id"] async for row in rows.find(filter).sort(BY_T)]
    async with keys_examined(db) as keys:
        found, last = await walk_forward(paginator, rows, filter, limit=10)
        assert [row["_id"] for row in found] == expected
        assert [row["_id"] for row in await walk_back(paginator, rows, filter, last, limit=10)] == expected
    assert len(keys) >= 2 * (len(expected) // 10) - 1
    assert max(keys) <= 11 + extra_keys


@pytest.mark.parametrize("sort", [BY_T, [("flag", 1), ("t", 1)]])
async def test_a_merged_in_costs_little_more_even_among_long_ties(db: Any, sort: list[tuple[str, int]]) -> None:
    """`flag` is the same in every row: a scan bounded by it alone would walk the whole list."""
    rows = await _rows(db, flag=True)
    await rows.create_index([("p", 1), *CursorPaginator(sort, SECRET).sort.keys])
    paginator = CursorPaginator(sort, SECRET)
    filter = {"p": {"$in": ["x", None]}}
    plan = await paginator.check(rows, filter)
    assert plan is not None
    assert plan.method == "merge"
    expected = [row["_id"] async for row in rows.find(filter).sort(paginator.sort.keys)]
    async with keys_examined(db) as keys:
        found, last = await walk_forward(paginator, rows, filter, limit=5)
        assert [row["_id"] for row in found] == expected
        assert [row["_id"] for row in await walk_back(paginator, rows, filter, last, limit=5)] == expected
    # Two ranges of a page and one more row, then their ids: never the 80 rows that are level.
    assert max(keys) <= 2 * 2 * 6


async def test_more_ranges_than_the_server_merges_are_not_taken_for_a_page_at_once(db: Any) -> None:
    """15 × 15 values: of 225 ranges the server would read every row, and sort them."""
    await db.rows.insert_many([{"a": n % 15, "b": n // 15 % 15, "t": n} for n in range(450)])
    paginator = CursorPaginator([("t", -1)], SECRET)
    few = {"a": {"$in": [1, 2]}, "b": {"$in": [1, None]}}
    many = {"a": {"$in": list(range(15))}, "b": {"$in": list(range(15))}}
    await db.rows.create_index([("a", 1), ("b", 1), ("t", -1), ("_id", -1)], name="both")
    with pytest.raises(ConfigurationError, match="225 ranges of it, and the server merges 200"):
        await paginator.check(db.rows, many)
    assert paginator.index_for(many) == [("a", 1), ("t", -1), ("_id", -1)]
    await db.rows.create_index(paginator.index_for(many), name="one")
    for filter, index in ((few, "both"), (many, "one"), (few, "both")):
        plan = await paginator.check(db.rows, filter)
        assert plan is not None
        assert plan.index == index
    async with keys_examined(db) as keys:
        found, _ = await walk_forward(paginator, db.rows, many, limit=10)
    assert [row["t"] for row in found] == list(range(449, -1, -1))
    assert max(keys) <= 15 + 11 + 1


async def test_twenty_values_and_null_are_merged(db: Any) -> None:
    await db.rows.insert_many([{"p": n % 25, "t": n} if n % 25 else {"t": n} for n in range(250)])
    paginator = CursorPaginator([("t", -1)], SECRET)
    filter = {"p": {"$in": [None, *range(1, 20)]}}
    await db.rows.create_index(paginator.index_for(filter))
    async with keys_examined(db) as keys:
        found, _ = await walk_forward(paginator, db.rows, filter, limit=10)
    assert [row["t"] for row in found] == [n for n in range(249, -1, -1) if n % 25 < 20]
    assert max(keys) <= 21 + 11 + 1


async def test_the_feed_of_public_and_unmarked_posts_is_one_find_a_page(db: Any, mongo_uri: str) -> None:
    await db.posts.insert_many(
        [
            {"created_at": n, **({"visibility": v} if (v := ["public", "circles", None, ""][n % 4]) != "" else {})}
            for n in range(80)
        ]
    )
    sort = [("created_at", -1), ("_id", -1)]
    await db.posts.create_index([("visibility", 1), *sort])
    paginator = CursorPaginator(sort, SECRET)
    feed = {"visibility": {"$in": ["public", None]}}
    async with listening(mongo_uri, "pymongo") as (client, commands):
        found, _ = await walk_forward(paginator, client[db.name].posts, feed, limit=7)
    assert [row["created_at"] for row in found] == [n for n in range(79, -1, -1) if n % 4 != 1]
    assert [name for name, _ in commands].count("find") == 9


@asynccontextmanager
async def listening(
    uri: str, driver: str, **options: Any
) -> AsyncIterator[tuple[Any, list[tuple[str, dict[str, Any]]]]]:
    """A client, and every command it sends."""
    commands: list[tuple[str, dict[str, Any]]] = []

    class Listener(CommandListener):
        def started(self, event: CommandStartedEvent) -> None:
            commands.append((event.command_name, dict(event.command)))

        def succeeded(self, event: Any) -> None: ...

        def failed(self, event: Any) -> None: ...

    if driver == "motor":
        motor: AsyncIOMotorClient[Any] = AsyncIOMotorClient(uri, event_listeners=[Listener()], **options)
        yield motor, commands
        motor.close()
    else:
        async with AsyncMongoClient(uri, event_listeners=[Listener()], **options) as client:
            yield client, commands


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_under_the_strict_stable_api_a_comparison_serves_with_the_same_rows(
    db: Any, mongo_uri: str, driver: str
) -> None:
    await (await _rows(db)).create_index([("u", 1), *BY_T])
    paginator = CursorPaginator(BY_T, SECRET)
    async with listening(mongo_uri, driver, server_api=ServerApi("1", strict=True)) as (client, commands):
        rows = client[db.name].rows
        plan = await paginator.check(rows, {"u": 1})
        assert plan is not None
        assert plan.method == "comparison"
        expected = [row["_id"] async for row in db.rows.find({"u": 1}).sort(BY_T)]
        found, last = await walk_forward(paginator, rows, {"u": 1}, limit=7)
        assert [row["_id"] for row in found] == expected
        assert [row["_id"] for row in await walk_back(paginator, rows, {"u": 1}, last, limit=7)] == expected
    assert not [command for name, command in commands if name == "find" and "min" in command]


async def test_a_plan_is_made_once_for_each_shape_of_list(db: Any, mongo_uri: str, clock: ManualClock) -> None:
    await (await _rows(db)).create_index([("u", 1), *BY_T])
    paginator = CursorPaginator(BY_T, SECRET, clock=clock)
    async with listening(mongo_uri, "pymongo") as (client, commands):
        rows = client[db.name].rows
        for user in (0, 1, 7, 0):
            await paginator.paginate(rows, {"u": user})
        assert [name for name, _ in commands if name != "find"] == ["listIndexes", "explain"]
        clock.advance(301)  # an index that has since become unfit must be noticed
        await paginator.paginate(rows, {"u": 1})
        assert [name for name, _ in commands].count("listIndexes") == 2


async def test_an_index_that_is_dropped_or_hidden_while_in_use_is_replaced(db: Any) -> None:
    rows = await _rows(db)
    first = await rows.create_index([("u", 1), *BY_T])
    second = await rows.create_index([("u", -1), *BY_T])
    paginator = CursorPaginator(BY_T, SECRET)
    page = await paginator.paginate(rows, {"u": 1})
    await rows.drop_index(min(first, second))
    following = await paginator.paginate(rows, {"u": 1}, cursor=page.next_cursor)
    assert len(following.items) == 20
    await db.command({"collMod": "rows", "index": {"name": max(first, second), "hidden": True}})
    with pytest.raises(ConfigurationError, match="it is hidden"):
        await paginator.paginate(rows, {"u": 1})


async def test_a_partial_index_serves_only_filters_that_contain_its_expression(db: Any) -> None:
    rows = await _rows(db)
    await rows.create_index(BY_T, partialFilterExpression={"u": 1}, name="ones")
    paginator = CursorPaginator(BY_T, SECRET)
    assert len((await walk_forward(paginator, rows, {"u": 1}, limit=10))[0]) == 60
    for filter in ({}, {"u": 0}, {"u": {"$gte": 1}}, {"u": True}, {"p": "x"}):
        with pytest.raises(ConfigurationError, match="it is partial"):
            await paginator.paginate(rows, filter)
    # The plan made for u = 1 has the same shape, and must not be taken for u = 0 either.
    await rows.create_index(BY_T, name="all")
    assert len((await walk_forward(paginator, rows, {"u": 0}, limit=10))[0]) == 60
    assert len((await walk_forward(paginator, rows, {"u": 1}, limit=10))[0]) == 60


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"sparse": True}, "it is sparse"),
        ({"hidden": True}, "it is hidden"),
        ({"collation": Collation("en", strength=2)}, "its collation is not the list's"),
        ({"partialFilterExpression": {"t": {"$gt": 3}}}, "it is partial"),
    ],
)
async def test_an_index_that_would_lose_rows_is_refused_by_reason(
    both_drivers_db: Any, options: dict[str, Any], reason: str
) -> None:
    rows = await _rows(both_drivers_db)
    await rows.create_index(BY_T, **options)
    with pytest.raises(ConfigurationError, match=reason):
        await CursorPaginator(BY_T, SECRET).paginate(rows)


@pytest.mark.parametrize(
    "keys", [[("t", "hashed")], [("t", "text")], [("$**", 1)], [("t", "2d")], [("u", 1), ("p", 1)]]
)
async def test_other_kinds_of_index_are_no_candidates(db: Any, keys: list[tuple[str, Any]]) -> None:
    await db.rows.create_index(keys)
    with pytest.raises(ConfigurationError, match="no index serves rows sorted by t descending, _id descending"):
        await CursorPaginator(BY_T, SECRET).paginate(db.rows)


async def test_an_array_in_a_sort_field_is_refused_at_planning(both_drivers_db: Any) -> None:
    rows = await _rows(both_drivers_db)
    await rows.create_index([("tags", 1), ("_id", 1)])
    with pytest.raises(ConfigurationError, match="holds arrays"):
        await CursorPaginator([("tags", 1)], SECRET).paginate(rows)


@pytest.mark.parametrize("value", [[1, 2], [], [[3]]])
async def test_an_array_that_appears_in_a_sort_field_later_is_refused_when_it_is_read(
    db: Any, value: list[Any]
) -> None:
    rows = await _rows(db)
    await rows.create_index(BY_T)
    paginator = CursorPaginator(BY_T, SECRET)
    await paginator.paginate(rows)
    await rows.insert_one({"t": value})
    with pytest.raises(ConfigurationError, match="an array in the sort field 't'"):
        await walk_forward(paginator, rows, {}, limit=20)


async def test_a_dotted_sort_field_that_passes_through_an_array_is_refused(db: Any) -> None:
    await db.rows.insert_many([{"a": {"b": 1}}, {"a": [{"b": 1}, {"b": 2}]}])
    await db.rows.create_index([("a.b", 1), ("_id", 1)])
    with pytest.raises(ConfigurationError, match="holds arrays"):
        await CursorPaginator([("a.b", 1)], SECRET).paginate(db.rows)


async def test_a_view_is_refused_with_advice(both_drivers_db: Any) -> None:
    db = both_drivers_db
    await _rows(db)
    await db.command("create", "seen", viewOn="rows", pipeline=[])
    with pytest.raises(ConfigurationError, match="seen is a view.*page the collection under it"):
        await CursorPaginator(BY_T, SECRET).paginate(db.seen)


async def test_a_collection_that_does_not_exist_yet_is_an_empty_list(both_drivers_db: Any) -> None:
    db = both_drivers_db
    paginator = CursorPaginator(BY_T, SECRET)
    page = await paginator.paginate(db.rows)
    assert (page.items, page.has_next, page.has_previous) == ([], False, False)
    assert await paginator.check(db.rows) is None
    await db.rows.create_index(BY_T)
    await db.rows.insert_one({"t": 1})
    assert len((await paginator.paginate(db.rows)).items) == 1


async def test_a_unique_index_needs_no_id_to_break_ties(db: Any) -> None:
    rows = await _rows(db)
    await rows.create_index("name", unique=True)
    for sort in ([("name", 1)], [("name", -1)]):
        paginator = CursorPaginator(sort, SECRET)
        plan = await paginator.check(rows)
        assert plan is not None
        assert plan.index == "name_1"
        for filter in ({}, {"name": {"$gte": "n2", "$lte": "n9"}}):
            expected = [row["_id"] async for row in rows.find(filter).sort(sort)]
            found, last = await walk_forward(paginator, rows, filter, limit=9)
            assert [row["_id"] for row in found] == expected
            assert [row["_id"] for row in await walk_back(paginator, rows, filter, last, limit=9)] == expected


async def test_a_list_is_walked_under_a_collation_in_its_order(both_drivers_db: Any) -> None:
    names = ["b", "A", "a", "B", "Ä", "ä", "c", "á", None, 3, "C"]
    rows = both_drivers_db.rows
    await rows.insert_many([{"name": name} for name in names * 3])
    collation = Collation("en", strength=2)
    await rows.create_index([("name", 1), ("_id", 1)], collation=collation)
    for given in (collation, collation.document):
        for sort in ([("name", 1)], [("name", -1)]):
            paginator = CursorPaginator(sort, SECRET, collation=given)
            ordered = rows.find({}, hint=[("$natural", 1)]).sort(paginator.sort.keys).collation(collation)
            expected = [row["_id"] async for row in ordered]
            found, last = await walk_forward(paginator, rows, {}, limit=4)
            assert [row["_id"] for row in found] == expected
            assert [row["_id"] for row in await walk_back(paginator, rows, {}, last, limit=4)] == expected


async def test_the_collections_own_collation_counts(db: Any) -> None:
    await db.create_collection("rows", collation={"locale": "en", "strength": 2})
    await db.rows.insert_many([{"name": name} for name in "bAaBcC" * 4])
    await db.rows.create_index([("name", 1), ("_id", 1)], collation={"locale": "simple"}, name="simple")
    with pytest.raises(ConfigurationError, match="its collation is not the list's"):
        await CursorPaginator([("name", 1)], SECRET).paginate(db.rows)
    await db.rows.create_index([("name", 1), ("_id", 1)], name="own")
    found, _ = await walk_forward(CursorPaginator([("name", 1)], SECRET), db.rows, {}, limit=5)
    assert "".join(row["name"] for row in found).lower() == "a" * 8 + "b" * 8 + "c" * 8
    simple = CursorPaginator([("name", 1)], SECRET, collation={"locale": "simple"})
    found, _ = await walk_forward(simple, db.rows, {}, limit=5)
    assert "".join(row["name"] for row in found) == "".join(letter * 4 for letter in "ABCabc")


async def test_text_ids_under_a_collation_are_refused_since_two_may_be_level(db: Any) -> None:
    await db.rows.insert_many([{"_id": letter, "name": "x"} for letter in "aAbB"])
    collation = {"locale": "en", "strength": 2}
    await db.rows.create_index([("name", 1), ("_id", 1)], collation=collation)
    with pytest.raises(ConfigurationError, match="ids of rows are text"):
        await CursorPaginator([("name", 1)], SECRET, collation=collation).paginate(db.rows, limit=2)


async def test_one_index_can_be_demanded_by_name_or_keys(db: Any) -> None:
    rows = await _rows(db)
    await rows.create_index(BY_T, name="plain")
    await rows.create_index([("u", 1), *BY_T], name="by_user")
    for index in ("plain", BY_T):
        plan = await CursorPaginator(BY_T, SECRET, index=index).check(rows, {"u": 1})
        assert plan is not None
        assert (plan.index, plan.residual, plan.exact) == ("plain", ("u",), False)
        assert "tested row by row: u" in str(plan)
    with pytest.raises(ConfigurationError, match="index='gone' was asked for"):
        await CursorPaginator(BY_T, SECRET, index="gone").paginate(rows)


async def test_the_index_that_check_asks_for_serves_the_list(db: Any) -> None:
    rows = await _rows(db)
    paginator = CursorPaginator([("t", -1), ("u", 1)], SECRET)
    for filter in ({"p": "x"}, {"p": {"$in": ["x", None]}, "name": "n3"}, {"u": 1, "tags": "a"}, {"t": {"$gt": 3}}):
        with pytest.raises(ConfigurationError, match="This one would"):
            await paginator.check(rows, filter)
        await rows.create_index(paginator.index_for(filter), name="wanted")
        plan = await paginator.check(rows, filter)
        assert plan is not None
        assert plan.exact
        await rows.drop_index("wanted")


async def test_an_index_that_the_server_does_not_use_yet_is_passed_over(
    db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`listIndexes` shows an index while it is being built; hinting it is an error."""
    from smriti_scale.pagination import planner

    rows = await _rows(db)
    await rows.create_index(BY_T, name="ready")
    listed = planner._list_indexes

    async def with_another(collection: Any) -> list[dict[str, Any]]:
        return [{"name": "building", "key": dict([("u", 1), *BY_T])}, *await listed(collection)]

    monkeypatch.setattr(planner, "_list_indexes", with_another)
    plan = await CursorPaginator(BY_T, SECRET).check(rows, {"u": 1})
    assert plan is not None
    assert plan.index == "ready"
    with pytest.raises(ConfigurationError, match="building: the server does not use it"):
        await CursorPaginator(BY_T, SECRET, index="building").check(rows, {"u": 1})


async def test_a_declared_index_is_the_one_a_list_asks_for(motor_db: Any) -> None:
    paginator = CursorPaginator(BY_T, SECRET)
    indexes = Indexes({"rows": [Index(*paginator.index_for({"u": ...}))]})
    await (await indexes.plan(motor_db)).apply()
    plan = await paginator.check(motor_db.rows, {"u": 1})
    assert plan is not None
    assert plan.exact


async def test_sessions_transactions_and_read_preferences_pass_through(db: Any, mongo_uri: str) -> None:
    everywhere = WriteConcern(w=mongo_uri.count(",") + 1)  # the secondary that is asked has the index
    await (await _rows(db)).with_options(write_concern=everywhere).create_index(BY_T)
    paginator = CursorPaginator(BY_T, SECRET, total="exact")
    for driver in ("motor", "pymongo"):
        async with listening(mongo_uri, driver) as (client, commands):
            rows = client[db.name].get_collection("rows", read_preference=ReadPreference.SECONDARY_PREFERRED)
            await paginator.paginate(rows)
            assert {c["$readPreference"]["mode"] for n, c in commands if n != "endSessions"} == {"secondaryPreferred"}
            session = await client.start_session() if driver == "motor" else client.start_session()
            async with (
                session,
                await session.start_transaction() if driver == "pymongo" else session.start_transaction(),
            ):
                rows = client[db.name].rows
                await rows.insert_one({"t": 10**6}, session=session)
                page = await paginator.paginate(rows, session=session)
                assert (page.items[0]["t"], page.total) == (10**6, 121)
                await session.abort_transaction()
            assert commands[-2][1].get("txnNumber") is not None


async def test_uuids_and_aware_times_survive_the_cursor_as_the_collection_reads_them(db: Any) -> None:
    import datetime as dt

    options: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True, uuid_representation=UuidRepresentation.STANDARD)
    rows = db.get_collection("rows", codec_options=options)
    await rows.insert_many(
        [{"key": uuid.uuid4(), "t": dt.datetime(2025, 1, 1 + n % 5, tzinfo=dt.UTC)} for n in range(30)]
    )
    for sort in ([("key", 1)], [("t", -1), ("key", 1)]):
        paginator = CursorPaginator(sort, SECRET)
        await rows.create_index(list(paginator.sort.keys))
        expected = [row["_id"] async for row in rows.find().sort(paginator.sort.keys)]
        assert [row["_id"] for row in (await walk_forward(paginator, rows, {}, limit=4))[0]] == expected


async def test_a_contradiction_or_an_empty_in_is_an_empty_list(db: Any) -> None:
    rows = await _rows(db)
    await rows.create_index(BY_T)
    paginator = CursorPaginator(BY_T, SECRET)
    lists: list[dict[str, Any]] = [
        {"t": {"$gt": 5, "$lt": 3}},
        {"t": {"$gt": 5, "$lte": 5}},
        {"u": {"$in": []}},
        {"u": "-"},
    ]
    for filter in lists:
        page = await paginator.paginate(rows, filter)
        assert (page.items, page.has_next, page.has_previous) == ([], False, False)


@pytest.mark.parametrize(
    "filter", [{"place": {"$near": [1, 2]}}, {"$text": {"$search": "x"}}, {"$and": [{"p": {"$nearSphere": [1, 2]}}]}]
)
async def test_filters_that_order_rows_themselves_are_refused(db: Any, filter: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"orders rows by distance|paginate_relevance"):
        await CursorPaginator(BY_T, SECRET).paginate(db.rows, filter)


class _Sharded:
    """A collection behind a `mongos`, as far as planning asks: answers in the form of MongoDB 6.0's."""

    name, full_name, read_preference = "posts", "app.posts", None

    def __init__(self, *multikey: list[str]) -> None:
        self.database = self
        self._shards = [
            {
                "shardName": f"shard{number}",
                "winningPlan": {
                    "stage": "FETCH",
                    "inputStage": {
                        "stage": "SHARDING_FILTER",
                        "inputStage": {"stage": "IXSCAN", "multiKeyPaths": {"t": paths, "_id": []}},
                    },
                },
                "rejectedPlans": [{"stage": "IXSCAN", "multiKeyPaths": {"t": ["t"]}}],
            }
            for number, paths in enumerate(multikey)
        ]

    async def command(self, name: str, *_: Any, **__: Any) -> dict[str, Any]:
        if name == "listIndexes":
            return {"cursor": {"firstBatch": [{"name": "t_-1__id_-1", "key": {"t": -1, "_id": -1}}]}}
        return {"queryPlanner": {"winningPlan": {"stage": "SHARD_MERGE_SORT", "shards": self._shards}}}


async def test_behind_a_mongos_the_plan_of_every_shard_is_read() -> None:
    paginator = CursorPaginator([("t", -1)], SECRET)
    fit: Any = _Sharded([], [])
    plan = await paginator.check(fit)
    assert plan is not None
    assert plan.method == "bounds"
    unfit: Any = _Sharded([], ["t"])
    with pytest.raises(ConfigurationError, match="a sort field holds arrays"):
        await CursorPaginator([("t", -1)], SECRET).check(unfit)
