"""Any Accept-Encoding, If-None-Match and Range: never an error, never another body."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from smriti_scale.compression import CompressionMiddleware
from tests.http_asgi import ask

CONTENT = b"".join(b"line %d of the text\n" % n for n in range(400))

_weights = st.sampled_from(
    ["", ";q=0", ";q=1", ";q=0.5", ";q=0.001", "; Q = 0.3", ";q=abc", ";q=1.1", ";q", ";x=y;q=0"]
)
_codings = st.sampled_from(["gzip", "br", "zstd", "identity", "*", "GZIP", "x-gzip", "deflate", "", "notgzip"])
accept_encodings = st.one_of(
    st.lists(st.tuples(_codings, _weights).map("".join), max_size=6).map(",".join),
    st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=60),
)
_tags = st.sampled_from(['"v1"', '"v1~gzip"', '"v1~zstd"', '"v1~br"', 'W/"v1"', "*", '"', 'W/"', '"a,b"', "v1", ""])
if_none_matches = st.one_of(
    st.none(),
    st.lists(_tags, max_size=4).map(", ".join),
    st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=40),
)
_numbers = st.one_of(st.just(""), st.integers(0, 12_000).map(str))
ranges = st.one_of(
    st.none(),
    st.tuples(_numbers, _numbers).map(lambda ends: f"bytes={ends[0]}-{ends[1]}"),
    st.sampled_from(["bytes=0-0,5-9", "bytes=-", "items=0-1", "bytes=9-1", "bytes=a-b", "bytes=0-", "bytes=-1"]),
)


def _application(path: Path) -> ASGIApp:
    async def text(request: Request) -> Response:
        if '"v1"' in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers={"etag": '"v1"'})
        return Response(CONTENT, media_type="text/plain", headers={"etag": '"v1"'})

    async def file(request: Request) -> Response:
        return FileResponse(path)

    return CompressionMiddleware(Starlette(routes=[Route("/text", text), Route("/file", file)]))


async def _check(app: ASGIApp, accept_encoding: str, if_none_match: str | None, range_: str | None) -> None:
    headers = {"accept-encoding": accept_encoding}
    if if_none_match is not None:
        headers["if-none-match"] = if_none_match
    if range_ is not None:
        headers["range"] = range_
    for path in ("/text", "/file"):
        answer = await ask(app, path, headers=headers)
        match answer.status:
            case 200:
                assert answer.plain == CONTENT
            case 206:
                assert "content-encoding" not in answer.headers
                if "multipart" not in answer.headers["content-type"]:
                    start, _, end = answer.headers["content-range"].split(" ")[1].split("/")[0].partition("-")
                    assert answer.body == CONTENT[int(start) : int(end) + 1]
            case 304:
                assert answer.body == b""
                assert if_none_match is not None
                if answer.headers["etag"] != '"v1"':
                    assert answer.headers["etag"] in if_none_match
            case status:
                assert status in (400, 416)
                assert answer.plain != CONTENT


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> ASGIApp:
    path = tmp_path_factory.mktemp("fuzz") / "content.txt"
    path.write_bytes(CONTENT)
    return _application(path)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(accept_encodings, if_none_matches, ranges)
async def test_no_request_header_breaks_an_answer(
    fuzzed: ASGIApp, accept_encoding: str, if_none_match: str | None, range_: str | None
) -> None:
    await _check(fuzzed, accept_encoding, if_none_match, range_)


@pytest.mark.long
@settings(max_examples=3000, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(accept_encodings, if_none_matches, ranges)
async def test_no_request_header_breaks_an_answer_in_bulk(
    fuzzed: ASGIApp, accept_encoding: str, if_none_match: str | None, range_: str | None
) -> None:
    await _check(fuzzed, accept_encoding, if_none_match, range_)
