"""What both stores promise, and what is Redis's or memory's alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis.asyncio
from hypothesis import given, settings, strategies as st

from smriti_scale.ratelimit.checked import Checked
from smriti_scale.ratelimit.memory_store import MemoryStore
from smriti_scale.ratelimit.rules import BanPolicy, Decision, Strategy, identity_key
from smriti_scale.testing import ManualClock
from tests.ratelimit.checks import STRATEGIES, Store, check, redis_store

BAN = BanPolicy(refusals=3, within=60, duration=600)


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest, redis_url: str, redis_prefix: str) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield Store(MemoryStore())
        return
    made = redis_store(redis_url, redis_prefix.rstrip(":"))
    yield Store(made)
    await made.link.aclose()


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_a_limit_admits_its_amount_and_no_more(store: Store, strategy: Strategy) -> None:
    assert await store.hits(check("5/hour", strategy), 7) == [True] * 5 + [False] * 2
    assert await store.hits(check("5/hour", strategy, who="another"), 1) == [True]


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_when_one_limit_refuses_the_others_are_not_charged(store: Store, strategy: Strategy) -> None:
    wide, narrow = check("10/hour", strategy, scope="wide"), check("2/hour", strategy, scope="narrow")
    answers = [await store.decide(wide, narrow) for _ in range(5)]
    assert [answer.allowed for answer in answers] == [True, True, False, False, False]
    assert answers[-1].refused == 1
    assert answers[-1].outcomes[0].granted == 0
    assert await store.remaining(wide) == 8


async def test_a_shadow_limit_counts_and_reports_but_refuses_nothing(store: Store) -> None:
    shadow, real = check("1/hour", scope="shadow", shadow=True), check("3/hour", scope="real")
    answers = [await store.decide(shadow, real) for _ in range(4)]
    assert [answer.allowed for answer in answers] == [True, True, True, False]
    assert [answer.outcomes[0].granted for answer in answers] == [1, -1, -1, -1]
    assert [answer.refused for answer in answers] == [None, None, None, 1]


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_a_refused_cost_leaves_what_a_smaller_one_may_take(store: Store, strategy: Strategy) -> None:
    assert await store.hits(check("10/hour", strategy, cost=4), 3) == [True, True, False]
    assert await store.hits(check("10/hour", strategy, cost=2), 2) == [True, False]
    assert await store.hits(check("10/hour", strategy, cost=11, who="greedy"), 1) == [False]
    assert await store.remaining(check("10/hour", strategy, who="greedy")) == 10


async def test_gcra_admits_its_burst_at_once(store: Store) -> None:
    assert await store.hits(check("60/minute", "gcra", burst=3), 4) == [True, True, True, False]


async def test_strategies_amounts_and_scopes_have_counters_of_their_own(store: Store) -> None:
    kinds = [check("1/hour", strategy) for strategy in STRATEGIES]
    kinds += [check("1/minute"), check("1 per 2 hours"), check("1/hour", scope="/y"), check("1/hour", "gcra", burst=1)]
    assert [(await store.decide(kind)).allowed for kind in kinds] == [True] * len(kinds)
    assert [(await store.decide(kind)).allowed for kind in kinds] == [False] * len(kinds)


@pytest.mark.parametrize(
    "identities",
    [
        ("a", "a/b"),
        ("x}y", "x{y"),
        ("", "(none)"),
        ("é" * 50, "é" * 51),
        ("a" * 5000, "a" * 5001),
        ("a\nb", "a b"),
        ("\udcff", "\udcfe"),
    ],
)
async def test_no_identity_can_be_mistaken_for_another(store: Store, identities: tuple[str, str]) -> None:
    one, other = (check("1/hour", who=identity_key(identity)) for identity in identities)
    assert (await store.decide(one)).allowed
    assert (await store.decide(other)).allowed
    assert not (await store.decide(one)).allowed


async def test_who_is_refused_too_often_is_banned_for_every_route(store: Store) -> None:
    asked = check("1/hour", who="client")
    answers = [await store.decide(asked, ban=BAN, client="client") for _ in range(5)]
    assert [answer.source == "banned" for answer in answers] == [False, False, False, False, True]
    elsewhere = await store.decide(check("9/hour", who="client", scope="/y"), ban=BAN, client="client")
    assert (elsewhere.allowed, elsewhere.source) == (False, "banned")
    assert 590 < elsewhere.retry_after <= 600
    without_limits = await store.decide(ban=BAN, client="client")
    assert (without_limits.allowed, without_limits.source) == (False, "banned")
    assert (await store.decide(check("9/hour", who="other"), ban=BAN, client="other")).allowed


async def test_peek_shows_every_limit_and_charges_none_and_reset_forgets(store: Store) -> None:
    for strategy in STRATEGIES:
        await store.hits(check("2/hour", strategy), 3)
    for _ in range(3):
        await store.decide(check("2/hour"), ban=BAN, client="someone")
    for _ in range(2):
        found = store.store.peek("someone")
        limits, banned = found if isinstance(found, tuple) else await found
        assert {(limit.strategy, limit.scope, limit.remaining) for limit in limits} == {
            (strategy, "/x", 0) for strategy in STRATEGIES
        }
        assert all(limit.retry_after > 0 and limit.reset_at > 1_700_000_000 for limit in limits)
        assert banned > 0
    forgotten = store.store.reset("someone")
    if forgotten is not None:
        await forgotten
    assert await store.hits(check("2/hour", "moving-window"), 3) == [True, True, False]
    assert (await store.decide(check("2/hour"), ban=BAN, client="someone")).allowed


# --- Redis


async def test_all_limits_of_a_request_are_one_command(own_redis: Any, redis_prefix: str) -> None:
    # A server of its own: on the shared one another test may flush the scripts.
    server = await own_redis()
    redis_client = redis.asyncio.Redis.from_url(server.uri, decode_responses=False)
    store = redis_store(server.uri, redis_prefix.rstrip(":"))
    checks = [check("5/hour", strategy, who=who) for strategy in STRATEGIES for who in ("a", "b")]
    await store.decide(checks)
    async with redis_client.monitor() as monitor:
        await store.decide(checks)
        await redis_client.echo("over")
        seen: list[str] = []
        async for command in monitor.listen():
            if command["client_type"] != "lua" and redis_prefix.rstrip(":") in command["command"]:
                seen.append(command["command"].split()[0])
            if command["command"] == "ECHO over":
                break
    assert seen == ["EVALSHA"]
    await store.link.aclose()
    await redis_client.aclose()


async def test_a_server_that_forgot_the_script_is_told_again(
    redis_url: str, redis_prefix: str, redis_client: redis.asyncio.Redis
) -> None:
    store = redis_store(redis_url, redis_prefix.rstrip(":"))
    assert (await store.decide([check("2/hour")])).allowed
    await redis_client.script_flush()
    assert (await store.decide([check("2/hour")])).allowed
    assert not (await store.decide([check("2/hour")])).allowed
    await store.link.aclose()


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_keys_expire_with_what_they_count(
    strategy: Strategy, redis_url: str, redis_prefix: str, redis_client: redis.asyncio.Redis
) -> None:
    store = redis_store(redis_url, redis_prefix.rstrip(":"))
    await store.decide([check("5/minute", strategy)])
    keys = [key async for key in redis_client.scan_iter(f"{redis_prefix}*")]
    assert len(keys) == (2 if strategy == "moving-window" else 1)
    for key in keys:
        assert 10_000 <= await redis_client.pttl(key) <= 120_010
    await store.link.aclose()


async def test_a_caller_who_asks_for_ever_new_routes_does_not_grow_its_hash_for_ever(
    redis_url: str, redis_prefix: str, redis_client: redis.asyncio.Redis, clock: ManualClock
) -> None:
    store = redis_store(redis_url, redis_prefix.rstrip(":"), clock=clock)
    for number in range(400):
        clock.jump(0.1)
        await store.decide([check("5/second", STRATEGIES[number % 4], scope=f"/{number}")])
    (key,) = [key async for key in redis_client.scan_iter(f"{redis_prefix}*") if b"|" not in key]
    assert await redis_client.hlen(key) < 300
    await store.link.aclose()


async def test_clear_forgets_everybody_under_the_prefix_and_nobody_else(
    redis_url: str, redis_prefix: str, redis_client: redis.asyncio.Redis
) -> None:
    ours, theirs = redis_store(redis_url, f"{redis_prefix}a[b]*"), redis_store(redis_url, f"{redis_prefix}ab")
    for store in (ours, theirs):
        await store.decide([check("1/hour", "moving-window")])
    await ours.clear()
    assert (await ours.decide([check("1/hour", "moving-window")])).allowed
    assert not (await theirs.decide([check("1/hour", "moving-window")])).allowed
    for store in (ours, theirs):
        await store.link.aclose()


async def test_a_burst_shares_one_connection_and_is_counted_exactly(redis_url: str, redis_prefix: str) -> None:
    name = redis_prefix.strip(":").replace(":", "-")
    store = redis_store(f"{redis_url}?client_name={name}", redis_prefix.rstrip(":"))
    answers = await asyncio.gather(*(store.decide([check("100/hour")]) for _ in range(1000)))
    assert sum(answer.allowed for answer in answers) == 100
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        assert [found["name"] for found in await client.client_list()].count(name) == 1
    await store.link.aclose()


async def test_callers_who_leave_a_burst_take_nobody_along(redis_url: str, redis_prefix: str) -> None:
    store = redis_store(redis_url, redis_prefix.rstrip(":"))
    tasks = [asyncio.create_task(store.decide([check("1000/hour")])) for _ in range(100)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(not isinstance(answer, BaseException) and answer.allowed for answer in answers[1::2])
    assert (await store.decide([check("1000/hour")])).allowed
    await store.link.aclose()


async def test_what_was_not_spent_can_be_given_back(redis_url: str, redis_prefix: str) -> None:
    store = redis_store(redis_url, redis_prefix.rstrip(":"))
    for strategy in STRATEGIES:
        decision = await store.decide([check("10/hour", strategy)], wants=[6])
        assert decision.outcomes[0].granted == 6
        await store.give_back([(decision.checks[0], 5, decision.outcomes[0].stamp)])
        assert await Store(store).remaining(check("10/hour", strategy)) == 9
    await store.link.aclose()


# --- memory


def test_memory_remembers_no_more_callers_than_it_may(clock: ManualClock) -> None:
    store = MemoryStore(max_callers=100, clock=clock)
    for number in range(1_000):
        store.decide([check("5/minute", who=str(number))])
        assert len(store) <= 100
    clock.advance(61)
    for number in range(100):
        store.decide([check("5/minute", who=f"new {number}")])
    assert len(store) <= 100


def test_memory_forgets_routes_that_are_over(clock: ManualClock) -> None:
    store = MemoryStore(clock=clock)
    for number in range(1_000):
        clock.advance(1)
        store.decide([check("5/second", STRATEGIES[number % 4], scope=f"/{number}")])
    assert len(list(store.counted())) < 200


def test_threads_count_exactly() -> None:
    store = MemoryStore()
    checks = (check("1000/hour"),)
    meter = store.meter(checks)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: decided(meter() if n % 2 else store.decide(checks)), range(4_000)))
    assert sum(answer.allowed for answer in answers) == 1_000


@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=30, deadline=None)
@given(steps=st.lists(st.tuples(st.integers(0, 6), st.sampled_from(["take", "take", "take", "reset", "back"]))))
def test_a_meter_decides_as_the_store_does(strategy: Strategy, steps: list[tuple[int, str]]) -> None:
    clock = ManualClock()
    for asked in (
        (check("5 per 20 seconds", strategy),),
        (check("5 per 20 seconds", strategy, cost=2, shadow=True),),
        (check("5 per 20 seconds", strategy, cost=0),),
        (check("5 per 20 seconds", strategy), check("3/minute", strategy, scope="/y")),
    ):
        one, other = MemoryStore(clock=clock), MemoryStore(clock=clock)
        meter = one.meter(asked)
        for seconds, what in steps:
            clock.advance(seconds)
            if what == "reset":
                one.reset("someone")
                other.reset("someone")
            elif what == "back":
                clock.jump(-50)
            assert decided(meter()) == decided(other.decide(asked))


def decided(read: Checked | Decision | None) -> Decision:
    assert read is not None
    found = read.decision if isinstance(read, Checked) else read
    return found._replace(outcomes=tuple(found.outcomes))
