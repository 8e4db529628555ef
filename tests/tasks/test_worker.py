"""Tasks through a real broker and a real worker tree."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis.asyncio

from smriti_scale import context
from smriti_scale.tasks import Delivery, publish

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("tasks-worker")]


async def test_an_async_body_runs_with_the_arguments_it_was_given(tasks: Any, notes: Any, key: str) -> None:
    task_id = await publish(tasks.echo, key, value={"nested": [1, None, "ü"]})
    assert len(task_id) == 36
    assert await notes(key, 1) == ["{'nested': [1, None, 'ü']}"]


async def test_the_callers_context_is_in_place_while_the_task_runs(tasks: Any, notes: Any, key: str) -> None:
    with context.restored({"request_id": "r-1", "causal_position": "p", "trace": "00-aa-bb-01"}):
        await publish(tasks.tell_context, key)
        await publish(tasks.plain_body, f"{key}:plain")
        tasks.tell_context.delay(f"{key}:delay")
    expected = ["[('causal_position', 'p'), ('request_id', 'r-1'), ('trace', '00-aa-bb-01')]"]
    assert await notes(key, 1) == expected
    assert await notes(f"{key}:delay", 1) == expected
    assert await notes(f"{key}:plain", 1) == ["r-1"]


async def test_one_callers_context_does_not_leak_into_the_next_task(tasks: Any, notes: Any, key: str) -> None:
    with context.restored({"request_id": "secret"}):
        await asyncio.gather(*(publish(tasks.tell_context, f"{key}:{n}") for n in range(4)))
    for n in range(4):
        await notes(f"{key}:{n}", 1)
    await asyncio.gather(*(publish(tasks.tell_context, key) for _ in range(4)))
    assert await notes(key, 4) == ["[]"] * 4


async def test_a_task_goes_to_the_queue_of_its_route(tasks: Any, notes: Any, key: str) -> None:
    await publish(tasks.elsewhere, key)
    assert await notes(key, 1) == ["other"]


async def test_clients_are_opened_once_in_each_process(tasks: Any, notes: Any, key: str) -> None:
    for _ in range(8):
        await publish(tasks.tell_pid, key)
    pids = set(await notes(key, 8))
    opened = await notes("opened", len(pids))
    assert len(opened) == len(set(opened))
    assert pids <= set(opened)


async def test_a_failing_task_is_tried_again_until_it_succeeds(tasks: Any, notes: Any, key: str) -> None:
    await publish(tasks.fails, key, times=2)
    assert await notes(key, 3) == ["try 0", "try 1", "try 2"]


async def test_a_countdown_delays_the_start(tasks: Any, notes: Any, key: str) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    await publish(tasks.echo, key, delivery=Delivery(countdown=1.0))
    assert await notes(key, 1)
    assert loop.time() - began >= 0.95


async def test_two_deliveries_of_idempotent_work_have_one_effect_even_beyond_the_lease(
    tasks: Any, notes: Any, key: str, redis_client: redis.asyncio.Redis, worker_prefix: str
) -> None:
    await asyncio.gather(publish(tasks.once, key), publish(tasks.once, key))
    assert await notes(key, 1) == ["effect"]
    await publish(tasks.once, key)
    await publish(tasks.echo, f"{key}:after")
    await notes(f"{key}:after", 1)
    await asyncio.sleep(3)
    assert await notes(key, 1) == ["effect"]
    assert await redis_client.get(f"{worker_prefix}tests.tasks:once:once:{key.replace(':', '%3A')}") == b'D"done"'
