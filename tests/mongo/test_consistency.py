from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
import pytest_asyncio
from pymongo.errors import PyMongoError, WTimeoutError
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from smriti_scale import context
from smriti_scale.errors import DatabaseUnavailable
from smriti_scale.events import CausalTokenIgnored, CausalWait, Event, Events, ReadFellBackToPrimary
from smriti_scale.local import LocalMongo
from smriti_scale.mongo import MongoClients, PositionStore, ReadYourWritesMiddleware, identify
from smriti_scale.mongo.causal_token import CausalToken, TokenSigner, packed
from smriti_scale.redis_link import RedisLink
from smriti_scale.testing import FaultProxy, ManualClock, replication_lag

SECRET = "a secret of thirty-two characters"


class Instance:
    """One server process's worth of application: clients of its own, nothing shared but the database."""

    def __init__(self, mongo: MongoClients, events: list[Event], **options: Any) -> None:
        self.mongo = mongo
        self.events = events
        self.options = {"secret": SECRET, **options}
        self.app: Any = ReadYourWritesMiddleware(
            Starlette(
                routes=[
                    Route("/posts/{number:int}", self.put, methods=["PUT"]),
                    Route("/posts/{number:int}", self.get),
                    Route("/me/{number:int}", self.put_signed_in, methods=["PUT"]),
                    Route("/me/{number:int}", self.get_signed_in),
                    Route("/later/{number:int}", self.put_later, methods=["PUT"]),
                ]
            ),
            mongo=mongo,
            **self.options,
        )

    def client(self, **options: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="https://test", **options)

    async def put(self, request: Request) -> Response:
        await self.mongo.write.posts.insert_one({"_id": request.path_params["number"]})
        return Response(status_code=204)

    async def get(self, request: Request) -> Response:
        found = await self.mongo.read.posts.find_one({"_id": request.path_params["number"]})
        return JSONResponse({"found": found is not None})

    async def put_signed_in(self, request: Request) -> Response:
        context.identity.set(request.headers["X-User"])
        return await self.put(request)

    async def get_signed_in(self, request: Request) -> Response:
        await identify(request.headers["X-User"])
        return await self.get(request)

    async def put_later(self, request: Request) -> Response:
        context.identity.set(request.headers["X-User"])
        work = self.mongo.write.posts.insert_one
        return Response(status_code=202, background=BackgroundTask(work, {"_id": request.path_params["number"]}))

    def count(self, kind: type[Event]) -> int:
        return sum(isinstance(event, kind) for event in self.events)


Make = Callable[..., Awaitable[Instance]]


@pytest_asyncio.fixture
async def instance(mongo_uri: str, mongo_database_name: str) -> AsyncIterator[Make]:
    async with AsyncExitStack() as stack:

        async def make(uri: str = mongo_uri, driver: str = "pymongo", **options: Any) -> Instance:
            events: list[Event] = []
            mongo = MongoClients(
                uri,
                database=mongo_database_name,
                driver=driver,  # type: ignore[arg-type]
                min_pool_size=0,
                events=Events(events.append),
                **options.pop("clients", {}),
            )
            await stack.enter_async_context(mongo)
            return Instance(mongo, events, **options)

        yield make


async def found(client: httpx.AsyncClient, path: str, **options: Any) -> bool:
    response = await client.get(path, **options)
    assert response.status_code == 200
    return bool(response.json()["found"])


@pytest.mark.long
@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_a_write_is_seen_at_another_instance_by_cookie(instance: Make, driver: str) -> None:
    patient = {"probe_timeout": 2.0}  # a busy machine is not a lagging node
    here, there = await instance(driver=driver, clients=patient), await instance(driver=driver, clients=patient)
    async with here.client() as one, there.client(cookies=one.cookies) as other:
        for number in range(100):
            await one.put(f"/posts/{number}")
            other.cookies = one.cookies
            assert await found(other, f"/posts/{number}")
    assert there.count(ReadFellBackToPrimary) <= 40


async def test_a_write_is_seen_at_another_instance_by_header(instance: Make) -> None:
    here, there = await instance(cookie=None), await instance(cookie=None)
    async with here.client() as one, there.client() as other:
        for number in range(30):
            token = (await one.put(f"/posts/{number}")).headers["X-Consistency-Token"]
            assert await found(other, f"/posts/{number}", headers={"X-Consistency-Token": token})


async def test_the_cookie_is_for_the_browser_to_carry_and_nobody_to_read(instance: Make) -> None:
    here = await instance()
    async with here.client() as client:
        answer = await client.put("/posts/1")
        flags = answer.headers["Set-Cookie"].partition(";")[2]
        assert flags == " Max-Age=120; Path=/; HttpOnly; SameSite=Lax; Secure"
        assert "Set-Cookie" not in (await client.get("/posts/1")).headers


@pytest.mark.xdist_group("fault_mongo")
async def test_a_token_of_a_lagging_moment_is_served_by_the_primary_within_bounds(
    instance: Make, fault_mongo: LocalMongo
) -> None:
    options = {"probe_timeout": 0.1}
    here, there = await instance(fault_mongo.uri, clients=options), await instance(fault_mongo.uri, clients=options)
    async with here.client() as one, there.client() as other:
        await one.put("/posts/0")
        other.cookies = one.cookies
        await found(other, "/posts/0")
        secondary = (await fault_mongo.secondaries())[0]
        async with replication_lag(fault_mongo, members=[secondary]):
            for number in range(1, 30):
                await one.put(f"/posts/{number}")
                other.cookies = one.cookies
                assert await found(other, f"/posts/{number}")
    waited = [event for event in there.events if isinstance(event, CausalWait)]
    assert any(not wait.reached for wait in waited)
    # After three failures in a row the stalled node is left alone, so the tax is paid a few times, not thirty.
    assert sum(not wait.reached for wait in waited) < 20


@pytest.mark.long
@pytest.mark.xdist_group("fault_mongo")
async def test_both_secondaries_stalled_writes_end_and_reads_still_see_them(
    instance: Make, fault_mongo: LocalMongo
) -> None:
    here = await instance(fault_mongo.uri, clients={"write_timeout": 0.5})
    async with replication_lag(fault_mongo), here.mongo.consistent():
        for number in range(5):
            with pytest.raises(WTimeoutError):
                await here.mongo.write.posts.insert_one({"_id": number})
            assert await here.mongo.read.posts.find_one({"_id": number})

        async def work() -> None:
            await here.mongo.write.posts.insert_one({"_id": "in"})

        async with asyncio.timeout(30):
            with pytest.raises((PyMongoError, DatabaseUnavailable)):
                await here.mongo.transaction(work, timeout=0.5)
        lag = (await here.mongo.status()).lag_seconds
    assert lag is not None
    assert lag >= 1


def here_now() -> float:
    return time.time()


@pytest.mark.parametrize("text", ["", "x", "A" * 115, "A" * 10_000, "é", "==", "a.b.c"])
async def test_a_forged_token_is_ignored(instance: Make, text: str) -> None:
    here = await instance()
    async with here.client() as client:
        headers = [
            (b"X-Consistency-Token", text.encode("latin-1")),
            (b"Cookie", f"consistency={text}".encode("latin-1")),
        ]
        assert not await found(client, "/posts/1", headers=headers)
    assert here.count(CausalTokenIgnored) >= 1
    assert here.count(ReadFellBackToPrimary) == 0


async def test_a_token_of_another_cluster_is_ignored(instance: Make) -> None:
    here = await instance(clients={"cluster": "one"})
    there = await instance(clients={"cluster": "two"})
    async with here.client() as one, there.client() as other:
        await one.put("/posts/1")
        other.cookies = one.cookies
        await other.get("/posts/1")
    assert [event for event in there.events if isinstance(event, CausalTokenIgnored)] == [CausalTokenIgnored("foreign")]


async def test_a_token_of_the_far_future_is_ignored_and_does_not_move_the_clusters_clock(instance: Make) -> None:
    here = await instance()
    ahead = int(here_now() + 3600) << 32
    token = TokenSigner(SECRET, ttl=60).sign(CausalToken(ahead, ahead, cluster=here.mongo.cluster), now=here_now())
    async with here.client() as client:
        assert not await found(client, "/posts/1", headers={"X-Consistency-Token": token})
    assert here.count(CausalTokenIgnored) == 1
    answer = await here.mongo.write.command("ping")
    assert packed(answer["$clusterTime"]["clusterTime"]) < ahead


@pytest.mark.parametrize("read_preference", ["secondaryPreferred", "primary", "primaryPreferred"])
async def test_a_position_beyond_the_clusters_clock_is_refused_by_it_and_dropped(
    instance: Make, read_preference: str
) -> None:
    """Ahead of the cluster by less than clocks may differ: only the server can tell (code 72)."""
    here = await instance(clients={"read_preference": read_preference})
    ahead = int(here_now() + 60) << 32
    # The gossiped time stays behind, as in a token whose cluster signed an older one.
    token = CausalToken(ahead, ahead, cluster=here.mongo.cluster)
    async with here.mongo.consistent():
        scope = here.mongo.scope()
        here.mongo.accept(scope, token)
        scope.gossip = None
        await here.mongo.settle(scope)
        assert scope.token is None
        assert await here.mongo.read.posts.find_one({}) is None
        assert await here.mongo.write.posts.find_one({}) is None
    assert here.events.count(CausalTokenIgnored("refused")) == 1


async def test_an_expired_token_is_ignored(instance: Make) -> None:
    clock = ManualClock(here_now())
    here = await instance(clock=clock, ttl=30)
    async with here.client() as client:
        token = (await client.put("/posts/1")).headers["X-Consistency-Token"]
        client.cookies.clear()
        clock.advance(31)
        await client.get("/posts/1", headers={"X-Consistency-Token": token})
    assert here.events.count(CausalTokenIgnored("expired")) == 1


async def test_a_signed_in_caller_without_token_is_remembered(
    instance: Make, redis_url: str, redis_prefix: str
) -> None:
    async with PositionStore(redis_url, namespace=redis_prefix) as positions:
        here = await instance(positions=positions, cookie=None, header=None)
        there = await instance(positions=positions, cookie=None, header=None)
        async with here.client() as one, there.client() as other:
            for number in range(30):
                await one.put(f"/me/{number}", headers={"X-User": "u-1"})
                assert await found(other, f"/me/{number}", headers={"X-User": "u-1"})
            await one.put("/later/99", headers={"X-User": "u-2"})
            assert await found(other, "/me/99", headers={"X-User": "u-2"})


async def test_the_identity_may_be_told_from_the_scope(instance: Make, redis_url: str, redis_prefix: str) -> None:
    async def who(scope: Any) -> str | None:
        return dict(scope["headers"]).get(b"x-user", b"").decode() or None

    async with PositionStore(redis_url, namespace=redis_prefix) as positions:
        options: dict[str, Any] = {"positions": positions, "identity": who, "cookie": None, "header": None}
        here, there = await instance(**options), await instance(**options)
        async with here.client() as one, there.client() as other:
            await one.put("/posts/1", headers={"X-User": "u-1"})
            token = await positions.get("u-1")
            assert token == here.mongo.position or token is not None
            assert await found(other, "/posts/1", headers={"X-User": "u-1"})


async def test_redis_keeps_the_later_position_and_no_identity(
    redis_url: str, redis_prefix: str, redis_client: Any
) -> None:
    async with PositionStore(redis_url, namespace=redis_prefix) as positions:
        early, late = CausalToken(9 << 32, 9 << 32), CausalToken(10 << 32, 10 << 32)
        await asyncio.gather(*(positions.put("ada@example.org", token) for token in [early, late] * 10))
        assert await positions.get("ada@example.org") == late
        keys = [key async for key in redis_client.scan_iter(match=f"{redis_prefix}*")]
        assert len(keys) == 1
        assert b"ada" not in keys[0]
        assert 0 < await redis_client.ttl(keys[0]) <= 60


async def test_a_link_that_is_given_is_shared_and_stays_open(redis_url: str, redis_prefix: str) -> None:
    link = RedisLink(redis_url)
    async with PositionStore(link, namespace=redis_prefix) as positions:
        pipe = link.pipe
        assert await positions.put("u-1", CausalToken(9 << 32, 9 << 32))
        assert await positions.get("u-1") == CausalToken(9 << 32, 9 << 32)
    assert link.pipe is pipe
    assert await pipe.send("PING") == b"PONG"
    await link.aclose()


@pytest.mark.parametrize("fault", ["swallow", "refuse", "cut"])
async def test_redis_in_trouble_harms_no_request(
    instance: Make, redis_url: str, fault: str, fault_proxy: Callable[..., Awaitable[FaultProxy]]
) -> None:
    proxy = await fault_proxy(redis_url)
    await getattr(proxy, fault)()
    async with PositionStore(proxy.uri) as positions:
        here = await instance(positions=positions)
        async with here.client() as client:
            for number in range(5):
                assert (await client.put(f"/me/{number}", headers={"X-User": "u-1"})).status_code == 204
                assert await found(client, f"/me/{number}", headers={"X-User": "u-1"})


async def test_garbage_in_redis_is_no_position(redis_url: str, redis_prefix: str, redis_client: Any) -> None:
    async with PositionStore(redis_url, namespace=redis_prefix) as positions:
        await positions.put("u-1", CausalToken(1, 1))
        (key,) = [key async for key in redis_client.scan_iter(match=f"{redis_prefix}*")]
        for garbage in (b"\xff\xff", b"", b"0:x", base64.b64encode(b"x" * 60)):
            await redis_client.set(key, garbage)
            assert await positions.get("u-1") is None
        await redis_client.delete(key)
        await redis_client.lpush(key, "a list")
        assert await positions.get("u-1") is None
        assert not await positions.put("u-1", CausalToken(1, 1))


async def test_outside_of_a_request_identify_does_nothing() -> None:
    await identify("u-1")
