"""Fills a database with people, circles and posts: `python -m examples.smriti.seed --posts 2000 --circles 20`."""

from __future__ import annotations

import argparse
import asyncio
import random
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

from bson import ObjectId
from rich.progress import Progress

from examples.smriti.auth.accounts import now
from examples.smriti.circles import rules
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


async def seed(database: Any, *, posts: int, users: int = 20, circles: int = 0, seed: int = 7) -> AsyncIterator[int]:
    """Insert people, circles and notes, the newest first in time; yields how many posts have been written so far.

    With circles, every tenth note is in one of them; the others are public.

    Args:
        database: where to; both drivers' databases work.
        posts: how many posts.
        users: how many authors.
        circles: how many circles, of five people each.
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
    groups = [_circle(number, chance.sample(people, min(5, users)), moment) for number in range(circles)]
    if groups:
        await database.circles.insert_many(groups)
    for start in range(0, posts, _BATCH):
        batch = []
        for number in range(start, min(start + _BATCH, posts)):
            group = chance.choice(groups) if groups and number % 10 == 9 else None
            author = chance.choice(people)
            by = group["members"][0] if group else {"user_id": str(author["_id"]), "username": author["username"]}
            post = {
                "content_type": "note",
                "title": f"Note {posts - number}",
                "text_content": " ".join(chance.sample(_THOUGHTS, 3)),
                "author": {"user_id": by["user_id"], "username": by["username"]},
                "created_at": moment - timedelta(minutes=7 * number),
                "visibility": "circles" if group else "public",
            }
            if group:
                post["circle_ids"] = [str(group["_id"])]
            batch.append(post)
        await database.posts.insert_many(batch, ordered=False)
        yield min(start + _BATCH, posts)


def _circle(number: int, people: list[dict[str, Any]], moment: datetime) -> dict[str, Any]:
    members = [
        {"user_id": str(person["_id"]), "username": person["username"], "joined_at": moment} for person in people
    ]
    return {
        "_id": ObjectId(),
        "name": f"Circle {number}",
        "description": None,
        "color": rules.PALETTE[number % len(rules.PALETTE)],
        "emoji": None,
        "invite_code": rules.new_invite_code(),
        "members": members,
        "member_count": len(members),
        "max_members": rules.MOST_MEMBERS,
        "deletion_votes": [],
        "created_at": moment - timedelta(minutes=number),
        "created_by": {"user_id": members[0]["user_id"], "username": members[0]["username"]},
    }


async def main(posts: int, users: int, circles: int) -> None:
    settings = SmritiSettings()
    async with MongoClients(settings.mongodb_uri, database=settings.database_name) as mongo:
        await (await INDEXES.plan(mongo.write)).apply()
        with Progress() as progress:
            bar = progress.add_task("posts", total=posts)
            async for written in seed(mongo.write, posts=posts, users=users, circles=circles):
                progress.update(bar, completed=written)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--posts", type=int, default=2_000)
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--circles", type=int, default=20)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.posts, arguments.users, arguments.circles))
