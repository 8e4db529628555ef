"""Whole requests through each compression middleware: requests a second, bytes, and where a thread pays.

One process, no sockets: what is timed is the application with its middleware. Every body is a JSON feed; every
request carries a browser's `Accept-Encoding`, so each middleware chooses the best it has.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from functools import partial

import anyio.to_thread
import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smriti_scale.compression import CompressionMiddleware
from smriti_scale.compression.coders import make_coders

BROWSER = b"gzip, deflate, br, zstd"


def _vocabulary(chance: random.Random) -> tuple[list[str], list[float]]:
    """Words and how often they occur: as in language, the n-th most frequent about 1/n of the first (Zipf)."""
    letters = "etaoinshrdlucmfwypvbgk"
    weights = [1 / (n + 1) for n in range(len(letters))]
    words = [
        "".join(chance.choices(letters, weights, k=1 + min(n // 12, 5) + chance.randrange(4))) for n in range(3000)
    ]
    return words, [1 / (n + 1) for n in range(len(words))]


def feed(size: int) -> bytes:
    """A list of posts as JSON, of about so many bytes."""
    chance = random.Random(7)
    words, weights = _vocabulary(chance)
    users = [f"{chance.getrandbits(96):024x}" for _ in range(40)]
    posts: list[dict[str, object]] = []
    length = 2
    while length < size:
        post: dict[str, object] = {
            "id": f"{chance.getrandbits(96):024x}",
            "user_id": chance.choice(users),
            "text": " ".join(chance.choices(words, weights, k=chance.randrange(5, 60))),
            "likes": chance.randrange(500),
            "created_at": f"2026-03-{chance.randrange(1, 29):02}T{chance.randrange(24):02}:00:00Z",
            "visibility": "friends",
        }
        posts.append(post)
        length += len(orjson.dumps(post)) + 1
    return orjson.dumps(posts)[: max(size, 2)]


def bare(body: bytes) -> ASGIApp:
    """The application: it has the body ready, so that all time beyond is the middleware's."""
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": list(headers)})
        await send({"type": "http.response.body", "body": body})

    return app


async def rate(app: ASGIApp, *, accept: bytes = BROWSER, seconds: float = 0.4) -> tuple[float, int]:
    """Requests a second, the best of three rounds, and the bytes of one answer's body."""
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"accept-encoding", accept)]}
    size = 0

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        nonlocal size
        size += len(message.get("body", b""))

    await app(dict(scope), receive, send)
    bytes_sent, best = size, 0.0
    for _ in range(3):
        count, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < seconds:
            for _ in range(5):
                await app(dict(scope), receive, send)
            count += 5
        best = max(best, count / spent)
    return best, bytes_sent


def mark(met: bool) -> str:
    return "✓" if met else "✗"


async def _requests() -> None:
    from brotli_asgi import BrotliMiddleware
    from starlette.middleware.gzip import GZipMiddleware
    from starlette_compress import CompressMiddleware

    peers: dict[str, Callable[[ASGIApp], ASGIApp]] = {
        "no compression": lambda app: app,
        "Starlette GZip (default)": GZipMiddleware,
        "brotli-asgi": BrotliMiddleware,
        "starlette-compress": CompressMiddleware,
        "ours (a browser: zstd)": CompressionMiddleware,
        "ours (br)": lambda app: CompressionMiddleware(app, encodings=["br"]),
        "ours (gzip)": lambda app: CompressionMiddleware(app, encodings=["gzip"]),
    }
    sizes = (1_024, 8_192, 102_400)
    print(f"{'req/s (bytes)':28}" + "".join(f"{size // 1024:>14} KB" for size in sizes))
    found: dict[tuple[str, int], tuple[float, int]] = {}
    for name, wrap in peers.items():
        cells = []
        for size in sizes:
            per_second, length = found[name, size] = await rate(wrap(bare(feed(size))))
            cells.append(f"{per_second:>9,.0f} {f'({length:,})':>9}")
        print(f"{name:26}" + "".join(cells))
    ours, starlette = found["ours (a browser: zstd)", 102_400], found["Starlette GZip (default)", 102_400]
    ratio = ours[0] / starlette[0]
    print(f"at 100 KB ours is {ratio:.1f} × Starlette's default (goal ≥ 3)  {mark(ratio >= 3)}")
    print(f"and sends {ours[1]:,} bytes against {starlette[1]:,} (goal: no more)  {mark(ours[1] <= starlette[1])}")


async def _overhead() -> None:
    small = bare(b'{"ok": true}')
    # The less disturbed of several tries: what other processes take is not the middleware's.
    tries = [(await rate(small), await rate(CompressionMiddleware(small))) for _ in range(3)]
    added = min(1 / ours - 1 / without for (without, _), (ours, _) in tries) * 1e6
    print(f"overhead on a small answer that stays plain: {added:.1f} µs (goal ≤ 10)  {mark(added <= 10)}")


async def _where_a_thread_pays() -> None:
    print("\ncoding on the loop, and in a thread: µs until the coded body is there")
    print(f"{'':6}{'KB':>5}{'on the loop':>13}{'in a thread':>13}{'thread costs':>14}")
    coders = make_coders(None, zstd_level=3, br_quality=4, gzip_level=4, padding=0)
    for name, coder in coders.items():
        for size in (8, 32, 128, 512):
            body = feed(size * 1024)
            inline = await _timed(partial(_now, coder.encode, body))
            threaded = await _timed(partial(anyio.to_thread.run_sync, coder.encode, body))
            used = "thread" if len(body) >= coder.offload_size else "loop"
            print(f"{name:6}{size:>5}{inline:>13,.0f}{threaded:>13,.0f}{threaded - inline:>+14,.0f}   used: {used}")


async def _now(code: Callable[[bytes], bytes], body: bytes) -> bytes:
    return code(body)


async def _timed(call: Callable[[], Awaitable[object]]) -> float:
    best = float("inf")
    for _ in range(30):
        start = time.perf_counter()
        await call()
        best = min(best, time.perf_counter() - start)
    return best * 1e6


async def main() -> None:
    """Print the tables."""
    await _requests()
    await _overhead()
    await _where_a_thread_pays()


if __name__ == "__main__":
    asyncio.run(main())
