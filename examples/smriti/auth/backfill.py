"""Gives old accounts the normalised keys that new ones are unique by: `python -m examples.smriti.auth.backfill`.

Accounts that collide without regard to case are reported and keep working by their exact names. It may be run again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from pymongo.errors import DuplicateKeyError
from rich.console import Console
from rich.progress import Progress

from examples.smriti.auth.accounts import email_key, phone_key, username_key
from examples.smriti.indexes import INDEXES
from examples.smriti.settings import SmritiSettings
from smriti_scale.mongo import MongoClients

_KEYS = {"username": username_key, "email": email_key, "phone": phone_key}


@dataclass(frozen=True, slots=True)
class Collision:
    """An account whose key another account has.

    Args:
        user_id: the account that stays without the key.
        field: `username`, `email` or `phone`.
        value: as it is spelt there.
    """

    user_id: str
    field: str
    value: str


async def backfill(database: Any) -> AsyncIterator[Collision | None]:
    """Give each account the keys it lacks, the oldest first; yields a collision, or None, for each account seen."""
    lacking = {
        "$or": [{f"{field}_key": None, field: {"$type": "string"}} for field in _KEYS],
    }
    async for user in database.users.find(
        lacking, dict.fromkeys([*_KEYS, *(f"{field}_key" for field in _KEYS)], 1)
    ).sort("_id", 1):
        found = None
        for field, key_of in _KEYS.items():
            value = user.get(field)
            if not value or user.get(f"{field}_key"):
                continue
            try:
                await database.users.update_one({"_id": user["_id"]}, {"$set": {f"{field}_key": key_of(value)}})
            except DuplicateKeyError:
                found = Collision(str(user["_id"]), field, value)
        yield found


async def main() -> None:
    settings = SmritiSettings()
    console = Console()
    async with MongoClients(settings.mongodb_uri, database=settings.database_name) as mongo:
        await (await INDEXES.plan(mongo.write)).apply()
        total = await mongo.write.users.estimated_document_count()
        collisions = []
        with Progress(console=console) as progress:
            bar = progress.add_task("accounts", total=total)
            async for collision in backfill(mongo.write):
                progress.advance(bar)
                if collision is not None:
                    collisions.append(collision)
            progress.update(bar, completed=total)
    for collision in collisions:
        console.print(
            f"{collision.user_id}: the {collision.field} {collision.value!r} is another account's, but for case"
        )
    console.print(f"{len(collisions)} accounts collide; they keep working by their exact names")


if __name__ == "__main__":
    asyncio.run(main())
