"""A feed from the bytes cache beside the same application without it: requests a second, in one process."""

from __future__ import annotations

import time

import orjson
from fastapi import FastAPI
from starlette.types import ASGIApp, Message

from smriti_scale.cache import Cache, HTTPCacheMiddleware, http_cache
from smriti_scale.compression import CompressionMiddleware
from tests.benchmarks.compression import BROWSER, feed, mark


def _site(size: int, *, compressed: bool, cache: Cache | None) -> FastAPI:
    posts = orjson.loads(feed(size).rpartition(b"},")[0] + b"}]")
    api = FastAPI()
    if compressed:
        api.add_middleware(CompressionMiddleware)
    if cache is not None:
        api.add_middleware(HTTPCacheMiddleware, cache=cache)

    @api.get("/feed")
    @http_cache(max_age=600, public=True)
    async def read() -> list[dict[str, object]]:
        found: list[dict[str, object]] = posts
        return found

    return api


async def _rate(app: ASGIApp, *, etag: bytes | None = None, seconds: float = 0.5) -> tuple[float, int, bytes | None]:
    """Requests a second (best of three), bytes of a body, the entity tag."""
    headers = [(b"accept-encoding", BROWSER), (b"host", b"example.com")]
    if etag is not None:
        headers.append((b"if-none-match", etag))
    size, tag = 0, None

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        nonlocal size, tag
        size += len(message.get("body", b""))
        tag = dict(message.get("headers", ())).get(b"etag", tag)

    async def once() -> None:
        await app(
            {
                "type": "http",
                "asgi": {"version": "3.0"},
                "http_version": "1.1",
                "method": "GET",
                "scheme": "http",
                "path": "/feed",
                "query_string": b"",
                "root_path": "",
                "headers": list(headers),
                "client": ("127.0.0.1", 1),
                "server": ("example.com", 80),
            },
            receive,
            send,
        )

    await once()
    length, best = size, 0.0
    for _ in range(3):
        count, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < seconds:
            await once()
            count += 1
        best = max(best, count / spent)
    return best, length, tag


async def main() -> None:
    """Print the table."""
    sizes = (1_024, 8_192, 102_400)
    print(f"{'req/s (bytes), FastAPI, a JSON feed':38}" + "".join(f"{size // 1024:>14} KB" for size in sizes))
    rows: dict[str, list[tuple[float, int]]] = {
        "plain application": [],
        "with compression": [],
        "with compression, from the bytes cache": [],
        "… and the client has it (304)": [],
    }
    for size in sizes:
        async with Cache(namespace="bench") as cache:
            plain = await _rate(_site(size, compressed=False, cache=None))
            compressed = await _rate(_site(size, compressed=True, cache=None))
            site = _site(size, compressed=True, cache=cache)
            kept = await _rate(site)
            known = await _rate(site, etag=kept[2])
        for row, found in zip(rows.values(), (plain, compressed, kept, known), strict=True):
            row.append(found[:2])
    for name, cells in rows.items():
        print(f"{name:38}" + "".join(f"{per_second:>9,.0f} {f'({length:,})':>9}" for per_second, length in cells)[2:])
    names = list(rows)
    for index, size in enumerate(sizes):
        ratio = rows[names[2]][index][0] / rows[names[0]][index][0]
        print(f"at {size // 1024} KB the bytes cache is {ratio:.1f} × the plain application  {mark(ratio > 1)}")
