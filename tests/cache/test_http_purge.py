"""Purging CDNs: what each is asked, what happens while it is down, and Varnish in earnest."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest

from smriti_scale.cache import Cache
from smriti_scale.cache.http import CDNPurge, CloudflarePurger, FastlyPurger, HTTPPurger, Purger
from smriti_scale.errors import ConfigurationError
from smriti_scale.events import CDNPurged, CDNPurgeFailed, Event, Events

Respond = Callable[[httpx.Request], httpx.Response]


class CDN:
    """Remembers what it was asked."""

    def __init__(self, respond: Respond | None = None) -> None:
        self.asked: list[httpx.Request] = []
        self._respond = respond or (lambda request: httpx.Response(200))
        self.client = httpx.AsyncClient(transport=httpx.MockTransport(self._handle))

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        return self._respond(request)


@pytest.fixture
async def cache() -> AsyncIterator[Cache]:
    async with Cache(namespace="site") as cache:
        yield cache


async def purged(cache: Cache, purger: Purger, *tags: str, cdn: CDN | None = None) -> list[httpx.Request]:
    cdn = cdn or CDN()
    async with CDNPurge(cache, purger, client=cdn.client, gather=0.001) as purge:
        await cache.invalidate_tags(*tags)
        await _settled(purge)
    return cdn.asked


async def _settled(purge: CDNPurge) -> None:
    for _ in range(5):  # the cache calls its hooks in tasks of their own
        await asyncio.sleep(0)
    await purge.drain()


async def test_fastly_is_asked_by_surrogate_key(cache: Cache) -> None:
    [request] = await purged(cache, FastlyPurger("svc", "secret"), "user:42", "a b")
    assert (request.method, str(request.url)) == ("POST", "https://api.fastly.com/service/svc/purge")
    assert json.loads(request.content) == {"surrogate_keys": ["user:42", "a%20b"]}
    assert request.headers["fastly-key"] == "secret"
    assert request.headers["fastly-soft-purge"] == "1"


async def test_cloudflare_is_asked_by_tag_thirty_at_a_time(cache: Cache) -> None:
    requests = await purged(cache, CloudflarePurger("zone", "secret"), *(f"t{n}" for n in range(70)))
    assert {str(request.url) for request in requests} == {"https://api.cloudflare.com/client/v4/zones/zone/purge_cache"}
    assert [len(json.loads(request.content)["tags"]) for request in requests] == [30, 30, 10]
    assert requests[0].headers["authorization"] == "Bearer secret"


async def test_every_proxy_is_asked_with_a_header(cache: Cache) -> None:
    purger = HTTPPurger(["http://a:1/", "http://b:1"], header="xkey-purge", headers={"X-Secret": "s"})
    requests = await purged(cache, purger, "x", "y")
    assert [(request.method, request.url.host) for request in requests] == [("PURGE", "a"), ("PURGE", "b")]
    assert {request.headers["xkey-purge"] for request in requests} == {"x y"}
    assert {request.headers["x-secret"] for request in requests} == {"s"}


async def test_clearing_the_cache_purges_what_carries_its_name(cache: Cache) -> None:
    cdn = CDN()
    async with CDNPurge(cache, FastlyPurger("svc", "secret"), client=cdn.client, gather=0.001) as purge:
        await cache.clear()
        await _settled(purge)
    assert json.loads(cdn.asked[0].content) == {"surrogate_keys": ["site"]}


async def test_tags_of_one_moment_go_in_one_request_and_each_once(cache: Cache) -> None:
    cdn = CDN()
    async with CDNPurge(cache, FastlyPurger("svc", "secret"), client=cdn.client, gather=0.01) as purge:
        for tag in ("a", "b", "a"):
            await cache.invalidate_tags(tag)
        await _settled(purge)
        await cache.invalidate_tags("a")
        await _settled(purge)
    assert [json.loads(request.content)["surrogate_keys"] for request in cdn.asked] == [["a", "b"], ["a"]]


async def test_a_key_can_be_purged_once_more_for_answers_begun_before_the_write(cache: Cache) -> None:
    cdn = CDN()
    async with CDNPurge(cache, FastlyPurger("s", "t"), client=cdn.client, gather=0.001, again_after=0.02) as purge:
        await cache.invalidate_tags("x")
        await _settled(purge)
        assert len(cdn.asked) == 1
        await asyncio.sleep(0.1)
        await purge.drain()
        assert len(cdn.asked) == 2
        await cache.invalidate_tags("y")
        await _settled(purge)
    assert [json.loads(request.content)["surrogate_keys"] for request in cdn.asked] == [["x"], ["x"], ["y"], ["y"]]


@pytest.mark.parametrize("trouble", ["status", "refused"])
async def test_a_purge_is_tried_again_and_a_proxy_that_did_it_is_left_alone(
    cache: Cache, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smriti_scale.cache.http.purge._FIRST_PAUSE", 0.001)
    seen: list[Event] = []
    failures = 2

    def respond(request: httpx.Request) -> httpx.Response:
        nonlocal failures
        if request.url.host == "b" and failures:
            failures -= 1
            if trouble == "refused":
                raise httpx.ConnectError("refused")
            return httpx.Response(503)
        return httpx.Response(200)

    cdn = CDN(respond)
    purger = HTTPPurger(["http://a", "http://b"])
    async with CDNPurge(cache, purger, client=cdn.client, gather=0.001, events=Events(seen.append)) as purge:
        await cache.invalidate_tags("x")
        await _settled(purge)
    assert [request.url.host for request in cdn.asked] == ["a", "b", "b", "b"]
    assert seen == [CDNPurged(cdn="http", keys=1)]


async def test_a_cdn_that_stays_down_fails_no_write_and_is_told(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("smriti_scale.cache.http.purge._FIRST_PAUSE", 0.001)
    seen: list[Event] = []
    cdn = CDN(lambda request: httpx.Response(500))
    async with CDNPurge(
        cache, FastlyPurger("svc", "hunter2"), client=cdn.client, gather=0.001, events=Events(seen.append)
    ) as purge:
        with caplog.at_level(logging.ERROR):
            await cache.invalidate_tags("x")
            await _settled(purge)
    assert len(cdn.asked) == 5
    assert seen == [CDNPurgeFailed(cdn="fastly", keys=1, reason="status 500")]
    assert "may serve old answers" in caplog.text
    assert "hunter2" not in caplog.text + repr(list(FastlyPurger("svc", "hunter2").requests(["x"])))


async def test_a_cdn_that_accepts_and_never_answers_holds_up_nothing(cache: Cache) -> None:
    seen: list[Event] = []
    silent = socket.create_server(("127.0.0.1", 0))  # the kernel accepts, nobody reads
    port = silent.getsockname()[1]
    purge = CDNPurge(
        cache,
        HTTPPurger([f"http://127.0.0.1:{port}"]),
        gather=0.001,
        timeout=0.05,
        attempts=1,
        drain_timeout=0.2,
        events=Events(seen.append),
    )
    async with asyncio.timeout(5):
        await cache.invalidate_tags("x")
        await _settled(purge)
        await purge.aclose()
    assert [type(event) for event in seen] == [CDNPurgeFailed]
    silent.close()


async def test_the_queue_is_bounded_while_the_cdn_is_down(cache: Cache) -> None:
    seen: list[Event] = []
    cdn = CDN()
    async with CDNPurge(
        cache, FastlyPurger("s", "t"), client=cdn.client, gather=0.05, max_queued=10, events=Events(seen.append)
    ) as purge:
        purge.purge(f"t{n}" for n in range(25))
        assert seen == [CDNPurgeFailed(cdn="fastly", keys=15, reason="the queue is full")]
        await purge.drain()
    assert len(json.loads(cdn.asked[0].content)["surrogate_keys"]) == 10


async def test_what_is_queued_when_the_application_stops_is_still_sent(cache: Cache) -> None:
    cdn = CDN()
    async with CDNPurge(cache, FastlyPurger("s", "t"), client=cdn.client, gather=0.01) as purge:
        purge.purge(["x"])
    assert len(cdn.asked) == 1
    await cache.invalidate_tags("later")
    await asyncio.sleep(0.03)
    assert len(cdn.asked) == 1, "closed: no longer listening"


@pytest.mark.parametrize(
    "make",
    [
        lambda: FastlyPurger("s", ""),
        lambda: CloudflarePurger("z", "a\nb"),
        lambda: HTTPPurger([]),
        lambda: HTTPPurger("http://a"),
        lambda: HTTPPurger(["a:80"]),
        lambda: HTTPPurger(["http://a"], batch_size=0),
    ],
)
def test_a_purger_that_cannot_work_is_told_when_made(make: Callable[[], Purger]) -> None:
    with pytest.raises(ConfigurationError):
        make()


# --- Varnish

VCL = """
vcl 4.1;
import xkey;
backend default { .host = "127.0.0.1"; .port = "%d"; }
acl purgers { "127.0.0.1"; }
sub vcl_recv {
    if (req.method == "PURGE") {
        if (client.ip !~ purgers) { return (synth(405)); }
        return (synth(200, "purged " + xkey.purge(req.http.xkey-purge)));
    }
}
sub vcl_backend_response {
    set beresp.http.xkey = beresp.http.Surrogate-Key;
}
"""

APP = """
from fastapi import FastAPI, Response
from starlette.responses import PlainTextResponse
from smriti_scale.cache import Cache, HTTPCacheMiddleware, http_cache
from smriti_scale.cache.http import CDNPurge, HTTPPurger
from smriti_scale.compression import CompressionMiddleware
import contextlib, sys

cache = Cache(namespace="site")
asked = {"count": 0}

@contextlib.asynccontextmanager
async def lifespan(app):
    async with cache, CDNPurge(cache, HTTPPurger([sys.argv[2]], header="xkey-purge"), gather=0.01) as purge:
        app.state.purge = purge
        yield

app = FastAPI(lifespan=lifespan)
app.add_middleware(CompressionMiddleware)
app.add_middleware(HTTPCacheMiddleware, cache=cache)

@app.get("/posts/{post_id}")
@http_cache(max_age=0, s_maxage=600, public=True, tags=["post:{post_id}"])
async def post(post_id: str):
    asked["count"] += 1
    return {"id": post_id, "asked": asked["count"], "text": "long " * 1000}

@app.get("/login")
@http_cache(max_age=600, s_maxage=600, public=True)
async def login(response: Response):
    asked["count"] += 1
    response.set_cookie("session", str(asked["count"]))
    return asked["count"]

@app.post("/purge/{tag}")
async def purge(tag: str):
    await cache.invalidate_tags(tag)

if __name__ == "__main__":
    import uvicorn
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning")
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert process.poll() is None, "it ended"
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.fixture
def behind_varnish(tmp_path: Path) -> Iterator[str]:
    varnishd = shutil.which("varnishd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    assert varnishd, "this test needs Varnish: apt-get install varnish varnish-modules"
    origin, proxy = _free_port(), _free_port()
    (tmp_path / "origin.py").write_text(APP)
    (tmp_path / "site.vcl").write_text(VCL % origin)
    origin_process = subprocess.Popen(
        [sys.executable, str(tmp_path / "origin.py"), str(origin), f"http://127.0.0.1:{proxy}"],
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    listen = ["-a", f"127.0.0.1:{proxy}", "-f", str(tmp_path / "site.vcl"), "-n", str(tmp_path / "varnish")]
    try:
        _await_port(origin, origin_process)
        proxy_process = subprocess.Popen(
            [varnishd, "-j", "none", "-F", *listen, "-s", "malloc,16m"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _await_port(proxy, proxy_process)
            yield f"http://127.0.0.1:{proxy}"
        finally:
            proxy_process.terminate()
            proxy_process.wait(30)
    finally:
        origin_process.terminate()
        origin_process.wait(30)


@pytest.mark.long
async def test_an_invalidated_tag_reaches_varnish_and_a_cookie_never_stays_in_it(behind_varnish: str) -> None:
    async with httpx.AsyncClient(base_url=behind_varnish) as client:

        async def asked(path: str) -> int:
            count = (await client.get(path)).json()
            return int(count["asked"] if isinstance(count, dict) else count)

        first, other = await asked("/posts/1"), await asked("/posts/2")
        hit = await client.get("/posts/1")
        assert hit.json()["asked"] == first
        assert len(hit.headers["x-varnish"].split()) == 2, "Varnish names the request that filled it: a hit"
        assert (await client.post("/purge/post:1")).status_code == 200
        deadline = time.monotonic() + 30
        while await asked("/posts/1") == first:
            assert time.monotonic() < deadline, "the old answer is still in Varnish"
            await asyncio.sleep(0.02)
        assert await asked("/posts/2") == other, "untouched"
        logins = [await client.get("/login", headers={"cookie": ""}) for _ in range(3)]
        assert len({login.headers["set-cookie"] for login in logins}) == 3
