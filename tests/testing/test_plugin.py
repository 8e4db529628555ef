"""The fixtures, used as a user's tests would."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis.asyncio

from smriti_scale.local import LocalMongo
from smriti_scale.testing import ManualClock


async def test_a_database_is_empty_and_takes_writes(both_drivers_db: Any) -> None:
    assert await both_drivers_db.list_collection_names() == []
    await both_drivers_db.things.insert_one({"_id": 1})
    assert await both_drivers_db.things.find_one() == {"_id": 1}


@pytest.mark.parametrize("mongo_driver", ["motor", "pymongo"], indirect=True)
async def test_db_uses_the_driver_asked_for(db: Any, mongo_driver: str) -> None:
    assert (mongo_driver == "motor") == type(db).__module__.startswith("motor")
    await db.things.insert_one({"_id": 1})


async def test_the_session_set_has_three_members_in_their_roles(mongo_server: LocalMongo) -> None:
    roles = [await member.role() for member in mongo_server.members]
    assert sorted(roles) == ["primary", "secondary", "secondary"]


async def test_redis_keys_live_under_a_prefix(redis_client: redis.asyncio.Redis, redis_prefix: str) -> None:
    await redis_client.set(f"{redis_prefix}a", b"1")
    assert await redis_client.get(f"{redis_prefix}a") == b"1"


async def test_a_proxy_that_swallows_never_answers(redis_url: str, fault_proxy: Any) -> None:
    proxy = await fault_proxy(redis_url)
    async with redis.asyncio.Redis.from_url(proxy.uri, retry=None) as client:
        assert await client.ping()
        await proxy.swallow()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.ping(), 0.2)
        await proxy.heal()
    async with redis.asyncio.Redis.from_url(proxy.uri) as client:
        assert await client.ping()


async def test_the_clock_wakes_a_sleeper_when_told(clock: ManualClock) -> None:
    sleeper = asyncio.ensure_future(clock.sleep(5))
    await clock.run_for(4.9)
    assert not sleeper.done()
    await clock.run_for(0.1)
    assert sleeper.done()
