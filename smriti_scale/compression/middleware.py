"""The ASGI middleware that codes answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import anyio.to_thread
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smriti_scale.compression.coders import Coder, make_coders
from smriti_scale.compression.negotiate import Choice, choose
from smriti_scale.compression.representation import (
    RawHeaders,
    coded_headers,
    confirmed_etag,
    fields_of,
    forbids_coding,
    is_compressed_media,
    media_type_of,
    plain_etags,
    with_vary,
)
from smriti_scale.errors import ConfigurationError
from smriti_scale.events import Events, ResponseCompressed

OPT_OUT = "__smriti_scale_no_compression__"
"""The attribute that `no_compression` sets on an endpoint."""


class CompressionMiddleware:
    """Codes answers with zstd, brotli or gzip, as the client prefers (RFC 9110).

    Left as they are: bodies under `minimum_size`; 1xx, 204, 205, 206 and 304; answers to HEAD; what is coded
    already, marked `no-transform` or carries a digest of its bytes; media that is compressed already; excluded
    paths; endpoints under `@no_compression`, and answers with `Content-Encoding: identity` (which is taken off).
    Streams are flushed at every message of the application, so each event arrives when it was sent.

    Args:
        app: the ASGI application.
        minimum_size: bytes from which a body is coded. A client that refuses the plain body gets small ones coded too.
        encodings: codings to offer, the server's favourite first; None for zstd, br and gzip as far as installed.
        zstd_level: 1–19.
        br_quality: 0–11.
        gzip_level: 1–9.
        exclude_paths: path prefixes; `"/files"` covers `/files` and all below it.
        exclude_media_types: further types to leave alone, such as `"application/x-parquet"` or `"model/*"`.
        event_stream_encodings: codings for `text/event-stream`. Without gzip: clients that know nothing else tend
            to hold events back until their buffer is full. Empty for none.
        etag: what a strong entity tag becomes: `"suffix"` gives each coding a strong tag of its own (`"v1~zstd"`),
            and turns it back in `If-Match` and `If-None-Match`; `"weak"` makes it weak.
        padding: at most this many random bytes (0–255) are added to each coded body, so that its length tells an
            attacker less (BREACH).
        offload_size: bytes from which a body is coded in a thread; None for 32 KiB with br and gzip, 128 KiB with zstd.
        events: told of each coded answer.

    Raises:
        ConfigurationError: an argument out of range, or an unknown coding.
        MissingExtraError: a coding is named in `encodings` whose package is not installed.
    """

    def __init__(
        self,
        app: ASGIApp,
        minimum_size: int = 1000,
        *,
        encodings: Sequence[str] | None = None,
        zstd_level: int = 3,
        br_quality: int = 4,
        gzip_level: int = 4,
        exclude_paths: Iterable[str] = (),
        exclude_media_types: Iterable[str] = (),
        event_stream_encodings: Iterable[str] = ("zstd", "br"),
        etag: Literal["suffix", "weak"] = "suffix",
        padding: int = 0,
        offload_size: int | None = None,
        events: Events | None = None,
    ) -> None:
        if minimum_size < 0:
            raise ConfigurationError(f"minimum_size={minimum_size!r} must not be negative")
        if etag not in ("suffix", "weak"):
            raise ConfigurationError(f"etag={etag!r} must be 'suffix' or 'weak'")
        for name, given in (
            ("exclude_paths", exclude_paths),
            ("exclude_media_types", exclude_media_types),
            ("event_stream_encodings", event_stream_encodings),
        ):
            if isinstance(given, str):
                raise ConfigurationError(f"{name}={given!r} must be a list of strings")
        self.app = app
        self._coders = make_coders(
            encodings, zstd_level=zstd_level, br_quality=br_quality, gzip_level=gzip_level, padding=padding
        )
        self._offered = tuple(self._coders)
        self._minimum_size = minimum_size
        self._excluded_paths = tuple(path.rstrip("/") for path in exclude_paths)
        self._excluded_media = frozenset(media.strip().lower() for media in exclude_media_types)
        self._event_stream_encodings = frozenset(event_stream_encodings)
        self._weaken = etag == "weak"
        self._offload_size = offload_size
        self._events = events if events is not None else Events()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._is_excluded(scope["path"]):
            await self.app(scope, receive, send)
            return
        accept_encoding = condition = None
        for name, value in scope["headers"]:
            if name == b"accept-encoding":
                text = value.decode("latin-1")
                accept_encoding = text if accept_encoding is None else f"{accept_encoding},{text}"
            elif name in _CONDITIONS and b"~" in value:
                condition = value if condition is None else condition + b", " + value
        responder = _Responder(self, scope, send, choose(accept_encoding, self._offered), condition)
        if condition is None or self._weaken:
            await self.app(scope, receive, responder.send)
            await responder.close()
            return
        # In place, since routers leave their findings in this very mapping for those outside; put back for them too.
        asked = scope["headers"]
        scope["headers"] = [
            (name, plain_etags(value, self._offered) if name in _CONDITIONS else value) for name, value in asked
        ]
        try:
            await self.app(scope, receive, responder.send)
            await responder.close()
        finally:
            scope["headers"] = asked

    def _is_excluded(self, path: str) -> bool:
        return bool(self._excluded_paths) and any(
            path == prefix or path.startswith(f"{prefix}/") for prefix in self._excluded_paths
        )


_CONDITIONS = (b"if-none-match", b"if-match")


class _Responder:
    """One answer on its way out. `_next` is what becomes of the application's next message."""

    __slots__ = (
        "_choice",
        "_coder",
        "_condition",
        "_fields",
        "_middleware",
        "_next",
        "_scope",
        "_send",
        "_start",
    )

    def __init__(
        self, middleware: CompressionMiddleware, scope: Scope, send: Send, choice: Choice, condition: bytes | None
    ) -> None:
        self._middleware = middleware
        self._scope = scope
        self._send = send
        self._choice = choice
        self._condition = condition
        self._coder: Coder | None = None if choice.coding is None else middleware._coders[choice.coding]
        self._start: Message | None = None
        self._fields: dict[bytes, bytes] = {}
        self._next: Send = self._before_body

    async def send(self, message: Message) -> None:
        await self._next(message)

    async def close(self) -> None:
        """Send the start of an answer that never got a body."""
        if self._start is not None:
            await self._begin(self._start)

    async def _begin(self, start: Message) -> None:
        self._start = None
        await self._send(start)

    async def _pass(self, start: Message) -> None:
        """Send the start, and from now on whatever comes, as it is."""
        self._next = self._send
        await self._begin(start)

    async def _before_body(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start":
            await self._started(message)
        elif kind == "http.response.body" and self._start is not None:
            await self._first_body(self._start, message)
        else:
            if self._start is not None and kind != "http.response.early_hint":
                # The server sends a file by itself (pathsend, zerocopysend): no bytes to code here.
                self._next = self._send
                await self._begin(self._start)
            await self._send(message)

    async def _started(self, message: Message) -> None:
        middleware = self._middleware
        headers: RawHeaders = message.get("headers", ())
        fields = self._fields = fields_of(headers)
        status = message["status"]
        if status == 304:
            await self._pass(self._not_modified(message, headers, fields))
            return
        if b"content-encoding" not in fields:
            length = self._length()
            if length is not None and length < middleware._minimum_size and self._choice.identity_allowed:
                # Most answers are small: they are gone before anything else is looked at.
                self._next = self._send
                await self._send(message)
                return
        elif fields[b"content-encoding"].strip().lower() == b"identity":
            kept = [(name, value) for name, value in headers if name.lower() != b"content-encoding"]
            await self._pass({**message, "headers": kept})
            return
        media_type = media_type_of(fields.get(b"content-type", b""))
        if (
            forbids_coding(status, fields)
            or is_compressed_media(media_type, middleware._excluded_media)
            or getattr(self._scope.get("endpoint"), OPT_OUT, False)
        ):
            await self._pass(message)
        elif self._scope["method"] == "HEAD":
            await self._pass({**message, "headers": with_vary(headers, fields)})
        elif media_type == "text/event-stream":
            await self._start_event_stream(message)
        else:
            self._start = message

    async def _start_event_stream(self, message: Message) -> None:
        """Events may be minutes away, so the start goes out at once."""
        middleware, coder = self._middleware, self._coder
        if not middleware._event_stream_encodings.intersection(middleware._offered):
            await self._pass(message)
        elif coder is None or coder.name not in middleware._event_stream_encodings:
            await self._pass({**message, "headers": with_vary(message.get("headers", ()), self._fields)})
        else:
            self._start_coding(coder, small=True)
            await self._begin(self._with_coding(message, coder, length=None))

    async def _first_body(self, start: Message, message: Message) -> None:
        body: bytes = message.get("body", b"")
        more = message.get("more_body", False)
        length = self._length()
        # Behind Starlette's BaseHTTPMiddleware a whole body comes as a stream of one piece.
        whole = not more or length == len(body)
        size = len(body) if whole else length
        if size is not None and (
            size == 0 or (size < self._middleware._minimum_size and self._choice.identity_allowed)
        ):
            await self._pass(start)
            await self._send(message)
            return
        coder = self._coder
        if coder is None:
            await self._pass(self._plain(start))
            await self._send(message)
        elif whole:
            await self._send_coded(start, message, body, coder)
        else:
            self._start_coding(coder)
            await self._begin(self._with_coding(start, coder, length=None))
            await self._next(message)

    async def _send_coded(self, start: Message, message: Message, body: bytes, coder: Coder) -> None:
        coded = await self._run(coder, coder.encode, body)
        if len(coded) >= len(body) and self._choice.identity_allowed:
            await self._pass(self._plain(start))
            await self._send(message)
            return
        if self._middleware._events:
            self._middleware._events.emit(
                ResponseCompressed(encoding=coder.name, bytes_before=len(body), bytes_after=len(coded))
            )
        # With trailers to come HTTP/1.1 needs the chunked form.
        length = None if start.get("trailers", False) else len(coded)
        await self._pass(self._with_coding(start, coder, length=length))
        await self._send({**message, "body": coded})

    def _start_coding(self, coder: Coder, *, small: bool = False) -> None:
        stream = coder.stream(small=small)
        finished = False

        async def send(message: Message) -> None:
            nonlocal finished
            if message["type"] != "http.response.body" or finished:
                await self._send(message)
                return
            body: bytes = message.get("body", b"")
            if not message.get("more_body", False):
                finished = True
                message = {**message, "body": await self._run(coder, stream.finish, body)}
            elif body:
                message = {**message, "body": await self._run(coder, stream.write, body)}
            await self._send(message)

        self._next = send

    async def _run(self, coder: Coder, code: Callable[[bytes], bytes], body: bytes) -> bytes:
        offload_size = self._middleware._offload_size
        if len(body) < (coder.offload_size if offload_size is None else offload_size):
            return code(body)
        return await anyio.to_thread.run_sync(code, body)

    def _plain(self, start: Message) -> Message:
        """The start of a plain body that another client would get coded."""
        return {**start, "headers": with_vary(start.get("headers", ()), self._fields)}

    def _with_coding(self, start: Message, coder: Coder, *, length: int | None) -> Message:
        headers = coded_headers(
            start.get("headers", ()),
            self._fields,
            coding=coder.name,
            length=length,
            weaken=self._middleware._weaken,
        )
        return {**start, "headers": headers}

    def _not_modified(self, message: Message, headers: RawHeaders, fields: dict[bytes, bytes]) -> Message:
        changed = with_vary(headers, fields)
        if self._condition is not None and b"etag" in fields and not self._middleware._weaken:
            etag = confirmed_etag(fields[b"etag"], self._condition, self._middleware._offered)
            changed = [(name, etag if name.lower() == b"etag" else value) for name, value in changed]
        return {**message, "headers": changed}

    def _length(self) -> int | None:
        length = self._fields.get(b"content-length", b"")
        return int(length) if length.isdigit() and len(length) < 20 else None
