"""Accounts: signing up, signing in, and who is asking."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from bson import ObjectId
from pydantic import BaseModel
from pymongo.errors import DuplicateKeyError

from examples.smriti.answers import ApiError
from examples.smriti.auth.passwords import PasswordHasher, Verdict
from examples.smriti.auth.tokens import Tokens
from smriti_scale.cache import Cache
from smriti_scale.mongo import MongoClients

_TAKEN = {
    "username": "That username is taken",
    "username_key": "That username is taken",
    "email_key": "That e-mail address is already in use",
    "phone_key": "That phone number is already in use",
}


class User(BaseModel):
    """An account as the rest of the service sees it: never with the password's hash."""

    id: str
    username: str
    display_name: str | None = None
    email: str | None = None
    phone: str | None = None
    timezone: str | None = None
    location: dict[str, float] | None = None
    created_at: datetime

    @classmethod
    def of(cls, document: dict[str, Any]) -> User:
        return cls.model_validate({**document, "id": str(document["_id"])})


class Accounts:
    """The users collection.

    Args:
        mongo: clients for writing and reading.
        cache: holds the signed-in users for a short time.
        hasher: hashes passwords.
        tokens: issues and reads bearer tokens.
    """

    def __init__(self, mongo: MongoClients, cache: Cache, hasher: PasswordHasher, tokens: Tokens) -> None:
        self._mongo = mongo
        self._hasher = hasher
        self.tokens = tokens

        @cache.cached(ttl=60, key="user:{user_id}", tags=["user:{user_id}"], negative_ttl=1, shared=True)
        async def user_by_id(user_id: str) -> User | None:
            which, fields = {"_id": ObjectId(user_id)}, {"hashed_password": 0}
            found = await mongo.read.users.find_one(which, fields)
            if found is None:  # a replica may not have a new account yet, and "nobody" would be remembered
                found = await mongo.write.users.find_one(which, fields)
            return User.of(found) if found else None

        self.by_id = user_by_id

    async def available(self, username: str) -> bool:
        """Whether nobody has the name, in any case of letters (old accounts: as they are spelt)."""
        return await self._mongo.write.users.find_one(_by_username(username), {"_id": 1}) is None

    async def sign_up(
        self, username: str, password: str, *, email: str | None, phone: str | None, display_name: str | None
    ) -> User:
        """Create an account.

        Raises:
            ApiError: 409 when the name or a contact is in use, or no contact is given.
        """
        users = self._mongo.write.users
        if not await self.available(username):
            raise ApiError(409, _TAKEN["username"])
        if not email and not phone:
            raise ApiError(409, "An e-mail address or a phone number is needed")
        if email and await users.find_one({"$or": [{"email_key": email_key(email)}, {"email": email}]}, {"_id": 1}):
            raise ApiError(409, _TAKEN["email_key"])
        if phone and await users.find_one({"$or": [{"phone_key": phone_key(phone)}, {"phone": phone}]}, {"_id": 1}):
            raise ApiError(409, _TAKEN["phone_key"])
        document: dict[str, Any] = {
            "_id": ObjectId(),
            "username": username,
            "username_key": username_key(username),
            "display_name": display_name,
            "email": email,
            "phone": phone,
            "hashed_password": await self._hasher.hash(password),
            "email_verified": False,
            "phone_verified": False,
            "created_at": now(),
        }
        if email:
            document["email_key"] = email_key(email)
        if phone:
            document["phone_key"] = phone_key(phone)
        try:
            await users.insert_one(document)
        except DuplicateKeyError as lost_race:
            field = next(iter((lost_race.details or {}).get("keyPattern", {})), "username")
            raise ApiError(409, _TAKEN.get(field, "That account exists already")) from lost_race
        return User.of(document)

    async def sign_in(self, identifier: str, password: str, *, kind: str) -> User:
        """The account that `identifier` and `password` open.

        Args:
            kind: what the identifier was given as: `username`, `email` or `phone`.

        Raises:
            ApiError: 401 in the same words, after the same time, for an unknown account and a wrong password.
        """
        found = await self._find(identifier, kind)
        verdict = await self._hasher.verify(password, found["hashed_password"] if found else None)
        if found is None or verdict is Verdict.WRONG:
            raise ApiError(401, "Wrong username or password", headers={"WWW-Authenticate": "Bearer"})
        if verdict is Verdict.RIGHT_BUT_OLD:
            renewed = await self._hasher.hash(password)
            # Only if nobody changed the password meanwhile.
            await self._mongo.write.users.update_one(
                {"_id": found["_id"], "hashed_password": found["hashed_password"]},
                {"$set": {"hashed_password": renewed}},
            )
        return User.of(found)

    async def _find(self, identifier: str, kind: str) -> dict[str, Any] | None:
        # As it is spelt before any case: old accounts that differ by case alone keep working by their exact names.
        if kind == "phone":
            meant = [("phone", identifier), ("phone_key", phone_key(identifier))]
        else:
            meant = [
                ("username", identifier),
                ("username_key", username_key(identifier)),
                ("email", identifier),
                ("email_key", email_key(identifier)),
            ]
        # One query whether there is such an account or not: the time it takes tells nothing.
        found = await self._mongo.write.users.find({"$or": [{name: value} for name, value in meant]}).to_list(None)
        return next((user for name, value in meant for user in found if user.get(name) == value), None)


def now() -> datetime:
    """This moment as MongoDB will return it: UTC, naive, whole milliseconds."""
    moment = datetime.now(UTC).replace(tzinfo=None)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def username_key(username: str) -> str:
    return username.casefold()


def email_key(email: str) -> str:
    return email.casefold()


def phone_key(phone: str) -> str:
    return re.sub(r"\D", "", phone)


def _by_username(username: str) -> dict[str, Any]:
    return {"$or": [{"username_key": username_key(username)}, {"username": username}]}
