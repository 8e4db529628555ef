"""A small load balancer: HTTP/1.1 in, each request to the next instance in turn."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass(slots=True)
class Balancer:
    """A running balancer.

    Args:
        url: where it listens.
        served: how many requests each instance has been given, by its address.
    """

    url: str
    served: Counter[str] = field(default_factory=Counter)


@contextlib.asynccontextmanager
async def balanced(instances: Sequence[str]) -> AsyncIterator[Balancer]:
    """Round-robin over `instances` (`http://host:port`), one connection for each request."""
    turns = itertools.cycle(instances)
    balancer = Balancer("")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                request = await _whole_request(reader)
                instance = next(turns)
                balancer.served[instance] += 1
                where = urlsplit(instance)
                upstream_reader, upstream_writer = await asyncio.open_connection(where.hostname, where.port)
                try:
                    upstream_writer.write(request)
                    await upstream_writer.drain()
                    writer.write(await _whole_answer(upstream_reader))
                    await writer.drain()
                finally:
                    upstream_writer.close()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=2**20, backlog=512)
    balancer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield balancer
    finally:
        server.close()


async def _whole_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    body = await reader.readexactly(int(_header(head, b"content-length") or 0))
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith((b"connection:", b"x-forwarded-for:"))]
    lines[1:1] = [b"Connection: close"]
    return b"\r\n".join(lines) + body


async def _whole_answer(reader: asyncio.StreamReader) -> bytes:
    """The answer of a connection that closes after it, kept open towards the client."""
    answer = await reader.read(-1)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head, "an instance closed the connection without an answer"
    chunked = b"chunked" in _header(head + b"\r\n", b"transfer-encoding")
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
    assert chunked or _header(head + b"\r\n", b"content-length") or not body
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def _header(head: bytes, name: bytes) -> bytes:
    for line in head.split(b"\r\n"):
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip()
    return b""
