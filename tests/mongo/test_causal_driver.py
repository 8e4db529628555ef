"""Why commands are lent sessions of their own: the driver's facts that the design rests on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pymongo import AsyncMongoClient
from pymongo.errors import InvalidOperation

from smriti_scale.mongo.causal_driver import check_driver


async def test_two_writes_at_once_in_one_bound_session_lose_one_of_them(
    mongo_uri: str, mongo_database_name: str
) -> None:
    """The server takes the second for a retry of the first and acknowledges it undone."""
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(mongo_uri)
    async with client, client.start_session() as session, session.bind():
        posts = client[mongo_database_name].posts
        await posts.insert_one({"_id": "first"})
        outcomes = await asyncio.gather(
            *(posts.insert_one({"_id": number}) for number in range(20)), return_exceptions=True
        )
        acknowledged = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        stored = await posts.count_documents({})
    assert len(acknowledged) + 1 > stored


async def test_a_bound_session_refuses_every_other_client(mongo_uri: str, mongo_database_name: str) -> None:
    one: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(mongo_uri)
    other: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(mongo_uri)
    async with one, other, one.start_session() as session, session.bind():
        with pytest.raises(InvalidOperation, match="bound session"):
            await other[mongo_database_name].posts.find_one()


def test_the_installed_driver_has_what_is_overridden() -> None:
    check_driver()
