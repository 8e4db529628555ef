"""Lag on demand, on a set of this worker's own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pymongo import AsyncMongoClient, WriteConcern
from pymongo.errors import OperationFailure, WTimeoutError

from smriti_scale.errors import LocalServerError
from smriti_scale.local import LocalMongo
from smriti_scale.testing import fail_point, replication_lag

Client = AsyncMongoClient[dict[str, Any]]
pytestmark = pytest.mark.xdist_group("fault_mongo")  # one worker starts the set, not each
EVERYONE = WriteConcern(3, wtimeout=30_000)


async def count(uri: str) -> int:
    client: Client = AsyncMongoClient(uri)
    async with client:
        return await client.lag.things.count_documents({})


async def test_stopped_secondaries_stay_behind_until_the_end(fault_mongo: LocalMongo) -> None:
    client: Client = AsyncMongoClient(fault_mongo.uri, w=1)
    async with client:
        things = client.lag.things
        await client.drop_database("lag")
        await things.insert_one({})
        async with replication_lag(fault_mongo) as lagging:
            assert len(lagging) == 2
            before = [await count(member.uri) for member in lagging]
            with pytest.raises(WTimeoutError):
                await things.with_options(write_concern=WriteConcern("majority", wtimeout=300)).insert_one({})
            assert [await count(member.uri) for member in lagging] == before
        await things.with_options(write_concern=EVERYONE).insert_one({})
        assert [await count(member.uri) for member in lagging] == [3, 3]


async def test_a_lag_in_seconds_lets_secondaries_follow_in_bursts(fault_mongo: LocalMongo) -> None:
    client: Client = AsyncMongoClient(fault_mongo.uri, w=1)
    async with client, asyncio.timeout(60):
        await client.drop_database("lag")
        async with replication_lag(fault_mongo, 0.1):
            await client.lag.get_collection("things", write_concern=EVERYONE).insert_one({})
    for member in fault_mongo.members:
        assert await count(member.uri) == 1


async def test_one_secondary_alone_can_lag(fault_mongo: LocalMongo) -> None:
    chosen = (await fault_mongo.secondaries())[:1]
    client: Client = AsyncMongoClient(fault_mongo.uri)
    async with replication_lag(fault_mongo, members=chosen) as lagging, client:
        assert lagging == chosen
        await client.lag.things.insert_one({})  # the other secondary makes the majority


async def test_a_fail_point_fires_so_often_as_asked(fault_mongo: LocalMongo) -> None:
    primary = await fault_mongo.primary()
    client: Client = AsyncMongoClient(primary.uri, retryReads=False)
    data = {"failCommands": ["find"], "errorCode": 292, "appName": "unlucky"}
    unlucky: Client = AsyncMongoClient(primary.uri, retryReads=False, appname="unlucky")
    async with client, unlucky, fail_point(primary, "failCommand", data=data, times=1):
        await client.lag.things.find_one()
        with pytest.raises(OperationFailure):
            await unlucky.lag.things.find_one()
        await unlucky.lag.things.find_one()


async def test_a_server_without_test_commands_says_how_to_get_them(own_mongo: Any) -> None:
    server = await own_mongo(test_commands=False)
    with pytest.raises(LocalServerError, match=r"test_commands=True"):
        async with fail_point(server.members[0], "failCommand"):
            pass
