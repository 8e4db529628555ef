from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pymongo import AsyncMongoClient

from smriti_scale.errors import QueryProblems
from smriti_scale.mongo import QueryGuard
from smriti_scale.mongo.drivers import rows

pytest_plugins = ["pytester"]


async def test_the_fixture_hears_every_client_and_raises(query_guard: QueryGuard, both_drivers_db: Any) -> None:
    db = both_drivers_db
    await db.posts.insert_many([{"a": n} for n in range(10)])
    with pytest.raises(QueryProblems, match="scan: find posts"):
        async with query_guard.watch(db):
            await rows(db.posts.find({"a": 5}))
    await db.posts.create_index("a")
    async with query_guard.watch(db):
        await rows(db.posts.find({"a": 5}))


async def test_limits_are_the_tests_own(query_guard: QueryGuard, db: Any) -> None:
    query_guard.max_repeats = 2
    with pytest.raises(QueryProblems, match="sent 3 times, 2 are allowed"):
        async with query_guard.watch(db):
            await asyncio.gather(*(db.posts.find_one({"_id": n}) for n in range(3)))


async def test_a_client_that_has_the_guard_as_listener_too_is_counted_once(
    query_guard: QueryGuard, mongo_uri: str, mongo_database_name: str
) -> None:
    async with (
        AsyncMongoClient[Any](mongo_uri, event_listeners=[query_guard]) as client,
        query_guard.watch(client[mongo_database_name]),
    ):
        for n in range(query_guard.max_repeats):
            await client[mongo_database_name].posts.find_one({"_id": n})


@pytest.mark.long
def test_sessions_without_the_fixture_do_not_import_the_driver(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_nothing_is_loaded():
            assert "pymongo" not in sys.modules
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)
