"""The device_tokens collection: which devices a person is reached on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

from pymongo.errors import DuplicateKeyError

from examples.smriti.auth.accounts import User, now
from examples.smriti.lists import aggregated
from smriti_scale.mongo import MongoClients

MOST_DEVICES = 50
_BATCH = 500


class Devices:
    """Devices of everybody. A token belongs to one person, the last who registered it."""

    def __init__(self, mongo: MongoClients) -> None:
        self._mongo = mongo

    async def register(self, user: User, token: str, platform: str) -> None:
        moment = now()
        change = {
            "$set": {"user_id": user.id, "platform": platform, "updated_at": moment},
            "$setOnInsert": {"created_at": moment},
        }
        try:
            await self._mongo.write.device_tokens.update_one({"token": token}, change, upsert=True)
        except DuplicateKeyError:  # two registered it at once: now it is there to be updated
            await self._mongo.write.device_tokens.update_one({"token": token}, change)

    async def unregister(self, user: User, token: str) -> None:
        """Forget one's own device; an unknown token, or somebody else's, is left as it is."""
        await self._mongo.write.device_tokens.delete_one({"token": token, "user_id": user.id})

    async def forget(self, tokens: Iterable[str]) -> None:
        """Remove tokens that the push service says are dead."""
        await self._mongo.write.device_tokens.delete_many({"token": {"$in": list(tokens)}})

    async def of_users(self, user_ids: Iterable[str]) -> dict[str, list[str]]:
        """Up to 50 tokens of each person, the newest first."""
        pipeline: list[dict[str, Any]] = [
            {"$match": {"user_id": {"$in": list(user_ids)}}},
            {"$sort": {"user_id": 1, "created_at": -1, "_id": -1}},
            {"$group": {"_id": "$user_id", "tokens": {"$push": "$token"}}},
            {"$project": {"tokens": {"$slice": ["$tokens", MOST_DEVICES]}}},
        ]
        rows = await aggregated(self._mongo.read.device_tokens, pipeline)
        return {row["_id"]: row["tokens"] for row in rows}

    async def of_all_but(self, user_id: str) -> AsyncIterator[list[str]]:
        """Every other person's tokens, in batches; never all at once in memory."""
        batch: list[str] = []
        cursor = self._mongo.read.device_tokens.find(
            {"user_id": {"$ne": user_id}}, {"token": 1, "_id": 0}, batch_size=_BATCH
        ).hint([("_id", 1)])
        async for device in cursor:
            batch.append(device["token"])
            if len(batch) == _BATCH:
                yield batch
                batch = []
        if batch:
            yield batch
