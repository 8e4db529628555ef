"""A feed paged by cursor, on FastAPI. `python -m examples.minimal.pagination` starts a database and serves it.

curl -i 'http://127.0.0.1:8000/posts?limit=5'
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Response
from httpx import ASGITransport, AsyncClient
from pydantic import BaseModel
from pymongo import AsyncMongoClient

from smriti_scale.errors import InvalidCursor
from smriti_scale.local import LocalMongo
from smriti_scale.pagination import CursorPaginator, Page, PageParams, invalid_cursor_response

# In production the secret comes from the environment and is the same in every process.
SECRET = os.environ.get("CURSOR_SECRET", "only for this example, never live")
FEED = CursorPaginator(sort=[("created_at", -1), ("_id", -1)], secret=SECRET)
PUBLIC = {"visibility": {"$in": ["public", None]}}


class Post(BaseModel):
    title: str
    created_at: datetime


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    uri = os.environ.get("MONGODB_URI", "mongodb://localhost:27017")
    async with AsyncMongoClient[dict[str, Any]](uri, tz_aware=True) as client:
        posts = client[os.environ.get("DATABASE_NAME", "pagination_example")].posts
        await posts.create_index(FEED.index_for(PUBLIC))
        if await posts.find_one() is None:
            now = datetime.now(UTC)
            await posts.insert_many(
                {"title": f"Post {number}", "created_at": now - timedelta(minutes=number), "visibility": "public"}
                for number in range(100)
            )
        print(await FEED.check(posts, PUBLIC))  # raises here, not at the first request, if no index serves the feed
        app.state.posts = posts
        yield


app = FastAPI(lifespan=lifespan)
app.add_exception_handler(InvalidCursor, invalid_cursor_response)


@app.get("/posts")
async def posts(params: Annotated[PageParams, Depends()], request: Request, response: Response) -> Page[Post]:
    page = await FEED.paginate(request.app.state.posts, PUBLIC, limit=params.limit, cursor=params.cursor)
    response.headers["Link"] = page.link_header(request.url)
    return page.map(Post.model_validate)


async def main() -> None:
    async with contextlib.AsyncExitStack() as running:
        if "MONGODB_URI" not in os.environ:
            server = await running.enter_async_context(LocalMongo(replicas=1))
            os.environ["MONGODB_URI"] = server.uri
        await running.enter_async_context(lifespan(app))
        client = await running.enter_async_context(
            AsyncClient(transport=ASGITransport(app=app), base_url="http://example")
        )
        params = {"limit": "40"}
        while True:
            page = (await client.get("/posts", params=params)).json()
            titles = [item["title"] for item in page["items"]]
            print(f"{len(titles)} posts, from {titles[0]} to {titles[-1]}; next: {page['next_cursor']}")
            if not page["has_next"]:
                break
            params["cursor"] = page["next_cursor"]
        altered = await client.get("/posts", params={"cursor": params["cursor"][:-2]})
        print(f"an altered cursor: {altered.status_code} {altered.json()}")


if __name__ == "__main__":
    asyncio.run(main())
