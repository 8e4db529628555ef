"""Kept responses over Redis, between instances, and under every header a client can think of."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from fastapi import FastAPI, Header, Request
from hypothesis import HealthCheck, given, settings, strategies as st
from starlette.responses import FileResponse

from smriti_scale.cache import Cache, HTTPCacheMiddleware, http_cache
from smriti_scale.compression import CompressionMiddleware
from smriti_scale.testing import FaultProxy
from tests.http_asgi import Answer, ask

TEXT = "a line of text\n" * 300


def site(cache: Cache, calls: list[str], store: dict[str, int] | None = None) -> FastAPI:
    store = store if store is not None else {}
    api = FastAPI()
    api.add_middleware(CompressionMiddleware, minimum_size=1000)
    api.add_middleware(HTTPCacheMiddleware, cache=cache)

    @api.get("/docs/{name}")
    @http_cache(max_age=600, public=True, tags=["doc:{name}"])
    async def doc(name: str) -> dict[str, str | int]:
        calls.append(name)
        version = store.get(name, 0)
        await asyncio.sleep(0)
        return {"name": name, "version": version, "text": TEXT}

    @api.get("/me")
    @http_cache(max_age=600)
    async def me(request: Request, authorization: str = Header("nobody")) -> dict[str, str]:
        return {"who": authorization, "text": TEXT}

    @api.get("/file")
    @http_cache(max_age=600, public=True)
    async def file() -> FileResponse:
        return FileResponse(__file__)

    return api


@pytest.fixture
async def pair(redis_url: str, redis_prefix: str) -> AsyncIterator[tuple[Cache, Cache]]:
    async with Cache(redis_url, namespace=redis_prefix) as one, Cache(redis_url, namespace=redis_prefix) as other:
        yield one, other


async def test_one_instance_keeps_what_all_answer_with(pair: tuple[Cache, Cache]) -> None:
    calls: list[str] = []
    one, other = (site(cache, calls) for cache in pair)
    headers = {"accept-encoding": "gzip"}
    first = await ask(one, "/docs/a", headers=headers)
    second = await ask(other, "/docs/a", headers=headers)
    assert calls == ["a"]
    assert second.body == first.body
    for name in ("content-type", "content-encoding", "etag", "cache-control", "vary"):
        assert second.headers[name] == first.headers[name]
    again = await ask(other, "/docs/a", headers={**headers, "if-none-match": first.headers["etag"]})
    assert again.status == 304


async def test_an_invalidation_in_one_instance_reaches_the_others_answers(pair: tuple[Cache, Cache]) -> None:
    store = {"a": 1}
    calls: list[str] = []
    one, other = (site(cache, calls, store) for cache in pair)
    for app in (one, other):
        assert b'"version":1' in (await ask(app, "/docs/a")).body
    store["a"] = 2
    await pair[0].invalidate_tags("doc:a")
    assert b'"version":2' in (await ask(one, "/docs/a")).body
    for _ in range(5000):
        if b'"version":2' in (await ask(other, "/docs/a")).body:
            return
        await asyncio.sleep(0.002)
    pytest.fail("the other instance still answers with what was made old")


async def test_an_answer_begun_before_a_write_is_not_kept_after_it(pair: tuple[Cache, Cache]) -> None:
    store: dict[str, int] = {}
    apps = [site(cache, [], store) for cache in pair]
    for version in range(1, 25):
        reading = [asyncio.create_task(ask(app, "/docs/a")) for app in apps for _ in range(2)]
        await asyncio.sleep(random.random() / 500)
        store["a"] = version
        await pair[version % 2].invalidate_tags("doc:a")
        await asyncio.gather(*reading)
        answer = await ask(apps[version % 2], "/docs/a")
        assert f'"version":{version}'.encode() in answer.body, "what the writer reads after its own write"


async def test_without_redis_the_answers_still_come() -> None:
    async with Cache("redis://127.0.0.1:1/0", namespace="down") as cache:
        app = site(cache, [])
        etag = (await ask(app, "/docs/a")).headers["etag"]
        assert (await ask(app, "/docs/a", headers={"if-none-match": etag})).status == 304


# --- any header at all

_codings = st.lists(
    st.tuples(
        st.sampled_from(["gzip", "br", "zstd", "identity", "*", "x-gzip", "GZIP", "notgzip", ""]),
        st.sampled_from(["", ";q=0", ";q=0.5", ";q=1", ";q=0.1234", ";q=nan", ";q=1e9", ";q=-0"]),
    ).map("".join),
    max_size=5,
).map(",".join)
_text = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=50)
_conditions = st.one_of(
    st.none(),
    st.lists(st.sampled_from(['"a"', 'W/"a"', "*", "$", "W/$", '"', "", '"a~gzip"']), max_size=4).map(",".join),
    _text,
)
_ranges = st.one_of(
    st.none(),
    st.tuples(st.integers(0, 9000), st.integers(0, 9000)).map(lambda ends: f"bytes={ends[0]}-{ends[1]}"),
    st.sampled_from(["bytes=-5", "bytes=5-", "bytes=0-0,2-3", "bytes=9-1", "bytes=x", "items=1-2"]),
)
_dates = st.sampled_from([None, "Mon, 01 Jan 2035 00:00:00 GMT", "Mon, 01 Jan 1990 00:00:00 GMT", "junk"])


async def _check(app: FastAPI, draw: tuple[str | None, ...]) -> None:
    accept, condition, part, since, who = draw
    path = "/file" if part is not None else "/docs/a" if who is None else "/me"
    plain = await ask(app, path, headers={} if who is None else {"authorization": who})
    whole = plain.body
    if path == "/me":
        assert f'"who":"{who}"'.encode() in whole
    fields = {
        "accept-encoding": accept,
        "if-none-match": None if condition is None else condition.replace("$", plain.headers["etag"]),
        "range": part,
        "if-modified-since": since,
        "authorization": who,
    }
    answer: Answer = await ask(app, path, headers={name: value for name, value in fields.items() if value is not None})
    match answer.status:
        case 200:
            assert answer.plain == whole
        case 206:
            assert "multipart" in answer.headers["content-type"] or answer.body in whole
        case 304:
            assert answer.body == b""
            assert condition or since
        case status:
            assert status in (400, 416)
            assert part


_draws = st.tuples(_codings, _conditions, _ranges, _dates, st.sampled_from([None, "ann", "bob"]))


@pytest.fixture
async def fuzzed() -> AsyncIterator[FastAPI]:
    async with Cache(namespace="fuzz") as cache:
        yield site(cache, [])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=_draws)
async def test_no_header_gets_an_error_or_another_body(fuzzed: FastAPI, draw: tuple[str | None, ...]) -> None:
    await _check(fuzzed, draw)


@pytest.mark.long
@settings(max_examples=2500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=_draws)
async def test_no_header_gets_an_error_or_another_body_in_bulk(fuzzed: FastAPI, draw: tuple[str | None, ...]) -> None:
    await _check(fuzzed, draw)


async def test_a_redis_that_accepts_and_never_answers_holds_up_no_answer(
    redis_url: str, redis_prefix: str, fault_proxy: Callable[[str], Awaitable[FaultProxy]]
) -> None:
    proxy = await fault_proxy(redis_url)
    store = {"a": 1}
    calls: list[str] = []
    async with Cache(proxy.uri, namespace=redis_prefix) as cache:
        app = site(cache, calls, store)
        etag = (await ask(app, "/docs/a")).headers["etag"]
        await proxy.swallow()
        async with asyncio.timeout(20):
            for turn in range(50):
                assert (await ask(app, "/docs/a", headers={"if-none-match": etag})).status == 304
                assert b'"version":0' in (await ask(app, f"/docs/b?{turn}")).body
            store["a"] = 2
            await cache.invalidate_tags("doc:a")
            assert b'"version":2' in (await ask(app, "/docs/a", headers={"if-none-match": etag})).body
