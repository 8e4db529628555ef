"""A page of posts with their authors and newest comments, without N+1: `python examples/minimal/relations.py`."""

import asyncio
import os
from typing import Any

from pymongo import AsyncMongoClient

from smriti_scale.mongo import BatchLoader, QueryGuard, lookup_many, lookup_one


async def main() -> None:
    guard = QueryGuard()
    uri = os.environ.get("MONGODB_URI", "mongodb://127.0.0.1:27017")
    async with AsyncMongoClient[dict[str, Any]](uri, event_listeners=[guard]) as client:
        db = client["smriti_scale_example_relations"]
        await db.users.insert_many([{"_id": n, "name": f"user {n}"} for n in range(5)])
        await db.posts.insert_many([{"_id": n, "user_id": n % 5} for n in range(50)])
        await db.comments.insert_many([{"post_id": n % 50, "at": n} for n in range(500)])
        await db.comments.create_index([("post_id", 1), ("at", -1)])

        async with guard.watch(db):  # raises if a query scans or repeats
            authors: BatchLoader[dict[str, Any] | None] = BatchLoader(db.users)
            posts = await db.posts.find(sort=[("_id", -1)], limit=20).to_list()
            found = await authors.load_many(post["user_id"] for post in posts)
            print(f"{len(found)} authors of {len(posts)} posts in one query")

            page: list[dict[str, Any]] = [{"$sort": {"_id": -1}}, {"$limit": 20}]
            author = lookup_one("users", local="user_id", into="author", fields=["name"])
            latest = lookup_many("comments", foreign="post_id", into="latest", sort=[("at", -1)], limit=2)
            rows = await (await db.posts.aggregate([*page, *author, *latest])).to_list()
            print(rows[0])
        await client.drop_database(db)


asyncio.run(main())
