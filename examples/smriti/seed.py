"""Fills a database with people and posts: `python -m examples.smriti.seed --posts 2000`."""

from __future__ import annotations

import argparse
import asyncio
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

from bson import ObjectId
from rich.progress import Progress

from examples.smriti.auth.accounts import now
from examples.smriti.indexes import INDEXES
from examples.smriti.settings import SmritiSettings
from smriti_scale.mongo import MongoClients

_THOUGHTS = (
    "Walked to the river before work; the light was already there.",
    "What would I do today if nobody kept count?",
    "Called my grandmother. She told the story of the mango tree again, and it was new.",
    "A hard conversation went better than the one I had rehearsed.",
    "Noticed that I hurry most when nothing is waiting.",
    "Three good things: rain, an empty inbox, the smell of bread.",
    "I keep the question and let the answer come late.",
)
_NO_PASSWORD = "*"
_BATCH = 500


async def seed(database: Any, *, posts: int, users: int = 20, seed: int = 7) -> AsyncIterator[int]:
    """Insert people and public notes, the newest first in time; yields how many posts have been written so far.

    Args:
        database: where to; both drivers' databases work.
        posts: how many posts.
        users: how many authors.
        seed: of the random choices, so that two runs make the same.
    """
    chance = random.Random(seed)
    moment = now()
    people = [
        {
            "_id": ObjectId(),
            "username": f"reader_{number}_{ObjectId()!s:.6}{chance.randrange(10**6):06}",
            "display_name": f"Reader {number}",
            "email": None,
            "phone": None,
            "hashed_password": _NO_PASSWORD,
            "email_verified": False,
            "phone_verified": False,
            "created_at": moment - timedelta(days=400),
        }
        for number in range(users)
    ]
    for person in people:
        person["username_key"] = str(person["username"]).casefold()
    await database.users.insert_many(people)
    for start in range(0, posts, _BATCH):
        batch = []
        for number in range(start, min(start + _BATCH, posts)):
            author = chance.choice(people)
            batch.append(
                {
                    "content_type": "note",
                    "title": f"Note {posts - number}",
                    "text_content": " ".join(chance.sample(_THOUGHTS, 3)),
                    "author": {"user_id": str(author["_id"]), "username": author["username"]},
                    "created_at": moment - timedelta(minutes=7 * number),
                    "visibility": "public",
                }
            )
        await database.posts.insert_many(batch, ordered=False)
        yield min(start + _BATCH, posts)


async def main(posts: int, users: int) -> None:
    settings = SmritiSettings()
    async with MongoClients(settings.mongodb_uri, database=settings.database_name) as mongo:
        await (await INDEXES.plan(mongo.write)).apply()
        with Progress() as progress:
            bar = progress.add_task("posts", total=posts)
            async for written in seed(mongo.write, posts=posts, users=users):
                progress.update(bar, completed=written)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--posts", type=int, default=2_000)
    parser.add_argument("--users", type=int, default=20)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.posts, arguments.users))
