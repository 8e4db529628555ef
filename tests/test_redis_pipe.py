"""One connection for many callers: answers in step, deadlines, silence, restarts, cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError, ReadOnlyError, ResponseError

from smriti_scale.errors import DeadlineExceeded
from smriti_scale.local import LocalRedis
from smriti_scale.redis_link import RedisLink, RedisScript
from smriti_scale.redis_pipe import Pipe
from smriti_scale.testing import FaultProxy

Proxies = Callable[..., Awaitable[FaultProxy]]
PATIENT = 30.0


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    made = RedisLink(redis_url)
    yield made
    await made.aclose()


def pipe_of(link: RedisLink) -> Pipe:
    pipe = link.pipe
    assert isinstance(pipe, Pipe)
    return pipe


async def test_each_of_many_callers_gets_its_own_answer(link: RedisLink, redis_prefix: str) -> None:
    async def caller(n: int) -> bool:
        assert await link.pipe.send("SET", f"{redis_prefix}{n}", n) == b"OK"
        values, counted = await asyncio.gather(
            link.pipe.mget([f"{redis_prefix}{n}", f"{redis_prefix}none"]),
            link.pipe.send("STRLEN", f"{redis_prefix}{n}"),
        )
        return values == [str(n).encode(), None] and counted == len(str(n))

    assert all(await asyncio.gather(*(caller(n) for n in range(500))))


async def test_what_one_turn_asks_goes_out_in_one_write(link: RedisLink) -> None:
    await link.pipe.send("PING")
    line = pipe_of(link)._line
    assert line is not None
    writes: list[bytes] = []
    transport = line._transport

    class Counting:
        def write(self, data: bytes) -> None:
            writes.append(data)
            transport.write(data)

        def abort(self) -> None:
            transport.abort()

    line._transport = Counting()  # type: ignore[assignment]
    assert await asyncio.gather(*(link.pipe.send("ECHO", n) for n in range(50))) == [str(n).encode() for n in range(50)]
    assert len(writes) == 1


async def test_all_who_use_a_link_share_its_connection(link: RedisLink) -> None:
    assert link.pipe is link.pipe
    mine, yours = link.pipe.send("CLIENT", "ID"), link.pipe.send("CLIENT", "ID")
    assert await mine == await yours
    own = link.open_pipe(timeout=PATIENT)
    assert await own.send("CLIENT", "ID") != await mine
    await own.aclose()


async def test_a_caller_that_is_cancelled_shifts_nobodys_answer(link: RedisLink) -> None:
    async def ask(n: int) -> Any:
        return await link.pipe.send("ECHO", n)

    await ask(0)
    tasks = [asyncio.create_task(ask(n)) for n in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert answers[1::2] == [str(n).encode() for n in range(1, 20, 2)]
    assert all(isinstance(answer, asyncio.CancelledError) for answer in answers[::2])


async def test_an_error_of_one_command_is_that_commands_alone(link: RedisLink) -> None:
    good, bad, after = link.pipe.send("ECHO", "a"), link.pipe.send("NOSUCHCOMMAND"), link.pipe.send("ECHO", "b")
    assert await good == b"a"
    with pytest.raises(ResponseError, match="unknown command"):
        await bad
    assert await after == b"b"


async def test_a_script_goes_by_hash_and_is_loaded_where_it_is_unknown(link: RedisLink, redis_prefix: str) -> None:
    script = RedisScript(f"return {{KEYS[1], ARGV[1], '{redis_prefix}'}}")
    for _ in range(2):
        answer = await script.send(link.pipe, ["k"], [7], timeout=PATIENT)
        assert answer == [b"k", b"7", redis_prefix.encode()]


async def test_an_impatient_command_is_told_and_a_patient_one_still_gets_its_answer(
    redis_url: str, fault_proxy: Proxies
) -> None:
    proxy = await fault_proxy(redis_url)
    link = RedisLink(proxy.uri)
    number = await link.pipe.send("CLIENT", "ID", timeout=PATIENT)
    await proxy.delay(0.3)
    patient = link.pipe.send("ECHO", "patient", timeout=PATIENT)
    with pytest.raises(DeadlineExceeded):
        await link.pipe.send("ECHO", "impatient", timeout=0.02)
    assert await patient == b"patient"
    assert await link.pipe.send("CLIENT", "ID", timeout=PATIENT) == number  # the connection was kept
    await link.aclose()


async def test_a_connection_that_went_silent_is_given_up_with_all_that_waits_on_it(
    redis_url: str, fault_proxy: Proxies
) -> None:
    proxy = await fault_proxy(redis_url)
    link = RedisLink(proxy.uri)
    pipe = link.open_pipe(timeout=0.2)
    assert isinstance(pipe, Pipe)
    await pipe.connect(timeout=PATIENT)
    await proxy.swallow()
    outcomes = await asyncio.gather(*(pipe.send("ECHO", n) for n in range(3)), return_exceptions=True)
    assert all(isinstance(outcome, DeadlineExceeded) for outcome in outcomes)
    assert pipe._line is None
    await proxy.heal()
    await pipe.connect(timeout=PATIENT)
    await pipe.aclose()
    await link.aclose()


async def test_a_black_hole_keeps_nothing_in_memory(redis_url: str, fault_proxy: Proxies) -> None:
    proxy = await fault_proxy(redis_url)
    link = RedisLink(proxy.uri)
    pipe = link.open_pipe(timeout=0.05)
    assert isinstance(pipe, Pipe)
    await pipe.connect(timeout=PATIENT)
    await proxy.swallow()
    for _ in range(5):
        outcomes = await asyncio.gather(*(pipe.send("ECHO", n) for n in range(100)), return_exceptions=True)
        assert all(isinstance(outcome, (DeadlineExceeded, RedisConnectionError)) for outcome in outcomes)
    assert len(pipe._queue) + (len(pipe._line.sent) if pipe._line else 0) <= 100
    await pipe.aclose()
    await link.aclose()


async def test_after_a_lost_connection_only_what_may_be_asked_again_survives(redis_url: str, redis_prefix: str) -> None:
    link = RedisLink(redis_url)
    lost: list[Exception] = []
    pipe = link.open_pipe(timeout=PATIENT, on_lost=lost.append)
    number = await pipe.send("CLIENT", "ID")
    twice = pipe.send("BLPOP", f"{redis_prefix}a", 0, again=True)
    once = pipe.send("BLPOP", f"{redis_prefix}b", 0)
    await asyncio.sleep(0)
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        assert await client.client_kill_filter(_id=str(number)) == 1
        with pytest.raises((RedisConnectionError, OSError)):
            await once
        assert len(lost) == 1
        assert not twice.done()
        await client.rpush(f"{redis_prefix}a", "pushed later")
    assert await twice == [f"{redis_prefix}a".encode(), b"pushed later"]
    assert await pipe.send("CLIENT", "ID") > number
    await pipe.aclose()
    await link.aclose()


async def test_a_primary_that_was_demoted_is_left() -> None:
    async with LocalRedis(use_environment=False) as server:
        link = RedisLink(server.uri)
        number = await link.pipe.send("CLIENT", "ID")
        async with redis.asyncio.Redis.from_url(server.uri) as client:
            await client.replicaof("127.0.0.1", "1")
            with pytest.raises(ReadOnlyError):
                await link.pipe.send("SET", "k", "v")
            with pytest.raises(ReadOnlyError):  # asked again, of the same server here
                await link.pipe.send("SET", "k", "v", again=True)
            await client.replicaof("NO", "ONE")
            assert await link.pipe.send("SET", "k", "v") == b"OK"
        assert await link.pipe.send("CLIENT", "ID") > number
        await link.aclose()


async def test_a_server_that_is_not_there_fails_at_once() -> None:
    link = RedisLink("redis://127.0.0.1:1/0")
    with pytest.raises(RedisConnectionError):
        await link.pipe.send("PING", timeout=PATIENT)
    await link.aclose()


async def test_closing_ends_what_is_under_way_and_a_link_may_be_used_again(link: RedisLink) -> None:
    await link.pipe.send("PING")
    waiting = link.pipe.send("BLPOP", "nothing", 0, timeout=PATIENT)
    await asyncio.sleep(0)
    await link.aclose()
    with pytest.raises(RedisConnectionError, match="closed"):
        await waiting
    assert await link.pipe.send("PING") == b"PONG"


async def test_a_given_client_stays_open_and_its_pipe_is_closed(redis_url: str) -> None:
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        link = RedisLink(client)
        assert await link.pipe.send("PING") == b"PONG"
        pipe = pipe_of(link)
        await link.aclose()
        assert pipe._line is None
        assert await client.ping()


def test_it_works_on_uvloop(redis_url: str) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def ask() -> list[Any]:
        link = RedisLink(redis_url)
        answers = await asyncio.gather(*(link.pipe.send("ECHO", n) for n in range(20)))
        await link.aclose()
        return list(answers)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(ask()) == [str(n).encode() for n in range(20)]
