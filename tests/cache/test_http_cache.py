"""Whole responses kept as bytes: who gets what, for how long, and never anyone else's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.responses import StreamingResponse
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from smriti_scale.cache import Cache, HTTPCacheMiddleware, http_cache
from smriti_scale.cache.http import add_tags, check_preconditions, version_etag
from smriti_scale.compression import CompressionMiddleware
from smriti_scale.context import identity as current_identity
from smriti_scale.errors import ConfigurationError
from smriti_scale.events import Event, Events, HTTPCacheAnswered
from smriti_scale.testing import ManualClock
from tests.http_asgi import Answer, ask

LARGE = "a long text " * 500


class Site:
    """A FastAPI application behind the cache, with a count of what its endpoints were asked."""

    def __init__(self, clock: ManualClock, **options: Any) -> None:
        self.clock = clock
        self.cache = Cache(namespace="site", clock=clock)
        self.api = FastAPI()
        self.calls: list[str] = []
        self.events: list[Event] = []
        events = Events(self.events.append)
        self.api.add_middleware(CompressionMiddleware, minimum_size=1000)
        self.api.add_middleware(HTTPCacheMiddleware, cache=self.cache, events=events, **options)

    def get(self, path: str, **policy: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        def add(endpoint: Callable[..., Any]) -> Callable[..., Any]:
            return self.api.get(path)(http_cache(**policy)(endpoint))

        return add

    async def ask(self, path: str, **headers: str) -> Answer:
        return await ask(self.api, path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    @property
    def outcomes(self) -> list[str]:
        return [event.outcome for event in self.events if isinstance(event, HTTPCacheAnswered)]


@pytest.fixture
async def site(clock: ManualClock) -> AsyncIterator[Site]:
    site = Site(clock)
    yield site
    await site.cache.aclose()


async def test_a_hit_is_the_same_bytes_without_asking_the_application(site: Site) -> None:
    @site.get("/posts/{post_id}", max_age=60, tags=["post:{post_id}"])
    async def post(post_id: str) -> dict[str, str]:
        site.calls.append(post_id)
        return {"id": post_id, "text": LARGE}

    first = await site.ask("/posts/1", accept_encoding="br")
    again = await site.ask("/posts/1", accept_encoding="br")
    assert again.body == first.body
    assert again.headers["content-encoding"] == "br"
    assert again.plain == first.plain
    assert site.calls == ["1"]
    assert first.headers["cache-control"] == "public, max-age=60"
    assert first.headers["cdn-cache-control"] == "max-age=60"
    assert first.headers["cache-status"] == "smriti_scale; fwd=miss; stored"
    assert again.headers["cache-status"] == "smriti_scale; hit; ttl=60"
    assert again.headers["age"] == "0"
    assert site.outcomes == ["miss", "hit"]


async def test_each_coding_is_kept_apart_and_spelling_makes_no_difference(site: Site) -> None:
    @site.get("/", max_age=60)
    async def home() -> dict[str, str]:
        site.calls.append("home")
        return {"text": LARGE}

    for accept in ("br", "gzip", "zstd", "identity", "gzip, br", "br;q=0.5, gzip;q=1.0", "x, GZIP , br;q=0.2"):
        for _ in range(2):
            answer = await site.ask("/", accept_encoding=accept)
            assert answer.plain.startswith(b'{"text"')
            assert answer.headers.get("content-encoding", "identity") in accept.lower()
    assert len(site.calls) == 6, "the last two spell one preference"


async def test_an_answer_expires_and_ages(site: Site) -> None:
    @site.get("/", max_age=60, s_maxage=100)
    async def home() -> str:
        site.calls.append("home")
        return "x"

    first = await site.ask("/")
    assert first.headers["cache-control"] == "public, max-age=60, s-maxage=100"
    assert first.headers["cdn-cache-control"] == "max-age=100"
    site.clock.advance(50)
    assert (await site.ask("/")).headers["age"] == "50"
    site.clock.advance(51)
    await site.ask("/")
    assert len(site.calls) == 2


async def test_a_tag_makes_old_what_carries_it_and_nothing_else(site: Site) -> None:
    @site.get("/posts/{post_id}", max_age=60, tags=["post:{post_id}", "posts"])
    async def post(post_id: str, request: Request) -> str:
        site.calls.append(post_id)
        add_tags(request, f"author of {post_id}")
        return post_id

    for path in ("/posts/1", "/posts/2"):
        answer = await site.ask(path)
    assert answer.headers["surrogate-key"] == "site url:/posts/2 post:2 posts author%20of%202"
    assert answer.headers["cache-tag"] == "site,url:/posts/2,post:2,posts,author%20of%202"
    await site.cache.invalidate_tags("post:1")
    await site.ask("/posts/1")
    await site.ask("/posts/2")
    assert site.calls == ["1", "2", "1"]
    await site.cache.invalidate_tags("author of 2")
    await site.ask("/posts/1")
    await site.ask("/posts/2")
    assert site.calls == ["1", "2", "1", "2"]


async def test_a_successful_write_makes_its_address_old_and_a_refused_one_does_not(site: Site) -> None:
    @site.get("/posts/{post_id}", max_age=60)
    async def post(post_id: str) -> str:
        site.calls.append(post_id)
        return post_id

    @site.api.put("/posts/{post_id}")
    async def change(post_id: str, fail: bool = False) -> None:
        if fail:
            raise HTTPException(403)

    await site.ask("/posts/1?page=2")
    await ask(site.api, "/posts/1?fail=1", method="PUT")
    await site.ask("/posts/1?page=2")
    assert len(site.calls) == 1
    await ask(site.api, "/posts/1", method="PUT")
    await site.ask("/posts/1?page=2")
    assert len(site.calls) == 2


async def test_revalidation_of_a_kept_answer_costs_nothing(site: Site) -> None:
    @site.get("/", max_age=60)
    async def home() -> dict[str, str]:
        site.calls.append("home")
        return {"text": LARGE}

    etag = (await site.ask("/", accept_encoding="gzip")).headers["etag"]
    for condition in (etag, f'"x", {etag}', f"W/{etag}", "*"):
        answer = await site.ask("/", accept_encoding="gzip", if_none_match=condition)
        assert (answer.status, answer.body) == (304, b"")
        assert answer.headers["etag"] == etag
        assert answer.headers["cache-control"] == "public, max-age=60"
        assert "accept-encoding" in answer.headers["vary"].lower()
        assert not {"content-length", "content-type", "content-encoding"} & answer.headers.keys()
    assert (await site.ask("/", accept_encoding="gzip", if_none_match='"x"')).status == 200
    assert len(site.calls) == 1
    await site.cache.clear()
    assert (await site.ask("/", accept_encoding="gzip", if_none_match=etag)).status == 304, "the same again"
    assert len(site.calls) == 2


async def test_a_changed_answer_is_sent_although_the_client_has_an_old_one(site: Site) -> None:
    @site.get("/", max_age=60, tags=["home"])
    async def home() -> int:
        site.calls.append("home")
        return len(site.calls)

    etag = (await site.ask("/")).headers["etag"]
    await site.cache.invalidate_tags("home")
    answer = await site.ask("/", if_none_match=etag)
    assert (answer.status, answer.body) == (200, b"2")


# --- never across users


async def test_an_authenticated_answer_is_private_and_never_kept(site: Site) -> None:
    @site.get("/me", max_age=60)
    async def me(authorization: str = Header("nobody")) -> str:
        site.calls.append(authorization)
        return authorization

    for _ in range(2):
        anonymous = await site.ask("/me")
        ann = await site.ask("/me", authorization="ann")
        bob = await site.ask("/me", authorization="bob")
        assert (anonymous.body, ann.body, bob.body) == (b'"nobody"', b'"ann"', b'"bob"')
    assert site.calls == ["nobody", "ann", "bob", "ann", "bob"]
    assert ann.headers["cache-control"] == "private, max-age=60"
    assert ann.headers["cdn-cache-control"] == "no-store"
    assert "surrogate-key" not in ann.headers
    for answer in (anonymous, ann):
        assert "Authorization" in answer.headers["vary"]


async def test_revalidation_never_goes_before_authentication(site: Site) -> None:
    async def signed_in(authorization: str | None = Header(None)) -> str:
        if authorization is None:
            raise HTTPException(401)
        return authorization

    @site.get("/me", max_age=60)
    async def me(who: str = Depends(signed_in)) -> str:
        return who

    etag = (await site.ask("/me", authorization="ann")).headers["etag"]
    assert (await site.ask("/me", authorization="ann", if_none_match=etag)).status == 304
    assert (await site.ask("/me", if_none_match=etag)).status == 401
    assert (await site.ask("/me", if_none_match="*")).status == 401
    bob = await site.ask("/me", authorization="bob", if_none_match=etag)
    assert (bob.status, bob.body) == (200, b'"bob"')


@pytest.mark.parametrize(
    ("session_cookies", "cookie", "kept"),
    [
        (None, "analytics=1", False),
        (["session"], "analytics=1", True),
        (["session"], "analytics=1; session=2", False),
        (["session"], "xsession=2", True),
        ([], "session=1", True),
    ],
)
async def test_any_cookie_counts_as_signed_in_unless_those_that_do_are_named(
    clock: ManualClock, session_cookies: list[str] | None, cookie: str, kept: bool
) -> None:
    site = Site(clock, session_cookies=session_cookies)

    @site.get("/", max_age=60)
    async def home() -> str:
        site.calls.append("home")
        return "x"

    for _ in range(3):
        answer = await site.ask("/", cookie=cookie)
    assert len(site.calls) == (1 if kept else 3)
    assert answer.headers["cache-control"].startswith("public" if kept else "private")
    assert ("cookie" in answer.headers["vary"].lower()) is (session_cookies != [])
    await site.cache.aclose()


async def test_a_public_answer_is_made_without_credentials_and_goes_to_all(site: Site) -> None:
    @site.get("/tags", max_age=60, public=True)
    async def tags(request: Request) -> str:
        site.calls.append("tags")
        return request.headers.get("authorization", "nobody") + request.headers.get("cookie", "")

    first = await site.ask("/tags", authorization="ann", cookie="session=1")
    second = await site.ask("/tags", authorization="bob")
    assert first.body == second.body == b'"nobody"'
    assert len(site.calls) == 1
    assert "authorization" not in first.headers.get("vary", "").lower()


@pytest.mark.parametrize("policy", [{"public": True}, {}])
async def test_an_answer_that_sets_a_cookie_is_kept_by_nobody(site: Site, policy: dict[str, Any]) -> None:
    @site.get("/", max_age=60, tags=["home"], **policy)
    async def home(response: Response) -> str:
        site.calls.append("home")
        response.set_cookie("session", str(len(site.calls)))
        return "x"

    first, second = await site.ask("/"), await site.ask("/")
    assert first.headers["set-cookie"] != second.headers["set-cookie"]
    for answer in (first, second):
        assert answer.headers["cache-control"] == "private, no-store"
        assert answer.headers["cdn-cache-control"] == "no-store"
        assert "surrogate-key" not in answer.headers
    assert len(site.calls) == 2


async def test_many_waiting_for_one_answer_never_share_one_that_sets_a_cookie(site: Site) -> None:
    @site.get("/", max_age=60, public=True)
    async def home(response: Response) -> int:
        site.calls.append("home")
        mine = len(site.calls)
        await asyncio.sleep(0.01)
        response.set_cookie("session", str(mine))
        return mine

    answers = await asyncio.gather(*(site.ask("/") for _ in range(10)))
    assert len({answer.headers["set-cookie"] for answer in answers}) == 10
    assert len({answer.body for answer in answers}) == 10


async def test_an_unmarked_answer_with_a_cookie_loses_its_public(site: Site) -> None:
    @site.api.get("/")
    async def home(response: Response) -> str:
        response.headers["Cache-Control"] = "public, max-age=60"
        response.set_cookie("session", "1")
        return "x"

    assert (await site.ask("/")).headers["cache-control"] == "private, no-store"


async def test_per_identity_answers_are_kept_for_each_verified_identity_alone(clock: ManualClock) -> None:
    tokens = {"Bearer a": "ann", "Bearer b": "bob"}

    async def verify(request: Any) -> str | None:
        return tokens.get(request.headers.get("authorization", ""))

    site = Site(clock, identity=verify)

    @site.get("/me", max_age=60, per_identity=True)
    async def me(authorization: str = Header("nobody")) -> str:
        site.calls.append(authorization)
        return authorization

    for _ in range(2):
        for token in ("Bearer a", "Bearer b", "forged"):
            answer = await site.ask("/me", authorization=token)
            assert answer.body == f'"{token}"'.encode()
            assert answer.headers["cache-control"] == "private, max-age=60"
    assert (await site.ask("/me")).body == b'"nobody"'
    assert site.calls == ["Bearer a", "Bearer b", "forged", "forged", "nobody"]
    tokens.pop("Bearer a")
    assert (await site.ask("/me", authorization="Bearer a")).headers.get("cache-status") is None, "revoked: asked anew"
    await site.cache.aclose()


async def test_the_identity_can_come_from_a_middleware_further_out(site: Site) -> None:
    @site.get("/me", max_age=60, per_identity=True)
    async def me() -> str:
        site.calls.append("me")
        return current_identity.get() or "nobody"

    for who in ("ann", "bob", "ann", "bob"):
        token = current_identity.set(who)
        try:
            assert (await site.ask("/me")).body == f'"{who}"'.encode()
        finally:
            current_identity.reset(token)
    assert len(site.calls) == 2


# --- what is kept, what passes


async def test_what_the_endpoint_says_goes_before_the_policy(site: Site) -> None:
    @site.get("/", max_age=60)
    async def home(response: Response, say: str) -> str:
        site.calls.append(say)
        response.headers["Cache-Control"] = say
        return "x"

    for say in ("no-store", "private", "no-cache", "max-age=0", "public, max-age=junk"):
        for _ in range(2):
            answer = await site.ask(f"/?say={say.replace(' ', '%20')}")
            assert answer.headers["cache-control"] == say
    assert len(site.calls) == 10
    await site.ask("/?say=s-maxage=5")
    site.clock.advance(6)
    await site.ask("/?say=s-maxage=5")
    assert len(site.calls) == 12


@pytest.mark.parametrize("status", [201, 204, 302, 404, 500])
async def test_only_lasting_answers_are_kept(site: Site, status: int) -> None:
    @site.get("/", max_age=60)
    async def home(response: Response) -> Response:
        site.calls.append("home")
        return Response(status_code=status)

    for _ in range(2):
        assert (await site.ask("/")).status == status
    assert len(site.calls) == 2


async def test_a_header_that_the_answer_varies_by_becomes_part_of_the_key(site: Site) -> None:
    @site.get("/", max_age=60, vary=["Accept-Language"])
    async def home(request: Request, response: Response) -> str:
        language = request.headers.get("accept-language", "en")
        site.calls.append(language)
        response.headers["Vary"] = "X-Device"
        return language + request.headers.get("x-device", "")

    for _ in range(3):
        for language, device in (("de", "phone"), ("fr", "phone"), ("de", "desk")):
            answer = await site.ask("/", accept_language=language, x_device=device)
            assert answer.body == f'"{language}{device}"'.encode()
            assert {"x-device", "accept-language"} <= set(answer.headers["vary"].lower().split(", "))
    assert len(site.calls) == 4, "one more than variants: the first answer taught that X-Device counts"


async def test_an_answer_made_without_an_origin_is_not_given_to_a_page_of_another(site: Site) -> None:
    # Inside of the cache, as when it is added first.
    inner = FastAPI()
    inner.add_middleware(CORSMiddleware, allow_origins=["https://app.example"])

    @inner.get("/")
    @http_cache(max_age=60)
    async def home() -> str:
        return "x"

    app = HTTPCacheMiddleware(inner, site.cache)
    for _ in range(2):
        assert "access-control-allow-origin" not in (await ask(app)).headers
        answer = await ask(app, headers={"origin": "https://app.example"})
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert "access-control-allow-origin" not in (await ask(app, headers={"origin": "https://evil.example"})).headers


async def test_static_files_are_not_copied_into_the_cache(site: Site) -> None:
    @site.api.get("/app.css")
    async def css(response: Response) -> str:
        site.calls.append("css")
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return "x"

    for _ in range(3):
        await site.ask("/app.css")
    assert len(site.calls) == 3


async def test_vary_star_is_never_kept(site: Site) -> None:
    @site.get("/", max_age=60)
    async def home(response: Response) -> str:
        site.calls.append("home")
        response.headers["Vary"] = "*"
        return "x"

    await site.ask("/")
    assert (await site.ask("/")).headers["vary"] == "*"
    assert len(site.calls) == 2


async def test_a_request_for_a_part_or_with_a_body_passes_by(site: Site) -> None:
    @site.get("/", max_age=60)
    async def home(request: Request) -> str:
        site.calls.append((await request.body()).decode())
        return "x"

    await site.ask("/", range="bytes=0-1")
    await ask(site.api, "/", headers={"content-length": "4"}, body=b"evil")
    assert (await site.ask("/")).status == 200
    assert site.calls == ["", "evil", ""]


async def test_headers_of_one_request_are_not_given_to_the_next(site: Site) -> None:
    @site.get("/", max_age=60)
    async def home(response: Response) -> str:
        response.headers.update({"X-Request-ID": "1", "RateLimit": "r=1", "X-RateLimit-Remaining": "3", "X-Own": "1"})
        return "x"

    await site.ask("/")
    again = await site.ask("/")
    assert not {"x-request-id", "ratelimit", "x-ratelimit-remaining"} & again.headers.keys()
    assert again.headers["x-own"] == "1"


async def test_an_unmarked_public_answer_is_kept_for_anonymous_requests(site: Site) -> None:
    @site.api.get("/feed")
    async def feed(response: Response, authorization: str = Header("nobody")) -> str:
        site.calls.append(authorization)
        response.headers["Cache-Control"] = "public, max-age=60"
        return authorization

    for _ in range(3):
        assert (await site.ask("/feed")).body == b'"nobody"'
    assert (await site.ask("/feed", authorization="ann")).body == b'"ann"'
    assert site.calls == ["nobody", "nobody", "ann"], "the first answer taught that it may be kept"


async def test_what_is_too_large_or_streams_without_end_passes_piece_by_piece(clock: ManualClock) -> None:
    site = Site(clock, max_body=10_000)

    @site.get("/large", max_age=60)
    async def large() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            site.calls.append("large")
            for _ in range(30):
                yield b"x" * 1000

        return StreamingResponse(pieces(), media_type="application/octet-stream")

    @site.get("/events", max_age=60)
    async def events() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            site.calls.append("events")
            for _ in range(3):
                yield b"data: x\n\n"

        return StreamingResponse(pieces(), media_type="text/event-stream")

    for _ in range(2):
        assert (await site.ask("/large", accept_encoding="identity")).body == b"x" * 30_000
        assert len([piece for piece in (await site.ask("/events")).pieces if piece]) == 3
    assert site.calls == ["large", "events"] * 2
    await site.cache.aclose()


async def test_head_is_answered_from_the_kept_get(site: Site) -> None:
    @site.get("/", max_age=60)
    async def home() -> str:
        site.calls.append("home")
        return "hello"

    got = await site.ask("/")
    head = await ask(site.api, "/", method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == got.headers["content-length"]
    assert head.headers["etag"] == got.headers["etag"]
    assert site.calls == ["home"]


async def test_hundreds_at_once_cost_one_run(site: Site) -> None:
    release = asyncio.Event()

    @site.get("/", max_age=60)
    async def home() -> str:
        site.calls.append("home")
        await release.wait()
        return "x"

    asking = [asyncio.create_task(site.ask("/")) for _ in range(200)]
    await asyncio.sleep(0.01)
    asking[0].cancel()
    release.set()
    answers = await asyncio.gather(*asking[1:])
    assert {answer.body for answer in answers} == {b'"x"'}
    assert site.calls == ["home"]


async def test_the_old_answer_is_sent_while_a_new_one_is_made(site: Site) -> None:
    @site.get("/", max_age=10, stale_while_revalidate=30)
    async def home() -> int:
        site.calls.append("home")
        return len(site.calls)

    assert (await site.ask("/")).body == b"1"
    site.clock.advance(20)
    stale = await site.ask("/")
    assert (stale.body, stale.headers["age"]) == (b"1", "20")
    for _ in range(50):
        await asyncio.sleep(0)
    assert (await site.ask("/")).body == b"2"
    assert site.outcomes == ["miss", "stale", "hit"]


@pytest.mark.parametrize("raises", [True, False])
async def test_the_old_answer_is_sent_when_a_new_one_fails(site: Site, raises: bool) -> None:
    @site.get("/", max_age=10, stale_if_error=100)
    async def home() -> str:
        site.calls.append("home")
        if len(site.calls) > 1:
            if raises:
                raise RuntimeError("boom")
            raise HTTPException(503)
        return "good"

    await site.ask("/")
    site.clock.advance(20)
    answer = await site.ask("/")
    assert (answer.status, answer.body) == (200, b'"good"')
    assert site.outcomes == ["miss", "stale"]
    site.clock.advance(200)
    if raises:
        with pytest.raises(RuntimeError, match="boom"):
            await site.ask("/")
    else:
        assert (await site.ask("/")).status == 503


async def test_a_client_that_leaves_harms_nobody(site: Site) -> None:
    release = asyncio.Event()

    @site.get("/", max_age=60)
    async def home() -> str:
        site.calls.append("home")
        await release.wait()
        return "x"

    first = asyncio.create_task(site.ask("/"))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(site.ask("/"))
    await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.sleep(0)
    release.set()
    assert (await second).body == b'"x"'
    assert site.calls == ["home"]


async def test_two_hosts_and_two_queries_do_not_share(site: Site) -> None:
    @site.get("/", max_age=60)
    async def home(request: Request) -> str:
        return f"{request.headers.get('host')} {request.url.query}"

    for host, query in (("a", "x=1"), ("b", "x=1"), ("a", "x=2"), ("a", "")):
        for _ in range(2):
            assert (await site.ask(f"/?{query}", host=host)).body == f'"{host} {query}"'.encode()


# --- conditional requests without a policy


async def test_any_whole_200_gets_a_tag_and_revalidates_after_it_was_made(site: Site) -> None:
    @site.api.get("/")
    async def home(response: Response) -> dict[str, str]:
        site.calls.append("home")
        response.headers["Access-Control-Allow-Origin"] = "https://app.example"
        return {"text": LARGE}

    first = await site.ask("/", accept_encoding="gzip")
    again = await site.ask("/", accept_encoding="gzip", if_none_match=first.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    assert again.headers["access-control-allow-origin"] == "https://app.example"
    assert len(site.calls) == 2
    assert "cache-control" not in first.headers


async def test_a_date_revalidates_too(site: Site) -> None:
    @site.api.get("/")
    async def home(response: Response) -> str:
        response.headers["Last-Modified"] = "Mon, 01 Jan 2024 00:00:00 GMT"
        return "x"

    assert (await site.ask("/", if_modified_since="Mon, 01 Jan 2024 00:00:00 GMT")).status == 304
    assert (await site.ask("/", if_modified_since="Sun, 31 Dec 2023 00:00:00 GMT")).status == 200
    assert (await site.ask("/", if_modified_since="junk")).status == 200


async def test_the_version_read_from_a_coded_answer_guards_the_write(site: Site) -> None:
    version = 1

    @site.api.get("/doc")
    async def read(response: Response) -> dict[str, str]:
        response.headers["ETag"] = version_etag(version)
        return {"text": LARGE}

    @site.api.put("/doc")
    async def write(request: Request) -> int:
        nonlocal version
        check_preconditions(request, version_etag(version), required=True)
        version += 1
        return version

    tag = (await site.ask("/doc", accept_encoding="zstd")).headers["etag"]
    assert tag == '"1~zstd"'
    assert (await ask(site.api, "/doc", method="PUT", headers={"if-match": tag})).status == 200
    assert (await ask(site.api, "/doc", method="PUT", headers={"if-match": tag})).status == 412
    assert (await ask(site.api, "/doc", method="PUT")).status == 428


async def test_a_stream_without_a_tag_is_not_held_back(site: Site) -> None:
    @site.api.get("/")
    async def home() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"a"
            yield b"b"

        return StreamingResponse(pieces())

    answer = await site.ask("/")
    assert "etag" not in answer.headers
    assert answer.pieces[:2] == (b"a", b"b")


async def test_a_plain_asgi_application_is_kept_by_what_it_says(clock: ManualClock) -> None:
    calls = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal calls
        calls += 1
        headers = [(b"Cache-Control", b"public, max-age=60")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"x"})

    async with Cache(namespace="plain", clock=clock) as cache:
        wrapped: ASGIApp = HTTPCacheMiddleware(app, cache)
        for _ in range(4):
            assert (await ask(wrapped)).body == b"x"
    assert calls == 2


async def test_wrapped_around_an_application_it_knows_the_routes_too(clock: ManualClock) -> None:
    api = FastAPI()
    calls: list[str] = []

    @api.get("/posts/{post_id}")
    @http_cache(max_age=60, tags=["post:{post_id}"])
    async def post(post_id: str) -> str:
        calls.append(post_id)
        return LARGE

    async with Cache(namespace="wrapped", clock=clock) as cache:
        app = HTTPCacheMiddleware(CompressionMiddleware(api), cache)
        for _ in range(2):
            answer = await ask(app, "/posts/1", headers={"accept-encoding": "br"})
        await cache.invalidate_tags("post:1")
        await ask(app, "/posts/1", headers={"accept-encoding": "br"})
    assert answer.headers["content-encoding"] == "br"
    assert calls == ["1", "1"]


async def test_tags_that_lack_their_parameter_keep_an_answer_from_being_kept(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    @site.get("/", max_age=60, tags=["user:{user_id}"])
    async def home() -> str:
        site.calls.append("home")
        return "x"

    for _ in range(2):
        await site.ask("/")
    assert len(site.calls) == 2
    assert "path lacks" in caplog.text


async def test_without_a_cache_headers_and_conditions_work_and_nothing_is_kept() -> None:
    api = FastAPI()
    api.add_middleware(HTTPCacheMiddleware)
    calls = 0

    @api.get("/")
    @http_cache(max_age=60)
    async def home() -> str:
        nonlocal calls
        calls += 1
        return "x"

    first = await ask(api)
    assert (await ask(api, headers={"if-none-match": first.headers["etag"]})).status == 304
    assert first.headers["cache-control"] == "public, max-age=60"
    assert calls == 2


@pytest.mark.parametrize(
    "policy",
    [
        {"public": True, "private": True},
        {"private": True, "s_maxage": 5},
        {"max_age": -1},
        {"max_age": 1.5},
        {"vary": "Origin"},
        {"vary": ["*"]},
        {"tags": "posts"},
        {"public": True, "per_identity": True},
    ],
)
def test_a_policy_that_contradicts_itself_is_told_when_decorating(policy: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        http_cache(**policy)
