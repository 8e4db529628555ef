"""Idempotency keys in MongoDB: the effect and the mark can be committed together."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncIterator
from typing import Any

from pymongo.errors import DuplicateKeyError

from smriti_scale.errors import LeaseLost
from smriti_scale.tasks.idempotency import Busy, Claim, Done, Granted


class MongoIdempotency:
    """Keeps keys in a collection. Times are the server's.

    Args:
        collection: of Motor or PyMongo Async, in the deployment of the data, so that one transaction spans both.
    """

    def __init__(self, collection: Any) -> None:
        self._collection = collection

    async def ensure_indexes(self) -> None:
        """Lets MongoDB remove marks when they expire."""
        await self._collection.create_index("expires_at", name="once_expires", expireAfterSeconds=0)

    async def begin(self, key: str, owner: str, *, lease: float) -> Granted | Done | Busy:
        """Take the lease if it is free or ended."""
        held = {"state": "running", "owner": owner, "until": _from_now(lease), "expires_at": _from_now(lease + 86_400)}
        free = {
            "_id": key,
            "$expr": {
                "$or": [
                    {"$and": [{"$eq": ["$state", "running"]}, {"$lt": ["$until", "$$NOW"]}]},
                    # MongoDB removes expired marks once a minute only.
                    {"$and": [{"$eq": ["$state", "done"]}, {"$lt": ["$expires_at", "$$NOW"]}]},
                ]
            },
        }
        updated = await self._collection.update_one(free, [{"$set": held}])
        if updated.matched_count:
            return Granted()
        try:
            # An upsert cannot hold `$expr`; this one matches no document that exists, so it inserts or collides.
            await self._collection.update_one({"_id": key, "state": {"$exists": False}}, [{"$set": held}], upsert=True)
        except DuplicateKeyError:
            return await self._state_of(key)
        return Granted()

    async def renew(self, key: str, owner: str, *, lease: float) -> bool:
        """Prolong the lease; False when it is another's now."""
        updated = await self._collection.update_one(
            {"_id": key, "state": "running", "owner": owner}, [{"$set": {"until": _from_now(lease)}}]
        )
        return bool(updated.matched_count)

    async def finish(self, key: str, owner: str, result: bytes, *, ttl: float) -> bool:
        """Mark the key done; False when the lease is another's now."""
        return await self._finish(key, owner, result, ttl, None)

    async def release(self, key: str, owner: str) -> None:
        """Free the key after a failure."""
        await self._collection.delete_one({"_id": key, "state": "running", "owner": owner})

    @contextlib.asynccontextmanager
    async def transaction(self, claim: Claim) -> AsyncIterator[Any]:
        """A session in a transaction that commits the mark with whatever else was written in it."""
        session = await _awaited(self._collection.database.client.start_session())
        async with session:
            async with await _awaited(session.start_transaction()):
                yield session
                if not await self._finish(claim.key, claim.owner, b"null", claim.ttl, session):
                    claim.lost = True
                    raise LeaseLost(claim.key)
            claim.finished = True

    async def _finish(self, key: str, owner: str, result: bytes, ttl: float, session: Any) -> bool:
        updated = await self._collection.update_one(
            {"_id": key, "state": "running", "owner": owner},
            [{"$set": {"state": "done", "result": {"$literal": result}, "expires_at": _from_now(ttl)}}],
            session=session,
        )
        return bool(updated.matched_count)

    async def _state_of(self, key: str) -> Granted | Done | Busy:
        remaining = {"$dateDiff": {"startDate": "$$NOW", "endDate": "$until", "unit": "millisecond"}}
        found = await self._collection.find_one({"_id": key}, {"state": 1, "result": 1, "remaining": remaining})
        if found is None:
            return Busy(0.1)  # released a moment ago: the next try gets it
        if found["state"] == "done":
            return Done(bytes(found["result"]))
        return Busy(max(0.0, found["remaining"] / 1000))


def _from_now(seconds: float) -> dict[str, Any]:
    return {"$dateAdd": {"startDate": "$$NOW", "unit": "millisecond", "amount": int(seconds * 1000)}}


async def _awaited(value: Any) -> Any:
    """Motor and PyMongo Async differ in which of these calls are awaited."""
    return await value if inspect.isawaitable(value) else value
