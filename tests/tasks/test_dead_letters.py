"""Tasks that come to nothing are kept, with why, and can be replayed or dropped."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import redis.asyncio

from smriti_scale.cli import main
from smriti_scale.errors import ConfigurationError
from smriti_scale.tasks import publish
from smriti_scale.tasks.dead_letters import DeadLetter, revived

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("tasks-worker")]


async def dead_letter(tasks: Any, task_id: str) -> DeadLetter:
    for _ in range(2000):
        if (found := await tasks.app.dead_letters.get(task_id)) is not None:
            assert isinstance(found, DeadLetter)
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(f"{task_id} did not become a dead letter")


async def test_a_task_whose_retries_run_out_is_kept_and_can_be_replayed_once(tasks: Any, notes: Any, key: str) -> None:
    task_id = await publish(tasks.fails, key, times=99)
    letter = await dead_letter(tasks, task_id)
    assert await notes(key, 3) == ["try 0", "try 1", "try 2"]
    assert (letter.task, letter.queue, letter.reason) == ("tests.tasks.worker_app.fails", "default", "failed")
    assert letter.error == "RuntimeError: not yet"
    assert 'raise RuntimeError("not yet")' in letter.traceback
    assert letter.retries == 2
    assert letter.published_at is not None
    outcomes = await asyncio.gather(*(tasks.app.dead_letters.replay(letter) for _ in range(5)))
    assert sorted(outcomes) == [False, False, False, False, True]
    assert (await notes(key, 6))[3:] == ["try 0", "try 1", "try 2"]
    assert await tasks.app.dead_letters.purge(await dead_letter(tasks, task_id)) is True
    assert await tasks.app.dead_letters.purge(letter) is False


async def test_a_permanent_failure_is_not_tried_again(tasks: Any, notes: Any, key: str) -> None:
    letter = await dead_letter(tasks, await publish(tasks.hopeless, key))
    assert (letter.reason, letter.retries) == ("failed", 0)
    assert await notes(key, 1) == ["tried"]


async def test_a_soft_time_limit_cancels_an_async_body_which_may_tidy_up(tasks: Any, notes: Any, key: str) -> None:
    letter = await dead_letter(tasks, await publish(tasks.overruns, key))
    assert letter.reason == "timed_out"
    assert await notes(key, 1) == ["tidied up"]


async def test_a_hard_time_limit_kills_the_body_and_keeps_the_task(tasks: Any, notes: Any, key: str) -> None:
    letter = await dead_letter(tasks, await publish(tasks.hangs, key))
    assert (letter.reason, letter.error) == ("timed_out", "TimeLimitExceeded: ran longer than 2 s")
    assert await notes(key, 1) == ["begun"]


async def test_a_task_that_kills_its_worker_again_and_again_is_given_up(tasks: Any, notes: Any, key: str) -> None:
    task_id = await publish(tasks.kills_its_process, key)
    letter = await dead_letter(tasks, task_id)
    assert (letter.reason, letter.deliveries) == ("lost", 3)
    assert await notes(key, 3) == ["begun"] * 3
    await publish(tasks.echo, f"{key}:after", "alive")
    assert await notes(f"{key}:after", 1) == ["alive"]


async def test_a_task_this_worker_does_not_know_is_kept_for_one_that_does(tasks: Any) -> None:
    sent = tasks.app.send_task("from.the.next.release", args=[1])
    letter = await dead_letter(tasks, sent.id)
    assert (letter.reason, letter.task) == ("unknown", "from.the.next.release")
    assert letter.message is not None


@pytest.mark.parametrize(
    "rubbish", [b"\xff not json", b'{"no": "task"}', b"[]", b'{"properties": {"delivery_tag": 5}}']
)
async def test_bytes_that_are_no_message_are_set_aside_and_harm_nobody(
    tasks: Any, notes: Any, key: str, redis_client: redis.asyncio.Redis, worker_prefix: str, rubbish: bytes
) -> None:
    await redis_client.lpush(f"{worker_prefix}default", rubbish)
    await publish(tasks.echo, key, "alive")
    assert await notes(key, 1) == ["alive"]
    [letter] = [one async for one in tasks.app.dead_letters.each(reason="unreadable")]
    with pytest.raises(ConfigurationError, match="cannot be read"):
        await tasks.app.dead_letters.replay(letter)
    assert await tasks.app.dead_letters.purge(letter)


async def test_a_foreign_message_with_a_hostile_body_is_kept(
    tasks: Any, redis_client: redis.asyncio.Redis, worker_prefix: str
) -> None:
    message = {
        "body": "gASVHQAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOUjAJpZJSFlFKULg==",
        "content-encoding": "binary",
        "content-type": "application/x-python-serialize",
        "headers": {"task": "tests.tasks.worker_app.echo", "id": f"hostile-{worker_prefix}", "lang": "py"},
        "properties": {
            "body_encoding": "base64",
            "delivery_tag": f"tag-{worker_prefix}",
            "delivery_info": {"exchange": "", "routing_key": "default"},
        },
    }
    await redis_client.lpush(f"{worker_prefix}default", json.dumps(message))
    letter = await dead_letter(tasks, f"hostile-{worker_prefix}")
    assert letter.reason in ("unreadable", "failed")
    assert "pickle" in letter.error or "ContentDisallowed" in letter.error


async def test_the_command_lists_shows_replays_and_purges(
    tasks: Any,
    notes: Any,
    key: str,
    redis_url: str,
    worker_prefix: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task_id = await publish(tasks.hopeless, key)
    await dead_letter(tasks, task_id)
    monkeypatch.setenv("TASKS_REDIS_URL", redis_url)
    monkeypatch.setenv("TASKS_PREFIX", worker_prefix)

    async def command(*words: str) -> str:
        def run() -> None:
            import sys

            sys.modules.pop("tests.tasks.worker_app", None)
            with pytest.raises(SystemExit) as left:
                main(["tasks", *words, "--app", "tests.tasks.worker_app:app"])
            assert left.value.code == 0

        await asyncio.to_thread(run)
        return capsys.readouterr().out

    monkeypatch.setenv("COLUMNS", "300")
    assert task_id in await command("dead", "list")
    lines = [json.loads(line) for line in (await command("dead", "list", "--json")).splitlines()]
    assert task_id in {line["id"] for line in lines}
    shown = json.loads(await command("dead", "show", task_id))
    assert shown["error"].startswith("PermanentFailure: the file is not there")
    assert await command("dead", "replay", task_id) == "1 replayed\n"
    assert await notes(key, 2) == ["tried", "tried"]
    await dead_letter(tasks, task_id)
    assert await command("dead", "purge", task_id) == "1 purged\n"
    assert await tasks.app.dead_letters.get(task_id) is None
    assert "default" in await command("status")
    assert {queue["name"] for queue in json.loads(await command("status", "--json"))["queues"]} == {"default", "other"}


def test_a_revived_message_is_as_new_but_keeps_its_id_and_arguments() -> None:
    message: dict[str, Any] = {
        "body": "b",
        "headers": {"id": "i", "retries": 3, "eta": "2026-01-01", "expires": "x", "redelivered": True, "task": "t"},
        "properties": {
            "delivery_tag": "old",
            "delivery_info": {"routing_key": "q", "redelivered": True},
            "priority": 3,
        },
    }
    new = revived(message)
    assert new["body"] == "b"
    assert new["headers"] == {"id": "i", "retries": 0, "eta": None, "expires": None, "task": "t"}
    assert new["properties"]["delivery_tag"] != "old"
    assert new["properties"]["delivery_info"] == {"routing_key": "q"}
    assert message["headers"]["retries"] == 3
