"""Answers kept as bytes: a hit asks nobody, a 304 sends nothing, a write says If-Match, and its tag makes old."""

import asyncio
import os

import httpx
from fastapi import FastAPI, Request, Response

from smriti_scale.cache import Cache, HTTPCacheMiddleware, http_cache
from smriti_scale.cache.http import check_preconditions, version_etag
from smriti_scale.compression import setup_compression

cache = Cache(os.environ.get("REDIS_URL"), namespace="example-http")
app = FastAPI()
setup_compression(app)
app.add_middleware(HTTPCacheMiddleware, cache=cache)  # added last: it stands outside and keeps coded bytes

posts = {"1": {"text": "first", "version": 1}}


@app.get("/posts/{post_id}")
@http_cache(max_age=60, s_maxage=600, public=True, tags=["post:{post_id}"])
async def read(post_id: str, response: Response) -> dict[str, object]:
    print("  the application is asked")
    response.headers["ETag"] = version_etag(posts[post_id]["version"])
    return dict(posts[post_id])


@app.put("/posts/{post_id}")
async def write(post_id: str, text: str, request: Request) -> dict[str, object]:
    post = posts[post_id]
    check_preconditions(request, version_etag(post["version"]), required=True)
    post.update(text=text, version=int(str(post["version"])) + 1)
    await cache.invalidate_tags(f"post:{post_id}")
    return dict(post)


async def main() -> None:
    async with cache, httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://local") as client:
        await cache.clear()

        async def show(what: str, answer: httpx.Response) -> httpx.Response:
            print(f"{what:34} {answer.status_code} {answer.headers.get('cache-status', '')} {answer.text}")
            return answer

        first = await show("the first request", await client.get("/posts/1"))
        await show("the second: a hit", await client.get("/posts/1"))
        known = {"If-None-Match": first.headers["etag"]}
        await show("the client has it already", await client.get("/posts/1", headers=known))
        match = {"If-Match": first.headers["etag"]}
        await show("a write", await client.put("/posts/1?text=second", headers=match))
        await show("another from the same old version", await client.put("/posts/1?text=third", headers=match))
        await show("what everyone reads now", await client.get("/posts/1", headers=known))


if __name__ == "__main__":
    asyncio.run(main())
