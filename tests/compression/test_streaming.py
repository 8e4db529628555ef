"""Answers in pieces: each piece decodable when it arrives, and files that the server sends by itself."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import brotli  # type: ignore[import-untyped]
import pytest
import zstandard
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smriti_scale.compression import CompressionMiddleware
from tests.http_asgi import ask

CODINGS = ["zstd", "br", "gzip"]


def incremental(coding: str) -> Callable[[bytes], bytes]:
    match coding:
        case "zstd":
            return zstandard.ZstdDecompressor().decompressobj().decompress
        case "br":
            process: Callable[[bytes], bytes] = brotli.Decompressor().process
            return process
        case _:
            return zlib.decompressobj(31).decompress


def streaming(pieces: list[bytes], media_type: str = "application/x-ndjson", **headers: str) -> ASGIApp:
    async def endpoint(request: Request) -> Response:
        async def generate() -> AsyncIterator[bytes]:
            for piece in pieces:
                yield piece

        return StreamingResponse(generate(), media_type=media_type, headers=headers)

    return Starlette(routes=[Route("/", endpoint)])


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("media_type", ["application/x-ndjson", "text/event-stream"])
@pytest.mark.parametrize("padding", [0, 200])
async def test_each_piece_can_be_decoded_when_it_arrives(coding: str, media_type: str, padding: int) -> None:
    pieces = [b"data: %d\n\n" % n * (1 + n * 50) for n in range(20)]
    app = CompressionMiddleware(
        streaming(pieces, media_type), event_stream_encodings=CODINGS, padding=padding, offload_size=5000
    )
    answer = await ask(app, headers={"accept-encoding": coding})
    assert answer.headers["content-encoding"] == coding
    assert answer.headers["vary"] == "Accept-Encoding"
    assert "content-length" not in answer.headers
    decoder = incremental(coding)
    assert [decoder(piece) for piece in answer.pieces[: len(pieces)]] == pieces
    assert answer.plain == b"".join(pieces)


async def test_an_event_stream_starts_before_its_first_event() -> None:
    release = asyncio.Event()

    async def events(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await release.wait()
        await send({"type": "http.response.body", "body": b"data: x\n\n", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    for accept_encoding in ("zstd", "gzip", "identity"):
        release.clear()
        sent: list[Message] = []
        app = CompressionMiddleware(events)
        request: dict[str, Any] = {
            "type": "http",
            "method": "GET",
            "path": "/",
            "headers": [(b"accept-encoding", accept_encoding.encode())],
        }

        async def receive() -> Message:
            return {"type": "http.request"}

        async def send(message: Message, sent: list[Message] = sent) -> None:
            sent.append(message)

        task = asyncio.create_task(app(request, receive, send))
        await asyncio.sleep(0)
        assert [message["type"] for message in sent] == ["http.response.start"]
        assert (b"vary", b"Accept-Encoding") in sent[0]["headers"]
        release.set()
        await task


@pytest.mark.parametrize(("accept_encoding", "coding"), [("zstd", "zstd"), ("br", "br"), ("gzip", None)])
async def test_event_streams_are_coded_for_clients_that_decode_as_they_read(
    accept_encoding: str, coding: str | None
) -> None:
    app = CompressionMiddleware(streaming([b"data: 1\n\n"], "text/event-stream"))
    answer = await ask(app, headers={"accept-encoding": accept_encoding})
    assert answer.headers.get("content-encoding") == coding
    assert answer.headers["vary"] == "Accept-Encoding"
    assert answer.plain == b"data: 1\n\n"


async def test_event_streams_can_be_left_alone() -> None:
    app = CompressionMiddleware(streaming([b"data: 1\n\n"], "text/event-stream"), event_stream_encodings=())
    answer = await ask(app, headers={"accept-encoding": "zstd"})
    assert "content-encoding" not in answer.headers
    assert "vary" not in answer.headers


@pytest.mark.parametrize("coding", CODINGS)
async def test_empty_pieces_and_an_empty_stream_are_no_trouble(coding: str) -> None:
    answer = await ask(
        CompressionMiddleware(streaming([b"", b"a" * 2000, b"", b"b", b""])), headers={"accept-encoding": coding}
    )
    assert answer.plain == b"a" * 2000 + b"b"
    empty = await ask(CompressionMiddleware(streaming([])), headers={"accept-encoding": coding})
    assert empty.body == b""
    assert "content-encoding" not in empty.headers


async def test_a_short_stream_of_known_length_stays_plain() -> None:
    app = CompressionMiddleware(streaming([b"ab", b"cd"], **{"content-length": "4"}))
    answer = await ask(app, headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in answer.headers
    assert answer.body == b"abcd"
    assert answer.headers["content-length"] == "4"


@pytest.mark.parametrize("coding", CODINGS)
async def test_a_file_in_many_chunks_is_coded_and_its_ranges_are_not(coding: str, tmp_path: Path) -> None:
    content = b"".join(b"%d a line of text in a file\n" % n for n in range(20_000))
    path = tmp_path / "large.txt"
    path.write_bytes(content)

    async def endpoint(request: Request) -> Response:
        return FileResponse(path)

    app = CompressionMiddleware(Starlette(routes=[Route("/", endpoint)]))
    whole = await ask(app, headers={"accept-encoding": coding})
    assert whole.plain == content
    assert "content-length" not in whole.headers
    assert "accept-ranges" not in whole.headers
    assert whole.headers["etag"].endswith(f'~{coding}"')
    part = await ask(app, headers={"accept-encoding": coding, "range": "bytes=100-199"})
    assert (part.status, part.body) == (206, content[100:200])
    assert "content-encoding" not in part.headers
    # A part must not be joined to a coded body: its tag differs, and If-Range with the coded tag gets all of it.
    assert part.headers["etag"] != whole.headers["etag"]
    again = await ask(
        app, headers={"accept-encoding": coding, "range": "bytes=100-199", "if-range": whole.headers["etag"]}
    )
    assert again.status == 200
    assert again.plain == content


async def test_a_file_that_the_server_sends_itself_is_left_to_it(tmp_path: Path) -> None:
    path = tmp_path / "f.txt"
    path.write_text("x" * 5000)

    async def endpoint(request: Request) -> Response:
        return FileResponse(path)

    app = CompressionMiddleware(Starlette(routes=[Route("/", endpoint)]))
    answer = await ask(app, headers={"accept-encoding": "gzip"}, scope={"extensions": {"http.response.pathsend": {}}})
    assert [message["type"] for message in answer.messages] == ["http.response.start", "http.response.pathsend"]
    assert answer.headers["content-length"] == "5000"


async def test_early_hints_and_trailers_pass_in_order() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]})
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"2000")]
        await send({"type": "http.response.start", "status": 200, "headers": headers, "trailers": True})
        await send({"type": "http.response.early_hint", "links": [b"</b.css>; rel=preload"]})
        await send({"type": "http.response.body", "body": b"x" * 2000})
        await send({"type": "http.response.trailers", "headers": [(b"x-time", b"1")]})

    answer = await ask(CompressionMiddleware(app), headers={"accept-encoding": "gzip"})
    assert [message["type"].rpartition(".")[2] for message in answer.messages] == [
        "early_hint",
        "early_hint",
        "start",
        "body",
        "trailers",
    ]
    assert answer.plain == b"x" * 2000
    assert "content-length" not in answer.headers


@pytest.mark.parametrize("coding", CODINGS)
async def test_a_client_that_leaves_mid_stream_harms_no_later_answer(coding: str) -> None:
    endless = streaming([b"some text " * 500] * 1000)
    app = CompressionMiddleware(endless, offload_size=1)
    for _ in range(5):
        task = asyncio.create_task(ask(app, headers={"accept-encoding": coding}))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        short = await ask(
            CompressionMiddleware(streaming([b"y" * 3000]), offload_size=1), headers={"accept-encoding": coding}
        )
        assert short.plain == b"y" * 3000
    app.app = streaming([b"z" * 3000])
    assert (await ask(app, headers={"accept-encoding": coding})).plain == b"z" * 3000
