"""At least once becomes once, in both stores."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import redis.asyncio

from smriti_scale.errors import AlreadyRunning, ConfigurationError, DeadlineExceeded, LeaseLost
from smriti_scale.local import LocalRedis
from smriti_scale.tasks import MongoIdempotency, RedisIdempotency, claim, idempotent
from smriti_scale.tasks.idempotency import Busy, Done, Granted, IdempotencyStore


@pytest.fixture(params=["redis", "motor", "pymongo"])
def store(request: pytest.FixtureRequest) -> IdempotencyStore:
    if request.param == "redis":
        prefix: str = request.getfixturevalue("redis_prefix")
        return RedisIdempotency(request.getfixturevalue("redis_client"), prefix=prefix)
    return MongoIdempotency(request.getfixturevalue(f"{request.param}_db").once)


async def test_only_one_of_many_gets_the_lease(store: IdempotencyStore) -> None:
    states = await asyncio.gather(*(store.begin("k", f"owner{n}", lease=30) for n in range(20)))
    assert sum(state == Granted() for state in states) == 1
    busy = [state for state in states if isinstance(state, Busy)]
    assert len(busy) == 19
    assert all(20 < state.remaining <= 30 for state in busy)


async def test_a_mark_outlives_the_lease_and_is_seen_by_all(store: IdempotencyStore) -> None:
    await store.begin("k", "a", lease=30)
    assert await store.finish("k", "a", b'{"n":1}', ttl=60)
    assert await store.begin("k", "b", lease=30) == Done(b'{"n":1}')
    assert not await store.finish("k", "b", b"2", ttl=60)
    await store.release("k", "b")
    assert await store.begin("k", "b", lease=30) == Done(b'{"n":1}')


async def test_a_lease_that_ended_goes_to_another_and_the_first_cannot_finish(store: IdempotencyStore) -> None:
    await store.begin("k", "a", lease=0.05)
    await asyncio.sleep(0.1)
    assert await store.begin("k", "b", lease=30) == Granted()
    assert not await store.renew("k", "a", lease=30)
    assert not await store.finish("k", "a", b"1", ttl=60)
    await store.release("k", "a")
    assert isinstance(await store.begin("k", "c", lease=30), Busy)


async def test_a_renewed_lease_holds(store: IdempotencyStore) -> None:
    await store.begin("k", "a", lease=0.3)
    assert await store.renew("k", "a", lease=30)
    await asyncio.sleep(0.4)
    assert isinstance(await store.begin("k", "b", lease=30), Busy)


async def test_a_released_key_is_free_and_an_expired_mark_is_forgotten(store: IdempotencyStore) -> None:
    await store.begin("k", "a", lease=30)
    await store.release("k", "a")
    assert await store.begin("k", "b", lease=30) == Granted()
    await store.finish("k", "b", b"1", ttl=0.05)
    await asyncio.sleep(0.1)
    assert await store.begin("k", "c", lease=30) == Granted()


class Ran(list[str]):
    """What ran; `begun` is set when something did."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()


def work(store: IdempotencyStore, **options: Any) -> tuple[Ran, Callable[..., Coroutine[Any, Any, Any]]]:
    done = Ran()

    @idempotent("work:{name}", store=store, **options)
    async def body(name: str, *, seconds: float = 0, error: Exception | None = None) -> str:
        done.append(name)
        done.begun.set()
        await asyncio.sleep(seconds)
        if error:
            raise error
        return name.upper()

    return done, body


async def test_the_body_runs_once_and_every_call_has_its_result(store: IdempotencyStore) -> None:
    done, body = work(store)
    assert [await body("a"), await body(name="a"), await body("b")] == ["A", "A", "B"]
    assert done == ["a", "b"]


async def test_a_second_call_meanwhile_is_told_to_come_back(store: IdempotencyStore) -> None:
    done, body = work(store)
    first = asyncio.create_task(body("a", seconds=0.3))
    await done.begun.wait()
    with pytest.raises(AlreadyRunning) as busy:
        await body("a")
    assert 0 < busy.value.retry_after <= 10
    assert await first == "A"
    assert await body("a") == "A"


async def test_a_failure_frees_the_key(store: IdempotencyStore) -> None:
    done, body = work(store)
    with pytest.raises(LookupError):
        await body("a", error=LookupError())
    assert await body("a") == "A"
    assert done == ["a", "a"]


async def test_a_cancelled_call_frees_the_key(store: IdempotencyStore) -> None:
    done, body = work(store)
    call = asyncio.create_task(body("a", seconds=30))
    await done.begun.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await body("a") == "A"


async def test_work_longer_than_the_lease_keeps_it(store: IdempotencyStore) -> None:
    done, body = work(store, lease=0.6)
    first = asyncio.create_task(body("a", seconds=1.2))
    await asyncio.sleep(0.9)
    with pytest.raises(AlreadyRunning):
        await body("a")
    assert await first == "A"
    assert done == ["a"]


async def test_a_run_whose_lease_was_taken_over_is_stopped(store: IdempotencyStore) -> None:
    @idempotent("work:{name}", store=store, lease=0.6)
    async def body(name: str) -> None:
        held = claim()
        await store.release(held.key, held.owner)
        assert await store.begin(held.key, "thief", lease=30) == Granted()
        await asyncio.sleep(30)

    with pytest.raises(LeaseLost, match="work:a"):
        await body("a")
    assert isinstance(await store.begin("work:a", "me", lease=30), Busy)


async def test_a_result_that_is_no_json_or_long_is_remembered_as_none(store: IdempotencyStore) -> None:
    @idempotent("k:{n}", store=store)
    async def body(n: int) -> object:
        return object() if n == 1 else "x" * 100_000

    assert await body(1) is not None
    assert await body(1) is None
    assert len(str(await body(2))) == 100_000
    assert await body(2) is None


async def test_writes_and_mark_are_committed_together_or_not_at_all(both_drivers_db: Any) -> None:
    database = both_drivers_db
    store = MongoIdempotency(database.once)
    await store.ensure_indexes()
    await database.effects.insert_one({"_id": "seed"})

    @idempotent("k:{name}", store=store)
    async def body(name: str, how: str) -> str:
        held = claim()
        async with held.transaction() as session:
            await database.effects.insert_one({"name": name}, session=session)
            if how == "raises":
                raise LookupError
            if how == "loses the lease":
                await store._collection.update_one({"_id": held.key}, {"$set": {"owner": "thief"}})
        return "ran"

    with pytest.raises(LookupError):
        await body("a", "raises")
    assert await database.effects.count_documents({"name": "a"}) == 0
    assert await body("a", "works") == "ran"
    assert await body("a", "works") is None
    assert await database.effects.count_documents({"name": "a"}) == 1


async def test_losing_the_lease_inside_the_transaction_undoes_the_writes(motor_db: Any) -> None:
    store = MongoIdempotency(motor_db.once)
    await motor_db.effects.insert_one({"_id": "seed"})

    @idempotent("k:{name}", store=store)
    async def body(name: str) -> None:
        held = claim()
        await motor_db.once.update_one({"_id": held.key}, {"$set": {"owner": "thief"}})
        async with held.transaction() as session:
            await motor_db.effects.insert_one({"name": name}, session=session)

    with pytest.raises(LeaseLost):
        await body("a")
    assert await motor_db.effects.count_documents({"name": "a"}) == 0
    assert (await motor_db.once.find_one({"_id": "k:a"}))["owner"] == "thief"


async def test_a_process_that_died_inside_its_transaction_holds_the_key_no_longer_than_its_lease(
    both_drivers_db: Any,
) -> None:
    await both_drivers_db.create_collection("once")  # which may take longer than a lock is waited for
    store = MongoIdempotency(both_drivers_db.once, lock_timeout=0.3)
    assert await store.begin("k", "dead", lease=0.2) == Granted()
    session = store._sessions["dead"]
    begun = session.start_transaction()
    await begun if inspect.isawaitable(begun) else begun
    assert await store._finish("k", "dead", b"1", 60, session)  # and now it dies: the transaction stays open
    await asyncio.sleep(0.3)
    assert await store.begin("k", "alive", lease=30) == Granted()
    assert await store.finish("k", "alive", b"2", ttl=60)
    assert await store.begin("k", "late", lease=30) == Done(b"2")


async def test_a_key_locked_by_a_living_transaction_is_busy(motor_db: Any) -> None:
    await motor_db.create_collection("once")  # which may take longer than a lock is waited for
    store = MongoIdempotency(motor_db.once, lock_timeout=1.0)
    assert await store.begin("k", "a", lease=30) == Granted()
    session = store._sessions["a"]
    async with session.start_transaction():
        assert await store._finish("k", "a", b"1", 60, session)
        assert isinstance(await store.begin("k", "b", lease=30), Busy)
    assert await store.begin("k", "b", lease=30) == Done(b"1")


async def test_redis_cannot_promise_a_transaction(redis_client: redis.asyncio.Redis, redis_prefix: str) -> None:
    @idempotent("k:{n}", store=RedisIdempotency(redis_client, prefix=redis_prefix))
    async def body(n: int) -> None:
        async with claim().transaction():
            pass

    with pytest.raises(ConfigurationError, match="MongoIdempotency"):
        await body(1)


async def test_a_redis_that_never_answers_is_an_error_not_a_hang(own_redis: Any) -> None:
    server: LocalRedis = await own_redis()
    store = RedisIdempotency(server.uri, timeout=0.2)
    _, body = work(store)
    await body("a")
    await server.pause()
    with pytest.raises(DeadlineExceeded):
        await body("b")
    await server.resume()
    await store.aclose()


def test_keys_that_cannot_work_are_refused_when_declared() -> None:
    for key, message in (("fixed", "names no argument"), ("{a.b}", "argument names only"), ("{0}", "argument names")):
        with pytest.raises(ConfigurationError, match=message):
            idempotent(key)
    with pytest.raises(ConfigurationError, match="'nope', which is no argument"):

        @idempotent("{nope}")
        async def body(a: int) -> None: ...

    with pytest.raises(ConfigurationError, match="must be positive"):
        idempotent("{a}", ttl=0)


async def test_outside_a_task_a_store_and_a_key_are_needed(
    redis_client: redis.asyncio.Redis, redis_prefix: str
) -> None:
    @idempotent("{a}")
    async def no_store(a: int) -> None: ...

    @idempotent(store=RedisIdempotency(redis_client, prefix=redis_prefix))
    async def no_key(a: int) -> None: ...

    @idempotent("{a}", store=RedisIdempotency(redis_client, prefix=redis_prefix))
    async def odd_key(a: object) -> None: ...

    with pytest.raises(ConfigurationError, match="needs store"):
        await no_store(1)
    with pytest.raises(ConfigurationError, match="no idempotency key"):
        await no_key(1)
    with pytest.raises(ConfigurationError, match="not object"):
        await odd_key(object())
    with pytest.raises(ConfigurationError, match="for the body"):
        claim()
