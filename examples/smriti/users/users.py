"""Profiles: one's own, and what others may see of one."""

from __future__ import annotations

from typing import Any

from bson import ObjectId
from pymongo import ReturnDocument

from examples.smriti.answers import ApiError, iso
from examples.smriti.auth.accounts import Accounts, User, now
from smriti_scale.cache import Cache
from smriti_scale.mongo import MongoClients


class Users:
    """Profiles of everybody.

    Args:
        mongo: clients.
        cache: holds accounts and counts; writes drop them.
        accounts: where accounts are looked up.
    """

    def __init__(self, mongo: MongoClients, cache: Cache, accounts: Accounts) -> None:
        self._mongo = mongo
        self._cache = cache
        self._accounts = accounts

    async def get(self, user_id: str) -> User:
        """An account.

        Raises:
            ApiError: 400 for a malformed id, 404 for an unknown one.
        """
        if not ObjectId.is_valid(user_id):
            raise ApiError(400, "That is no user id")
        found = await self._accounts.by_id(user_id.lower())
        if found is None:
            raise ApiError(404, "There is no such user")
        return found

    async def place(self, user: User, *, timezone: str | None, location: dict[str, float] | None) -> User:
        """Set where somebody is; None leaves as it was."""
        changes: dict[str, Any] = {}
        if timezone is not None:
            changes["timezone"] = timezone
        if location is not None:
            changes["location"] = location
        if not changes:
            return user
        stored = await self._mongo.write.users.find_one_and_update(
            {"_id": ObjectId(user.id)},
            {"$set": {**changes, "updated_at": now()}},
            projection={"hashed_password": 0},
            return_document=ReturnDocument.AFTER,
        )
        await self._cache.invalidate_tags(f"user:{user.id}")
        return User.of(stored) if stored else user


def own_profile(user: User) -> dict[str, Any]:
    return {
        "id": user.id,
        "username": user.username,
        "display_name": user.display_name,
        "email": user.email,
        "phone": user.phone,
        "timezone": user.timezone,
        "location": user.location,
        "location_required": user.timezone is None or user.location is None,
    }


def public_profile(user: User, post_count: int) -> dict[str, Any]:
    """Exactly what the contract names: contacts stay private."""
    return {
        "id": user.id,
        "username": user.username,
        "display_name": user.display_name,
        "joined_at": iso(user.created_at),
        "post_count": post_count,
    }
