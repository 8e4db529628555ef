"""Declare indexes, see what a database lacks, bring it there: `python examples/minimal/indexes.py`."""

import asyncio
import os
from typing import Any

from pymongo import AsyncMongoClient

from smriti_scale.mongo import Index, Indexes

INDEXES = Indexes(
    {
        "posts": [Index("user_id", ("created_at", -1), ("_id", -1)), Index("expires_at", ttl=3600)],
        "users": [Index("email", unique=True)],
    }
)


async def main() -> None:
    async with AsyncMongoClient[dict[str, Any]](os.environ.get("MONGODB_URI", "mongodb://127.0.0.1:27017")) as client:
        db = client["smriti_scale_example_indexes"]
        plan = await INDEXES.plan(db)
        print(plan)
        await plan.apply(progress=lambda now: print(f"{now.position}/{now.total} {now.step.name}: {now.phase}"))
        print(await INDEXES.plan(db))
        served = INDEXES.serves("posts", equality=["user_id"], sort=[("created_at", -1)])
        print(f"a user's newest posts are served by {served!r}")
        await client.drop_database(db)


asyncio.run(main())
