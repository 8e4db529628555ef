"""What reaches Sentry, seen from the other end of the wire."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import redis.asyncio
import sentry_sdk
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient
from pymongo import AsyncMongoClient
from starlette.requests import Request

from smriti_scale.errors import ConfigurationError
from smriti_scale.monitoring import KeepSlowAndFailed, ServerTiming, Telemetry, init_sentry, setup_request_ids
from smriti_scale.monitoring.sentry import release_from
from smriti_scale.testing import ManualClock
from tests.monitoring.wire_sink import Sink, sink

SECRETS = (
    "hunter2",
    "bob@example.com",
    "tok_1234567890",
    "sessioncookie99",
    "querysecret77",
    "bodysecret55",
    "eyJhbGciOiJIUzI1NiJ9",
    "localsecret33",
)


@pytest.fixture(autouse=True)
def _sentry_off_again() -> Iterator[None]:
    yield
    sentry_sdk.get_client().close(timeout=0)
    sentry_sdk.get_global_scope().set_client(None)


@pytest.fixture
def sentry() -> Iterator[Sink]:
    with sink() as kept:
        yield kept


def asking(app: Any) -> AsyncClient:
    return AsyncClient(transport=ASGITransport(app, raise_app_exceptions=False), base_url="http://test")


def everything_in(sentry: Sink) -> str:
    sentry_sdk.flush(timeout=20)
    return sentry.text()


@pytest.mark.parametrize("dsn", [None, ""])
def test_without_a_dsn_nothing_starts(dsn: str | None) -> None:
    assert init_sentry(dsn, environment="test") is False
    assert not sentry_sdk.get_client().is_active()


def test_what_cannot_work_is_told() -> None:
    with pytest.raises(ConfigurationError, match="share"):
        init_sentry("http://key@127.0.0.1:9/1", environment="test", traces_sample_rate=2)
    with pytest.raises(ConfigurationError, match="DSN"):
        init_sentry("nonsense", environment="test")


def test_the_sampler_drops_probes_and_follows_no_caller() -> None:
    assert init_sentry("http://key@127.0.0.1:9/1", environment="test", release="1", traces_sample_rate=0.25) is True
    sampler: Any = sentry_sdk.get_client().options["traces_sampler"]
    for path in ("/livez", "/readyz", "/startupz", "/internal/readyz", "/api/health", "/metrics", "/_scale/events"):
        assert sampler({"asgi_scope": {"path": path, "headers": [(b"sentry-trace", b"x")]}}) == 0.0
    assert sampler({"asgi_scope": {"path": "/api/posts", "headers": []}}) == 0.25
    assert sampler({}) == 0.25
    assert sampler({"celery_job": {}, "parent_sampled": True}) == 1.0
    assert sampler({"celery_job": {}, "parent_sampled": False}) == 0.0


async def test_a_caller_cannot_have_itself_traced(sentry: Sink) -> None:
    init_sentry(sentry.dsn, environment="test", release="1", traces_sample_rate=0.0)
    app = FastAPI()

    @app.get("/posts")
    async def posts() -> str:
        return "ok"

    forged = {
        "sentry-trace": "771a43a4192642f0b136d5159a501700-8b2e1a2b3c4d5e6f-1",
        "baggage": "sentry-trace_id=771a43a4192642f0b136d5159a501700,sentry-sample_rand=0.000000,sentry-sampled=true",
    }
    async with asking(app) as client:
        for _ in range(20):
            await client.get("/posts", headers=forged)
    assert everything_in(sentry).count('"type":"transaction"') == 0


@pytest.mark.parametrize("coding", ["gzip", "br"])
async def test_no_secret_reaches_sentry_by_any_way(
    coding: str, sentry: Sink, mongo_uri: str, redis_url: str, mongo_database_name: str
) -> None:
    init_sentry(
        sentry.dsn,
        environment="staging",
        release="1.2.3",
        traces_sample_rate=1.0,
        _experiments={"transport_compression_algo": coding},
    )
    app = FastAPI()
    log = logging.getLogger("shop")

    @app.post("/login/{name}")
    async def login(request: Request, name: str) -> None:
        await request.body()
        secret_local = "localsecret33"
        log.warning("login of bob@example.com with password=%s", "hunter2")
        sentry_sdk.add_breadcrumb(
            category="http", message="GET https://x.test/?t=querysecret77", data={"token": "hunter2"}
        )
        sentry_sdk.set_tag("customer", "bob@example.com")
        sentry_sdk.set_user({"id": "42", "email": "bob@example.com", "ip_address": "10.1.2.3", "username": "bob"})
        sentry_sdk.set_extra("form", {"nested": [{"password": "hunter2"}]})
        sentry_sdk.set_context("billing", {"api_key": "tok_1234567890"})
        mongo: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(mongo_uri)
        async with mongo:
            await mongo[mongo_database_name].users.find_one({"email": "bob@example.com", "password": "hunter2"})
        async with redis.asyncio.from_url(redis_url) as link:
            await link.get("session:tok_1234567890:hunter2")
        with sentry_sdk.start_span(op="http.client", name="GET https://api.test/v1?key=querysecret77") as span:
            span.set_data("Authorization", "Bearer tok_1234567890")
        raise RuntimeError(f"mongodb://root:hunter2@db.test/ refused bob@example.com {len(secret_local)}")

    async with asking(app) as client:
        answer = await client.post(
            "/login/alice?reset=querysecret77",
            headers={
                "Authorization": "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJib2IifQ.c2ln",
                "Cookie": "session=sessioncookie99",
                "X-Api-Key": "tok_1234567890",
                "X-Forwarded-For": "10.1.2.3",
            },
            json={"password": "bodysecret55"},
        )
    assert answer.status_code == 500
    text = everything_in(sentry)
    for secret in (*SECRETS, "10.1.2.3"):
        assert secret not in text, text[max(0, text.find(secret) - 300) : text.find(secret) + 50]

    (event,) = sentry.envelope_items("event")
    assert event["exception"]["values"][-1]["type"] == "RuntimeError"
    assert (event["environment"], event["release"]) == ("staging", "1.2.3")
    assert event["user"] == {"id": "42"}
    assert event["request"]["method"] == "POST"
    assert event["request"]["url"] == "http://test/login/alice"
    assert event["request"]["headers"]["content-type"] == "application/json"
    assert any("login of" in crumb["message"] for crumb in event["breadcrumbs"]["values"])
    (transaction,) = sentry.envelope_items("transaction")
    assert transaction["transaction"] == "/login/{name}"
    assert {"db", "http.client", "db.redis"} <= {span["op"] for span in transaction["spans"]}
    assert {request.headers.get("content-encoding") for request in sentry.requests} == {coding}


async def test_slow_and_failed_requests_are_sent_though_chance_did_not_choose_them(sentry: Sink) -> None:
    init_sentry(sentry.dsn, environment="test", release="1", traces_sample_rate=0.0)
    clock = ManualClock()
    app = FastAPI()
    app.add_middleware(KeepSlowAndFailed, slow=1.0, clock=clock)

    @app.get("/fast")
    async def fast() -> None: ...

    @app.get("/slow/{number}")
    async def slow(number: int) -> None:
        clock.advance(1.5)

    @app.get("/broken")
    async def broken() -> None:
        raise ValueError("no")

    @app.get("/readyz")
    async def readyz() -> None:
        clock.advance(1.5)

    async with asking(app) as client:
        for path in ("/fast", "/slow/42", "/broken", "/readyz"):
            await client.get(path)
    everything_in(sentry)
    sent = {one["transaction"]: one for one in sentry.envelope_items("transaction")}
    assert sorted(sent) == ["/broken", "/slow/{number}"]
    assert sent["/broken"]["contexts"]["trace"]["status"] == "internal_error"
    assert len(sentry.envelope_items("event")) == 1, "the error itself"


async def test_a_request_that_was_chosen_is_sent_once(sentry: Sink) -> None:
    init_sentry(sentry.dsn, environment="test", release="1", traces_sample_rate=1.0)
    clock = ManualClock()
    app = FastAPI()
    app.add_middleware(KeepSlowAndFailed, clock=clock)

    @app.get("/slow")
    async def slow() -> None:
        with sentry_sdk.start_span(op="work", name="inner"):
            clock.advance(5)

    async with asking(app) as client:
        await client.get("/slow")
    everything_in(sentry)
    (transaction,) = sentry.envelope_items("transaction")
    assert [span["op"] for span in transaction["spans"]] == ["work"]


async def test_whatever_is_installed_works_beside_sentry_s_own_patches(sentry: Sink) -> None:
    init_sentry(sentry.dsn, environment="test", release="1", traces_sample_rate=1.0)
    app = FastAPI()
    ServerTiming().install(app)
    app.add_middleware(KeepSlowAndFailed)
    telemetry = Telemetry("shop", endpoint=sentry.url)
    telemetry.install(app)
    setup_request_ids(app)
    async with asking(app) as client:
        answer = await client.get("/")
    assert {"server-timing", "x-request-id"} <= set(answer.headers)


def test_the_release_comes_from_the_environment_and_git_is_never_run() -> None:
    assert release_from({"RENDER_GIT_COMMIT": "abc"}) == "abc"
    assert release_from({"RENDER_GIT_COMMIT": "abc", "SENTRY_RELEASE": "2.0"}) == "2.0"
    assert release_from({}) is None
    told = (
        "import subprocess\n"
        "def never(*a, **k): raise AssertionError(a)\n"
        "subprocess.Popen.__init__ = never\n"
        "import sentry_sdk\n"
        "from smriti_scale.monitoring import init_sentry\n"
        "assert init_sentry('http://key@127.0.0.1:9/1', environment='test')\n"
        "print(repr(sentry_sdk.get_client().options['release']))\n"
    )
    bare = {name: value for name, value in os.environ.items() if "COMMIT" not in name and "RELEASE" not in name}
    ran = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, timeout=60, env=bare)
    assert ran.stdout.strip() == "''", ran.stderr
