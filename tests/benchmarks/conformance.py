"""What each compression middleware does with the cases that RFC 9110 and real clients bring: ✓ right, ✗ wrong.

Every case is one exchange with a small application behind the middleware; the check reads the answer as a client or
a cache would. `tests/compression/test_conformance.py` holds our column to ✓ throughout.
"""

# ruff: noqa: E501 - a row of the table is one line
from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smriti_scale.compression import CompressionMiddleware
from tests.http_asgi import Answer, ask

TEXT = b"the quick brown fox jumps over the lazy dog. " * 100
Wrap = Callable[[ASGIApp], ASGIApp]


@dataclass(frozen=True, slots=True)
class Case:
    """One row: what is right, and whether a middleware does it."""

    name: str
    check: Callable[[Wrap], Awaitable[bool]]


def _app(
    body: bytes = TEXT,
    *,
    status: int = 200,
    media_type: str = "text/plain",
    headers: Sequence[tuple[str, str]] = (),
    chunks: int = 1,
) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raw = [(b"content-type", media_type.encode())]
        if chunks == 1:
            raw.append((b"content-length", str(len(body)).encode()))
        raw += [(name.lower().encode(), value.encode()) for name, value in headers]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        for index in range(chunks):
            await send({"type": "http.response.body", "body": body, "more_body": index < chunks - 1})

    return app


def _expect(
    name: str,
    accept: str | Sequence[str] | None,
    check: Callable[[Answer], bool],
    app: ASGIApp | None = None,
    *,
    method: str = "GET",
) -> Case:
    async def run(wrap: Wrap) -> bool:
        lines = [] if accept is None else [accept] if isinstance(accept, str) else accept
        headers = [("accept-encoding", line) for line in lines]
        return check(await ask(wrap(app or _app()), headers=headers, method=method))

    return Case(name, run)


def _coded(answer: Answer) -> bool:
    return "content-encoding" in answer.headers and answer.plain == TEXT


def _plain(answer: Answer) -> bool:
    return "content-encoding" not in answer.headers and answer.body == TEXT


def _vary(answer: Answer) -> list[str]:
    return [name.strip().lower() for name in answer.headers.get("vary", "").split(",")]


async def _versioned(scope: Scope, receive: Receive, send: Send) -> None:
    request = Request(scope)
    if request.method == "PUT":
        response = Response(status_code=200 if request.headers.get("if-match") == '"v1"' else 412)
    elif '"v1"' in request.headers.get("if-none-match", ""):
        response = Response(status_code=304, headers={"etag": '"v1"'})
    else:
        response = Response(TEXT, media_type="text/plain", headers={"etag": '"v1"'})
    await response(scope, receive, send)


async def _revalidates(wrap: Wrap) -> bool:
    app = wrap(_versioned)
    first = await ask(app, headers={"accept-encoding": "gzip"})
    again = await ask(app, headers={"accept-encoding": "gzip", "if-none-match": first.headers["etag"]})
    return first.headers["etag"] != '"v1"' and again.status == 304 and again.headers["etag"] == first.headers["etag"]


async def _guards_a_write(wrap: Wrap) -> bool:
    app = wrap(_versioned)
    plain = await ask(app)
    first = await ask(app, headers={"accept-encoding": "gzip"})
    write = await ask(app, method="PUT", headers={"if-match": first.headers["etag"]})
    # The same tag on two bodies would pass too, but breaks ranges and caches.
    return first.headers["etag"] != plain.headers["etag"] and write.status == 200


def _streams(media_type: str) -> Callable[[Wrap], Awaitable[bool]]:
    async def run(wrap: Wrap) -> bool:
        answer = await ask(
            wrap(_app(b"data: x\n\n" * 100, media_type=media_type, chunks=5)), headers={"accept-encoding": "br, gzip"}
        )
        coding = answer.headers.get("content-encoding")
        pieces = [piece for piece in answer.pieces if piece]
        if "content-length" in answer.headers or len(pieces) < 5:
            return False
        if coding is None:
            return answer.body == b"data: x\n\n" * 500
        return _partial(b"".join(pieces[:3]), coding) == b"data: x\n\n" * 300 and answer.plain == b"data: x\n\n" * 500

    return run


def _partial(coded: bytes, coding: str) -> bytes:
    import zlib

    import brotli  # type: ignore[import-untyped]

    if coding == "gzip":
        return zlib.decompressobj(31).decompress(coded)
    decoded: bytes = brotli.Decompressor().process(coded)
    return decoded


async def _events_start_at_once(wrap: Wrap) -> bool:
    release = asyncio.Event()
    sent: list[Message] = []

    async def events(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await release.wait()
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"accept-encoding", b"br, gzip")]}
    app = wrap(events)

    async def run() -> None:
        await app(scope, receive, send)

    task = asyncio.create_task(run())
    for _ in range(5):
        await asyncio.sleep(0)
    started = bool(sent)
    release.set()
    await task
    return started


async def _small_behind_base_http_middleware(wrap: Wrap) -> bool:
    async def dispatch(request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)

    app = wrap(BaseHTTPMiddleware(_app(b"small"), dispatch=dispatch))
    answer = await ask(app, headers={"accept-encoding": "gzip"})
    return answer.body == b"small" and answer.headers.get("content-length") == "5"


async def _loop_stays_free(wrap: Wrap) -> bool:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    ticker = asyncio.create_task(tick())
    await ask(wrap(_app(b"".join(b"%d some text " % n for n in range(60_000)))), headers={"accept-encoding": "gzip"})
    ticker.cancel()
    return ticks > 10


async def _file_sent_by_the_server(wrap: Wrap) -> bool:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "file.txt"
        path.write_bytes(TEXT)
        answer = await ask(
            wrap(FileResponse(path)),
            headers={"accept-encoding": "gzip"},
            scope={"extensions": {"http.response.pathsend": {}}},
        )
    kinds = [message["type"] for message in answer.messages]
    return kinds == ["http.response.start", "http.response.pathsend"] and "content-encoding" not in answer.headers


async def _parts_join_no_other(wrap: Wrap) -> bool:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "file.txt"
        path.write_bytes(TEXT)
        app = wrap(FileResponse(path))
        whole = await ask(app, headers={"accept-encoding": "gzip"})
        part = await ask(
            app, headers={"accept-encoding": "gzip", "range": "bytes=5-9", "if-range": whole.headers["etag"]}
        )
    return part.status == 200 and part.plain == TEXT


async def _lengths_can_be_blurred(wrap: Wrap) -> bool:
    app = wrap(_app())
    if isinstance(app, CompressionMiddleware):
        app = CompressionMiddleware(_app(), padding=64)
    return len({len((await ask(app, headers={"accept-encoding": "gzip"})).body) for _ in range(40)}) > 5


def _left(status: int, *headers: tuple[str, str], body: bytes = TEXT) -> ASGIApp:
    return _app(body, status=status, headers=headers)


_NOISE = hashlib.shake_256(b"noise").digest(3000)

CASES: tuple[Case, ...] = (
    _expect("a browser's header gets a coded body", "gzip, deflate, br, zstd", _coded),
    _expect("no header: plain", None, _plain),
    _expect("gzip;q=0 is a refusal", "gzip;q=0", _plain),
    _expect("notgzip is not gzip", "notgzip", _plain),
    _expect("codings in any case", "GZip", _coded),
    _expect("several header lines are one list", ["deflate", "gzip"], _coded),
    _expect("* stands for any coding", "*", _coded),
    _expect("*;q=0 refuses all", "*;q=0", _plain),
    _expect("the client's weights decide", "gzip, br;q=0.2, zstd;q=0.1", lambda a: a.headers["content-encoding"] == "gzip"),
    _expect("identity preferred: plain", "identity, gzip;q=0.5", _plain),
    _expect("identity refused: small bodies coded too", "gzip, identity;q=0", lambda a: a.plain == b"small" != a.body, _app(b"small")),
    _expect("malformed weights do no harm", "gzip;q=x, br;q=7, ;;,", lambda a: a.plain == TEXT),
    _expect("under the minimum: untouched", "gzip", lambda a: a.body == b"small" and "vary" not in a.headers, _app(b"small")),
    _expect("a body that would grow stays plain", "gzip", lambda a: a.body == _NOISE, _app(_NOISE)),
    _expect("204 untouched", "br, gzip", lambda a: a.body == b"" and "content-encoding" not in a.headers, _left(204, body=b"")),
    _expect("206 untouched", "br, gzip", _plain, _left(206, ("content-range", "bytes 0-4499/9000"))),
    _expect("304 has no coding", "gzip", lambda a: a.body == b"" and "content-encoding" not in a.headers, _left(304, body=b"")),
    _expect("HEAD has no coding", "gzip", lambda a: a.headers.get("content-length") == str(len(TEXT)) and "content-encoding" not in a.headers, method="HEAD"),
    _expect("HEAD says Vary like GET", "gzip", lambda a: "accept-encoding" in _vary(a), method="HEAD"),
    _expect("coded already: untouched", "gzip", lambda a: a.headers["content-encoding"] == "br" and a.body == TEXT, _left(200, ("content-encoding", "br"))),
    _expect("Content-Encoding: identity is not passed on", "gzip", lambda a: "identity" not in a.headers.get("content-encoding", ""), _left(200, ("content-encoding", "identity"))),
    _expect("no-transform", "gzip", _plain, _left(200, ("cache-control", "public, no-transform"))),
    _expect("a digest of the bytes stays true", "gzip", _plain, _left(200, ("content-digest", "sha-256=:x:"))),
    _expect("images untouched", "br, gzip", _plain, _app(media_type="image/png")),
    _expect("SVG coded", "br, gzip", _coded, _app(media_type="image/svg+xml")),
    _expect("Vary on the coded body", "gzip", lambda a: _vary(a) == ["accept-encoding"]),
    _expect("Vary on the plain body", "identity", lambda a: _vary(a) == ["accept-encoding"]),
    _expect("Vary without the header", None, lambda a: _vary(a) == ["accept-encoding"]),
    _expect("Vary: * left", "gzip", lambda a: a.headers["vary"] == "*", _left(200, ("vary", "*"))),
    _expect("Vary extended once", "gzip", lambda a: sorted(_vary(a)) == ["accept-encoding", "origin"], _left(200, ("vary", "Origin, Accept-Encoding"))),
    _expect("Vary on several lines kept", "gzip", lambda a: {"origin", "cookie", "accept-encoding"} == set(_vary(a)), _left(200, ("vary", "Origin"), ("vary", "Cookie"))),
    _expect("a strong ETag changes with the body", "gzip", lambda a: a.headers["etag"] != '"v1"', _left(200, ("etag", '"v1"'))),
    _expect("a weak ETag stays", "gzip", lambda a: a.headers["etag"] == 'W/"v1"', _left(200, ("etag", 'W/"v1"'))),
    Case("the coded body's ETag revalidates (304)", _revalidates),
    Case("the coded body's ETag guards a write (If-Match)", _guards_a_write),
    _expect("Content-Length is the coded body's", "gzip", lambda a: int(a.headers["content-length"]) == len(a.body) < len(TEXT)),
    _expect("a coded body invites no ranges", "gzip", lambda a: a.headers.get("accept-ranges", "none") == "none", _left(200, ("accept-ranges", "bytes"))),
    Case("If-Range with the coded tag gets all, not a part of another body", _parts_join_no_other),
    Case("each piece of a stream can be decoded at once", _streams("application/x-ndjson")),
    Case("each event can be decoded at once", _streams("text/event-stream")),
    Case("an event stream starts before its first event", _events_start_at_once),
    Case("small bodies behind BaseHTTPMiddleware stay plain", _small_behind_base_http_middleware),
    Case("a file the server sends itself is left to it", _file_sent_by_the_server),
    Case("1 MB of gzip does not hold the event loop", _loop_stays_free),
    Case("lengths can be blurred with padding (BREACH)", _lengths_can_be_blurred),
)  # fmt: skip


def columns() -> Mapping[str, Wrap]:
    """The middlewares, each with a minimum of 1,000 bytes and its defaults otherwise."""
    from brotli_asgi import BrotliMiddleware
    from starlette.middleware.gzip import GZipMiddleware
    from starlette_compress import CompressMiddleware

    return {
        "Starlette GZip": lambda app: GZipMiddleware(app, minimum_size=1000),
        "brotli-asgi": lambda app: BrotliMiddleware(app, minimum_size=1000),
        "starlette-compress": lambda app: CompressMiddleware(app, minimum_size=1000),
        "ours": CompressionMiddleware,
    }


async def holds(case: Case, wrap: Wrap) -> bool:
    """Whether a middleware passes a case; an exception is a failure too."""
    try:
        return await case.check(wrap)
    except Exception:
        return False


async def main() -> None:
    """Print the table."""
    wraps = columns()
    width = max(len(case.name) for case in CASES)
    print(f"{'case':{width}}  " + "  ".join(wraps))
    passed = dict.fromkeys(wraps, 0)
    for case in CASES:
        cells = []
        for name, wrap in wraps.items():
            right = await holds(case, wrap)
            passed[name] += right
            cells.append(f"{'✓' if right else '✗':^{len(name)}}")
        print(f"{case.name:{width}}  " + "  ".join(cells))
    print(f"{f'of {len(CASES)}':{width}}  " + "  ".join(f"{count:^{len(name)}}" for name, count in passed.items()))
    if passed["ours"] != len(CASES):
        sys.exit("✗ ours is not right throughout")
