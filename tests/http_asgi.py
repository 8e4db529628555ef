"""One HTTP exchange with an ASGI application, byte for byte: nothing is decoded, joined or added on the way."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import brotli  # type: ignore[import-untyped]
import zstandard
from starlette.types import ASGIApp, Message


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    raw_headers: tuple[tuple[bytes, bytes], ...]
    pieces: tuple[bytes, ...]
    messages: tuple[Message, ...]

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def headers(self) -> dict[str, str]:
        joined: dict[str, str] = {}
        for name, value in self.raw_headers:
            key = name.decode().lower()
            joined[key] = f"{joined[key]}, {value.decode('latin-1')}" if key in joined else value.decode("latin-1")
        return joined

    @property
    def plain(self) -> bytes:
        """The body, decoded as its headers say."""
        return decode(self.body, self.headers.get("content-encoding"))


def decode(body: bytes, coding: str | None) -> bytes:
    match coding:
        case None:
            return body
        case "gzip":
            decoder = zlib.decompressobj(31)
            plain = decoder.decompress(body)
            assert decoder.eof
            assert not decoder.unused_data
            return plain
        case "br":
            decoded: bytes = brotli.decompress(body)
            return decoded
        case "zstd":
            with zstandard.ZstdDecompressor().stream_reader(body, read_across_frames=True) as reader:
                return reader.read()
    raise AssertionError(f"unknown coding {coding!r}")


async def ask(
    app: ASGIApp,
    path: str = "/",
    *,
    method: str = "GET",
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    body: bytes = b"",
    scope: Mapping[str, Any] | None = None,
) -> Answer:
    """Send one request and collect the answer.

    Checks what a server would: one start, then bodies, the last of them final, and a true Content-Length.
    """
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    path, _, query = path.partition("?")
    request: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in pairs],
        "client": ("127.0.0.1", 50000),
        "server": ("testserver", 80),
        "state": {},
        **(scope or {}),
    }
    messages: list[Message] = []
    sent_request = False

    async def receive() -> Message:
        nonlocal sent_request
        if sent_request:
            return {"type": "http.disconnect"}
        sent_request = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        messages.append(message)

    await app(request, receive, send)
    starts = [message for message in messages if message["type"] == "http.response.start"]
    bodies = [message for message in messages if message["type"] == "http.response.body"]
    assert len(starts) == 1, [message["type"] for message in messages]
    answer = Answer(
        status=starts[0]["status"],
        raw_headers=tuple(starts[0].get("headers", ())),
        pieces=tuple(message.get("body", b"") for message in bodies),
        messages=tuple(messages),
    )
    if bodies:
        assert [message.get("more_body", False) for message in bodies] == [True] * (len(bodies) - 1) + [False]
        length = answer.headers.get("content-length")
        if length is not None and method != "HEAD" and answer.status != 304:
            assert int(length) == len(answer.body)
    return answer
