"""Idempotency keys in MongoDB: the effect and the mark can be committed together."""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import AsyncIterator
from typing import Any

import pymongo
from pymongo.errors import DuplicateKeyError, OperationFailure, PyMongoError

from smriti_scale.errors import LeaseLost
from smriti_scale.tasks.idempotency import Busy, Claim, Done, Granted

_log = logging.getLogger("smriti_scale.tasks")


class MongoIdempotency:
    """Keeps keys in a collection. Times are the server's.

    A process that dies inside `claim().transaction()` leaves a transaction that MongoDB keeps for a minute, and with it
    the lock on the key. So the key remembers the session, and whoever finds its lease ended has the session killed.

    Args:
        collection: of Motor or PyMongo Async, in the deployment of the data, so that one transaction spans both.
        lock_timeout: seconds to wait for a lock before looking whose it is.
    """

    def __init__(self, collection: Any, *, lock_timeout: float = 1.0) -> None:
        self._collection = collection
        self._lock_timeout = lock_timeout
        self._sessions: dict[str, Any] = {}

    async def ensure_indexes(self) -> None:
        """Lets MongoDB remove marks when they expire."""
        await self._collection.create_index("expires_at", name="once_expires", expireAfterSeconds=0)

    async def begin(self, key: str, owner: str, *, lease: float) -> Granted | Done | Busy:
        """Take the lease if it is free or ended."""
        session = await _awaited(self._collection.database.client.start_session())
        state: Granted | Done | Busy | None = None
        try:
            state = await self._begin(key, owner, lease, session.session_id)
            if state is None and await self._kill_the_dead(key):
                state = await self._begin(key, owner, lease, session.session_id)
        finally:
            if isinstance(state, Granted):
                self._sessions[owner] = session
            else:
                await session.end_session()
        return state or Busy(self._lock_timeout)

    async def _begin(self, key: str, owner: str, lease: float, session_id: Any) -> Granted | Done | Busy | None:
        """None when the key is locked by a transaction."""
        held = {
            "state": "running",
            "owner": owner,
            "session": {"$literal": session_id},
            "until": _from_now(lease),
            "expires_at": _from_now(lease + 86_400),
        }
        ended = {
            "$or": [
                {"$and": [{"$eq": ["$state", "running"]}, {"$lt": ["$until", "$$NOW"]}]},
                # MongoDB removes expired marks once a minute only.
                {"$and": [{"$eq": ["$state", "done"]}, {"$lt": ["$expires_at", "$$NOW"]}]},
            ]
        }
        try:
            with pymongo.timeout(self._lock_timeout):
                updated = await self._collection.update_one({"_id": key, "$expr": ended}, [{"$set": held}])
                if updated.matched_count:
                    return Granted()
                # An upsert cannot hold `$expr`; this one matches no document there is, so it inserts or collides.
                absent = {"_id": key, "state": {"$exists": False}}
                await self._collection.update_one(absent, [{"$set": held}], upsert=True)
        except DuplicateKeyError:
            return await self._state_of(key)
        except PyMongoError as error:
            if error.timeout:
                return None
            raise
        return Granted()

    async def _kill_the_dead(self, key: str) -> bool:
        """End the session of an owner whose lease has ended; False when there is none, or it may not be done."""
        ended = {"_id": key, "state": "running", "$expr": {"$lt": ["$until", "$$NOW"]}}
        found = await self._collection.find_one(ended, {"session": 1})
        if found is None or not found.get("session"):
            return False
        try:
            await self._collection.database.client.admin.command("killSessions", [found["session"]])
        except OperationFailure as error:
            _log.warning("cannot end the session that locks %r, its transaction expires by itself: %r", key, error)
            return False
        return True

    async def renew(self, key: str, owner: str, *, lease: float) -> bool:
        """Prolong the lease; False when it is another's now."""
        updated = await self._collection.update_one(
            {"_id": key, "state": "running", "owner": owner}, [{"$set": {"until": _from_now(lease)}}]
        )
        return bool(updated.matched_count)

    async def finish(self, key: str, owner: str, result: bytes, *, ttl: float) -> bool:
        """Mark the key done; False when the lease is another's now."""
        finished = await self._finish(key, owner, result, ttl, None)
        await self._end_session(owner)
        return finished

    async def release(self, key: str, owner: str) -> None:
        """Free the key after a failure."""
        await self._end_session(owner)
        await self._collection.delete_one({"_id": key, "state": "running", "owner": owner})

    @contextlib.asynccontextmanager
    async def transaction(self, claim: Claim) -> AsyncIterator[Any]:
        """A session in a transaction that commits the mark with whatever else was written in it."""
        session = self._sessions[claim.owner]
        async with await _awaited(session.start_transaction()):
            yield session
            if not await self._finish(claim.key, claim.owner, b"null", claim.ttl, session):
                claim.lost = True
                raise LeaseLost(claim.key)
        claim.finished = True
        await self._end_session(claim.owner)

    async def _end_session(self, owner: str) -> None:
        session = self._sessions.pop(owner, None)
        if session is not None:
            await session.end_session()

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
