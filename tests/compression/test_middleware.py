"""What is coded, what is left alone, and what the headers say in each case."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Mapping, Sequence

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smriti_scale.compression import (
    CompressionMiddleware,
    no_compression,
    send_uncompressed,
    setup_compression,
)
from smriti_scale.errors import ConfigurationError
from smriti_scale.events import Event, Events, ResponseCompressed
from tests.http_asgi import Answer, ask

TEXT = b"the quick brown fox jumps over the lazy dog. " * 100
CODINGS = ["zstd", "br", "gzip"]


def answering(
    body: bytes = TEXT, *, status: int = 200, headers: Mapping[str, str] | Sequence[tuple[str, str]] = ()
) -> ASGIApp:
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
    names = {name.lower() for name, _ in pairs}
    if "content-type" not in names:
        pairs.append(("content-type", "text/plain; charset=utf-8"))
    if "content-length" not in names:
        pairs.append(("content-length", str(len(body))))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in pairs]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})

    return app


async def compressed(app: ASGIApp, accept_encoding: str = "gzip") -> Answer:
    return await ask(CompressionMiddleware(app), headers={"accept-encoding": accept_encoding})


@pytest.mark.parametrize("coding", CODINGS)
async def test_a_large_text_is_coded_with_true_headers(coding: str) -> None:
    answer = await compressed(answering(), coding)
    assert answer.headers["content-encoding"] == coding
    assert answer.headers["vary"] == "Accept-Encoding"
    assert int(answer.headers["content-length"]) == len(answer.body) < len(TEXT) / 10
    assert answer.plain == TEXT


async def test_a_browser_gets_zstd() -> None:
    assert (await compressed(answering(), "gzip, deflate, br, zstd")).headers["content-encoding"] == "zstd"


async def test_several_accept_encoding_lines_count_as_one() -> None:
    app = CompressionMiddleware(answering())
    answer = await ask(app, headers=[("accept-encoding", "gzip;q=0.5"), ("accept-encoding", "br")])
    assert answer.headers["content-encoding"] == "br"


@pytest.mark.parametrize("accept_encoding", ["identity", "gzip;q=0", "notgzip", "*;q=0"])
async def test_a_client_that_wants_it_plain_gets_it_plain_with_vary(accept_encoding: str) -> None:
    answer = await compressed(answering(), accept_encoding)
    assert "content-encoding" not in answer.headers
    assert answer.headers["vary"] == "Accept-Encoding"
    assert answer.body == TEXT


async def test_without_accept_encoding_the_plain_body_says_vary_too() -> None:
    answer = await ask(CompressionMiddleware(answering()))
    assert answer.headers["vary"] == "Accept-Encoding"
    assert answer.body == TEXT


@pytest.mark.parametrize("status", [204, 205, 206, 304, 416])
async def test_partial_and_bodiless_answers_are_left_alone(status: int) -> None:
    body = b"" if status in (204, 205, 304) else TEXT
    headers = {"content-range": "bytes 0-99/5000"} if status in (206, 416) else {}
    answer = await compressed(answering(body, status=status, headers=headers))
    assert "content-encoding" not in answer.headers
    assert answer.body == body
    assert answer.headers.get("content-range") == headers.get("content-range")


@pytest.mark.parametrize(
    "headers",
    [
        {"content-encoding": "br"},
        {"cache-control": "public, No-Transform"},
        {"content-digest": "sha-256=:x:"},
        {"repr-digest": "sha-256=:x:"},
        {"content-type": "image/png"},
        {"content-type": "IMAGE/JPEG"},
        {"content-type": "video/mp4"},
        {"content-type": "font/woff2"},
        {"content-type": "application/zip"},
        {"content-type": "application/vnd.openxmlformats-officedocument.wordprocessingml.document"},
        {"content-type": "application/vnd.example+zip"},
        {"content-type": "application/grpc+proto"},
        {"content-type": "audio/mpeg"},
    ],
)
async def test_what_must_not_or_cannot_shrink_travels_as_it_is(headers: Mapping[str, str]) -> None:
    app = answering(headers=headers)
    assert await compressed(app) == await ask(app, headers={"accept-encoding": "gzip"})


@pytest.mark.parametrize("media_type", ["image/svg+xml", "image/bmp", "application/wasm", "application/json", "x/y"])
async def test_media_that_shrinks_is_coded(media_type: str) -> None:
    answer = await compressed(answering(headers={"content-type": media_type}))
    assert answer.headers["content-encoding"] == "gzip"


async def test_head_costs_no_coding_and_says_vary() -> None:
    app = CompressionMiddleware(answering())
    answer = await ask(app, method="HEAD", headers={"accept-encoding": "gzip"})
    assert answer.headers["content-length"] == str(len(TEXT))
    assert "content-encoding" not in answer.headers
    assert answer.headers["vary"] == "Accept-Encoding"


@pytest.mark.parametrize("size", [0, 1, 999])
async def test_under_the_minimum_nothing_is_touched(size: int) -> None:
    app = answering(b"x" * size)
    assert await compressed(app) == await ask(app, headers={"accept-encoding": "gzip"})


async def test_from_the_minimum_on_bodies_are_coded() -> None:
    assert (await compressed(answering(b"x" * 1000))).headers["content-encoding"] == "gzip"


async def test_a_client_that_refuses_the_plain_body_gets_small_ones_coded() -> None:
    answer = await compressed(answering(b"hello"), "gzip, identity;q=0")
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.plain == b"hello"


async def test_a_body_that_would_grow_stays_plain_but_varies() -> None:
    incompressible = hashlib.shake_256(b"noise").digest(2000)
    answer = await compressed(answering(incompressible, headers={"etag": '"v1"'}))
    assert "content-encoding" not in answer.headers
    assert answer.headers["vary"] == "Accept-Encoding"
    assert answer.headers["etag"] == '"v1"'
    assert answer.body == incompressible


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([("vary", "*")], "*"),
        ([("vary", "Origin")], "Origin, Accept-Encoding"),
        ([("vary", "Origin"), ("Vary", "Cookie")], "Origin, Cookie, Accept-Encoding"),
        ([("vary", "accept-encoding")], "accept-encoding"),
        ([("vary", "Origin, Accept-ENCODING")], "Origin, Accept-ENCODING"),
        ([("vary", "")], "Accept-Encoding"),
        ([("vary", "X-Accept-Encoding")], "X-Accept-Encoding, Accept-Encoding"),
    ],
)
@pytest.mark.parametrize("accept_encoding", ["gzip", "identity"])
async def test_vary_is_extended_once_and_a_star_is_left(
    given: Sequence[tuple[str, str]], expected: str, accept_encoding: str
) -> None:
    assert (await compressed(answering(headers=given), accept_encoding)).headers["vary"] == expected


@pytest.mark.parametrize(
    ("etag", "expected"),
    [('"v1"', '"v1~gzip"'), ('W/"v1"', 'W/"v1"'), ('""', '"~gzip"'), ("unquoted", None), ('"', None)],
)
async def test_each_coding_has_a_strong_entity_tag_of_its_own(etag: str, expected: str | None) -> None:
    assert (await compressed(answering(headers={"etag": etag}))).headers.get("etag") == expected


async def test_strong_entity_tags_can_be_weakened_instead() -> None:
    app = CompressionMiddleware(answering(headers={"etag": '"v1"'}), etag="weak")
    assert (await ask(app, headers={"accept-encoding": "gzip"})).headers["etag"] == 'W/"v1"'
    assert (await ask(app)).headers["etag"] == '"v1"'


async def test_a_coded_body_does_not_invite_ranges() -> None:
    app = answering(headers={"accept-ranges": "bytes"})
    assert "accept-ranges" not in (await compressed(app)).headers
    assert (await compressed(app, "identity")).headers["accept-ranges"] == "bytes"


async def versioned(scope: Scope, receive: Receive, send: Send) -> None:
    request = Request(scope)
    if request.method == "PUT":
        status = 200 if request.headers.get("if-match") == '"v1"' else 412
        await PlainTextResponse(request.headers.get("if-match", ""), status_code=status)(scope, receive, send)
    elif '"v1"' in request.headers.get("if-none-match", ""):
        await Response(status_code=304, headers={"etag": '"v1"'})(scope, receive, send)
    else:
        await Response(TEXT, media_type="text/plain", headers={"etag": '"v1"'})(scope, receive, send)


@pytest.mark.parametrize("coding", CODINGS)
async def test_a_coded_answers_tag_revalidates_and_guards_a_write(coding: str) -> None:
    app = CompressionMiddleware(versioned)
    first = await ask(app, headers={"accept-encoding": coding})
    tag = first.headers["etag"]
    again = await ask(app, headers={"accept-encoding": coding, "if-none-match": f'"other", {tag}'})
    assert again.status == 304
    assert again.headers["etag"] == tag
    assert again.headers["vary"] == "Accept-Encoding"
    assert (await ask(app, method="PUT", headers={"if-match": tag})).status == 200
    assert (await ask(app, method="PUT", headers={"if-match": '"v0"'})).status == 412


async def test_the_request_headers_are_put_back_for_those_outside() -> None:
    seen: list[object] = []

    async def outside(scope: Scope, receive: Receive, send: Send) -> None:
        await CompressionMiddleware(versioned)(scope, receive, send)
        seen.extend(scope["headers"])

    await ask(outside, headers={"if-none-match": '"v1~gzip"'})
    assert seen == [(b"if-none-match", b'"v1~gzip"')]


async def test_an_answer_can_opt_out() -> None:
    async def private(request: Request) -> Response:
        response = PlainTextResponse(TEXT.decode())
        send_uncompressed(response)
        return response

    answer = await compressed(Starlette(routes=[Route("/", private)]))
    assert "content-encoding" not in answer.headers
    assert "vary" not in answer.headers
    assert answer.body == TEXT


async def test_an_endpoint_can_opt_out_also_under_a_mount() -> None:
    @no_compression
    async def private(request: Request) -> Response:
        return PlainTextResponse(TEXT.decode())

    inner = Starlette(routes=[Route("/", private)])
    assert "content-encoding" not in (await compressed(inner)).headers
    outer = CompressionMiddleware(Starlette(routes=[Mount("/in", inner)]))
    assert "content-encoding" not in (await ask(outer, "/in/", headers={"accept-encoding": "gzip"})).headers


async def test_a_fastapi_endpoint_can_opt_out() -> None:
    app = FastAPI()
    setup_compression(app, minimum_size=1000)

    @app.get("/open")
    async def open_page() -> dict[str, str]:
        return {"text": TEXT.decode()}

    @app.get("/closed")
    @no_compression
    async def closed_page() -> dict[str, str]:
        return {"text": TEXT.decode()}

    assert (await ask(app, "/open", headers={"accept-encoding": "br"})).headers["content-encoding"] == "br"
    assert "content-encoding" not in (await ask(app, "/closed", headers={"accept-encoding": "br"})).headers


async def test_excluded_paths_cover_what_is_below_them_and_no_more() -> None:
    app = CompressionMiddleware(answering(), exclude_paths=["/metrics", "/files/"])
    coded = {
        path: "content-encoding" in (await ask(app, path, headers={"accept-encoding": "gzip"})).headers
        for path in ("/metrics", "/metrics/x", "/metrics2", "/files", "/files/a", "/")
    }
    assert coded == {
        "/metrics": False,
        "/metrics/x": False,
        "/metrics2": True,
        "/files": False,
        "/files/a": False,
        "/": True,
    }


@pytest.mark.parametrize("excluded", ["application/x-parquet", "application/*"])
async def test_further_media_types_can_be_excluded(excluded: str) -> None:
    app = CompressionMiddleware(
        answering(headers={"content-type": "application/x-parquet"}), exclude_media_types=[excluded]
    )
    assert "content-encoding" not in (await ask(app, headers={"accept-encoding": "gzip"})).headers


async def test_behind_basehttpmiddleware_a_whole_body_is_coded_whole() -> None:
    async def add_header(request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers["x-seen"] = "1"
        return response

    async def small(request: Request) -> Response:
        return JSONResponse({"n": 1})

    async def large(request: Request) -> Response:
        return PlainTextResponse(TEXT.decode())

    inner = Starlette(routes=[Route("/small", small), Route("/large", large)])
    app = CompressionMiddleware(BaseHTTPMiddleware(inner, dispatch=add_header))
    large_answer = await ask(app, "/large", headers={"accept-encoding": "gzip"})
    assert int(large_answer.headers["content-length"]) == len(large_answer.body)
    assert large_answer.plain == TEXT
    assert "content-encoding" not in (await ask(app, "/small", headers={"accept-encoding": "gzip"})).headers


async def test_large_bodies_are_coded_in_a_thread_and_small_ones_on_the_loop() -> None:
    threads: list[str] = []
    app = CompressionMiddleware(answering(b"x" * 40_000), offload_size=30_000)
    coder = app._coders["gzip"]
    encode = coder.encode

    def watched(body: bytes) -> bytes:
        threads.append(threading.current_thread().name)
        return encode(body)

    coder.encode = watched  # type: ignore[method-assign]
    assert (await ask(app, headers={"accept-encoding": "gzip"})).plain == b"x" * 40_000
    app.app = answering(b"x" * 20_000)
    assert (await ask(app, headers={"accept-encoding": "gzip"})).plain == b"x" * 20_000
    assert threads[0] != threading.current_thread().name == threads[1]


@pytest.mark.parametrize("coding", CODINGS)
async def test_many_at_once_in_threads_get_each_their_own_body(coding: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse(scope["path"] * 5000)(scope, receive, send)

    middleware = CompressionMiddleware(app, offload_size=1)
    paths = [f"/{i}" for i in range(60)]
    answers = await asyncio.gather(*(ask(middleware, path, headers={"accept-encoding": coding}) for path in paths))
    assert [answer.plain for answer in answers] == [path.encode() * 5000 for path in paths]


async def test_each_coded_answer_is_an_event() -> None:
    seen: list[Event] = []
    app = CompressionMiddleware(answering(), events=Events(seen.append))
    answer = await ask(app, headers={"accept-encoding": "gzip"})
    await ask(app)
    assert seen == [ResponseCompressed(encoding="gzip", bytes_before=len(TEXT), bytes_after=len(answer.body))]


async def test_websockets_and_lifespan_pass() -> None:
    kinds: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        kinds.append(scope["type"])

    async def receive() -> Message:
        return {}

    async def send(message: Message) -> None: ...

    for kind in ("websocket", "lifespan"):
        await CompressionMiddleware(app)({"type": kind}, receive, send)
    assert kinds == ["websocket", "lifespan"]


async def test_an_error_before_the_body_leaves_the_answer_to_those_outside() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        await compressed(app)


async def test_a_start_without_a_body_is_not_swallowed() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    assert (await compressed(app)).status == 200


@pytest.mark.parametrize(
    "options",
    [
        {"minimum_size": -1},
        {"zstd_level": 22},
        {"br_quality": 12},
        {"gzip_level": 0},
        {"padding": 256},
        {"etag": "none"},
        {"encodings": ["deflate"]},
        {"exclude_paths": "/metrics"},
    ],
)
def test_an_option_that_cannot_work_is_told_at_setup(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options)).removesuffix("s")):
        setup_compression(Starlette(), **options)  # type: ignore[arg-type]


def test_setup_says_how_to_wrap_what_takes_no_middleware() -> None:
    with pytest.raises(ConfigurationError, match="CompressionMiddleware"):
        setup_compression(answering())  # type: ignore[arg-type]
