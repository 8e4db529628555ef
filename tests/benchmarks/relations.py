"""A page of 100 posts with their authors: one by one, gathered, joined, batched. Median of 30, one run.

What is measured against: the floor is one `$in` written by hand.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from pymongo import AsyncMongoClient

from smriti_scale.local import LocalMongo
from smriti_scale.mongo import BatchLoader, lookup_one
from smriti_scale.mongo.drivers import rows

POSTS, USERS, ROUNDS = 100, 60, 30


async def main() -> None:
    async with LocalMongo(1) as server, AsyncMongoClient[Any](server.uri) as client:
        db = client.bench
        await db.users.insert_many([{"_id": n, "name": f"user {n}", "bio": "x" * 300} for n in range(10_000)])
        await db.posts.insert_many(
            [{"_id": n, "user_id": n * 7 % USERS, "title": f"post {n}", "body": "x" * 500} for n in range(POSTS)]
        )

        async def posts() -> list[dict[str, Any]]:
            return await rows(db.posts.find(sort=[("_id", -1)], limit=POSTS))

        async def one_by_one() -> list[Any]:
            return [await db.users.find_one({"_id": post["user_id"]}) for post in await posts()]

        async def gathered() -> list[Any]:
            found = await posts()
            return list(await asyncio.gather(*(db.users.find_one({"_id": post["user_id"]}) for post in found)))

        async def batched() -> list[Any]:
            loader: BatchLoader[Any] = BatchLoader(db.users)
            return await asyncio.gather(*(loader.load(post["user_id"]) for post in await posts()))

        async def by_hand() -> list[Any]:
            found = await posts()
            users = await db.users.find({"_id": {"$in": list({post["user_id"] for post in found})}}).to_list()
            by_id = {user["_id"]: user for user in users}
            return [by_id[post["user_id"]] for post in found]

        page: list[dict[str, Any]] = [{"$sort": {"_id": -1}}, {"$limit": POSTS}]

        async def unwound() -> list[Any]:
            stages: list[dict[str, Any]] = [
                {"$lookup": {"from": "users", "localField": "user_id", "foreignField": "_id", "as": "author"}},
                {"$unwind": "$author"},
            ]
            return [row["author"] for row in await rows(db.posts.aggregate([*page, *stages]))]

        async def joined() -> list[Any]:
            stages = lookup_one("users", local="user_id", into="author")
            return [row["author"] for row in await rows(db.posts.aggregate([*page, *stages]))]

        async def joined_names() -> list[Any]:
            stages = lookup_one("users", local="user_id", into="author", fields=["name", "bio"])
            return [row["author"] for row in await rows(db.posts.aggregate([*page, *stages]))]

        ways: dict[str, Callable[[], Awaitable[list[Any]]]] = {
            "one by one (N+1)": one_by_one,
            "gathered (N+1 at once)": gathered,
            "$lookup and $unwind": unwound,
            "lookup_one": joined,
            "lookup_one with fields": joined_names,
            "BatchLoader": batched,
            "one $in by hand (floor)": by_hand,
        }
        expected = await by_hand()
        took = {}
        for name, way in ways.items():
            assert await way() == expected, name
            took[name] = await median(way)
        floor, worst = took["one $in by hand (floor)"], took["one by one (N+1)"]
        print(f"{'':26} {'ms':>8} {'× floor':>8} {'N+1 ×':>8}")
        for name, seconds in took.items():
            mark = ""
            if name in ("BatchLoader", "lookup_one", "lookup_one with fields"):  # the figure: well below N+1
                mark = "✓" if seconds < worst / 5 else "✗"
            print(f"{name:26} {seconds * 1000:8.2f} {seconds / floor:8.1f} {worst / seconds:8.1f} {mark}")


async def median(way: Callable[[], Awaitable[Any]]) -> float:
    taken = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        await way()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)
