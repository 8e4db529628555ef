"""Local ends of the wire: HTTP servers that take what Sentry and OTLP exporters send, and keep it decoded."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import brotli  # type: ignore[import-untyped] # it has no types


@dataclass
class Received:
    """One request as it came over the wire, its body decompressed."""

    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Sink:
    """What has arrived so far."""

    port: int = 0
    status: int = 200
    requests: list[Received] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def dsn(self) -> str:
        return f"http://publickey@127.0.0.1:{self.port}/1"

    def text(self) -> str:
        return "\n".join(one.body.decode("utf-8", "replace") for one in self.requests)

    def envelope_items(self, kind: str) -> list[dict[str, Any]]:
        """The items of one type out of all Sentry envelopes."""
        found = []
        for request in self.requests:
            assert request.path == "/api/1/envelope/"
            lines = request.body.split(b"\n")
            at = 1
            while at < len(lines) and lines[at]:
                header = json.loads(lines[at])
                if header["type"] == kind:
                    found.append(json.loads(lines[at + 1]))
                at += 2
        return found

    def wait_for(self, satisfied: Callable[[], object]) -> None:
        deadline = time.monotonic() + 60
        while not satisfied():
            assert time.monotonic() < deadline, [request.path for request in self.requests]
            time.sleep(0.02)


_DECODERS: dict[str | None, Callable[[bytes], bytes]] = {
    None: bytes,
    "gzip": gzip.decompress,
    "br": brotli.decompress,
}


@contextmanager
def sink() -> Iterator[Sink]:
    """A sink on a free port of this machine."""
    kept = Sink()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            body = _DECODERS[self.headers.get("Content-Encoding")](body)
            kept.requests.append(Received(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            self.send_response(kept.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    kept.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield kept
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
