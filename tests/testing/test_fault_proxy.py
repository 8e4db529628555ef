"""Each way to misbehave, before a real Redis and a real mongod."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis.asyncio
from pymongo import AsyncMongoClient
from pymongo.errors import AutoReconnect, ServerSelectionTimeoutError
from redis.exceptions import ConnectionError as RedisConnectionError

from smriti_scale.errors import ConfigurationError
from smriti_scale.local import LocalMongo
from smriti_scale.testing import FaultProxy

MakeProxy = Callable[..., Awaitable[FaultProxy]]


def client_of(proxy: FaultProxy) -> redis.asyncio.Redis:
    client: redis.asyncio.Redis = redis.asyncio.Redis.from_url(proxy.uri, retry=None)
    return client


async def test_it_passes_bytes_and_counts_them(redis_url: str, redis_prefix: str, fault_proxy: MakeProxy) -> None:
    proxy = await fault_proxy(redis_url)
    value = bytes(range(256)) * 4096
    async with client_of(proxy) as client:
        await client.set(f"{redis_prefix}big", value)
        assert await client.get(f"{redis_prefix}big") == value
        assert proxy.connections_accepted == proxy.connections_open == 1
    assert proxy.bytes_to_server > len(value)
    assert proxy.bytes_to_client > len(value)


async def test_host_and_port_can_be_given_apart(redis_url: str, fault_proxy: MakeProxy) -> None:
    port = int(redis_url.rpartition(":")[2].partition("/")[0])
    proxy = await fault_proxy("127.0.0.1", port)
    async with redis.asyncio.Redis(host=proxy.host, port=proxy.port) as client:
        assert await client.ping()


async def test_a_delay_is_felt_by_each_answer_and_not_summed_over_a_pipeline(
    redis_url: str, fault_proxy: MakeProxy
) -> None:
    proxy = await fault_proxy(redis_url)
    async with client_of(proxy) as client:
        await client.ping()
        await proxy.delay(0.2)
        begun = time.monotonic()
        await client.ping()
        assert time.monotonic() - begun >= 0.2
        await proxy.delay(0.5)
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
        for _ in range(50):  # fifty chunks on one connection: delayed side by side, not one after the other
            writer.write(b"PING\r\n")
            await writer.drain()
            await asyncio.sleep(0.001)
        begun = time.monotonic()
        await reader.readexactly(len(b"+PONG\r\n") * 50)
        assert time.monotonic() - begun < 50 * 0.5 / 2
        writer.close()
        await writer.wait_closed()
        await proxy.heal()
        assert await client.ping()


async def test_a_cut_resets_what_is_open_and_what_comes(redis_url: str, fault_proxy: MakeProxy) -> None:
    proxy = await fault_proxy(redis_url)
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    writer.write(b"PING\r\n")
    assert await reader.readline() == b"+PONG\r\n"
    await proxy.cut()
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    async with client_of(proxy) as client:
        with pytest.raises(RedisConnectionError):
            await client.ping()
        await proxy.heal()
        assert await client.ping()


async def test_a_single_reset_spares_new_connections(redis_url: str, fault_proxy: MakeProxy) -> None:
    proxy = await fault_proxy(redis_url)
    async with client_of(proxy) as client:
        await client.ping()
        await proxy.reset()
        assert proxy.connections_open == 0
        with pytest.raises(RedisConnectionError):
            await client.ping()
        assert await client.ping()


async def test_a_refused_port_is_closed_and_comes_back_under_the_same_number(
    redis_url: str, fault_proxy: MakeProxy
) -> None:
    proxy = await fault_proxy(redis_url)
    port = proxy.port
    async with client_of(proxy) as client:
        await client.ping()
        await proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(proxy.host, port)
        with pytest.raises(RedisConnectionError):
            await client.ping()
        await proxy.heal()
        assert proxy.port == port
        assert await client.ping()


async def test_swallowed_bytes_reach_nobody_and_healing_resets_their_connection(
    redis_url: str, redis_prefix: str, redis_client: redis.asyncio.Redis, fault_proxy: MakeProxy
) -> None:
    proxy = await fault_proxy(redis_url)
    async with client_of(proxy) as old:
        await old.ping()
        await proxy.swallow()
        for client in (old, client_of(proxy)):  # an open connection, and one that is accepted now
            async with client:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(client.set(f"{redis_prefix}lost", b"1"), 0.2)
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
        writer.write(b"PING\r\n")
        await asyncio.sleep(0.05)
        await proxy.heal()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
    async with client_of(proxy) as client:
        assert await client.get(f"{redis_prefix}lost") is None
    assert await redis_client.get(f"{redis_prefix}lost") is None


async def test_a_throttled_answer_trickles(redis_url: str, redis_prefix: str, fault_proxy: MakeProxy) -> None:
    proxy = await fault_proxy(redis_url)
    async with client_of(proxy) as client:
        await client.set(f"{redis_prefix}big", bytes(20_000))
        await proxy.throttle(50_000)
        begun = time.monotonic()
        assert await client.get(f"{redis_prefix}big") == bytes(20_000)
        assert time.monotonic() - begun >= 0.35


async def test_the_server_s_own_end_of_a_connection_is_orderly(redis_url: str, fault_proxy: MakeProxy) -> None:
    proxy = await fault_proxy(redis_url)
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    writer.write(b"QUIT\r\n")
    assert await reader.read() == b"+OK\r\n"
    writer.close()
    await writer.wait_closed()


async def test_a_server_that_is_not_there_is_a_reset_not_a_hang(fault_proxy: MakeProxy) -> None:
    proxy = await fault_proxy("127.0.0.1", 1)
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 10)
    writer.close()


async def test_a_mongod_behind_it_can_be_lost_and_found(mongo_server: LocalMongo, fault_proxy: MakeProxy) -> None:
    proxy = await fault_proxy(mongo_server.members[0].uri)
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
        proxy.uri, serverSelectionTimeoutMS=500, retryReads=False, heartbeatFrequencyMS=500
    )
    async with client:
        assert (await client.admin.command("ping"))["ok"]
        await proxy.refuse()
        with pytest.raises((AutoReconnect, ServerSelectionTimeoutError)):
            await client.admin.command("ping")
        await proxy.heal()
        deadline = time.monotonic() + 20
        while True:
            try:
                assert (await client.admin.command("ping"))["ok"]
                break
            except AutoReconnect:
                assert time.monotonic() < deadline


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("redis://:p{w}@host:1/2?a=b", "redis://:p{w}@127.0.0.1:9/2?a=b"),
        ("mongodb://user:pw@host:1/db?x=y", "mongodb://user:pw@127.0.0.1:9/db?x=y&directConnection=true"),
        ("mongodb://host", "mongodb://127.0.0.1:9/?directConnection=true"),
        ("mongodb://host:1/?directConnection=true", "mongodb://127.0.0.1:9/?directConnection=true"),
    ],
)
def test_the_uri_keeps_all_but_the_address(given: str, expected: str) -> None:
    proxy = FaultProxy(given)
    proxy.port = 9
    assert proxy.uri == expected


@pytest.mark.parametrize("uri", ["mongodb://a:1,b:2/?replicaSet=r", "not a uri", ""])
def test_more_than_one_host_is_refused(uri: str) -> None:
    with pytest.raises(ConfigurationError, match="one host"):
        FaultProxy(uri)
