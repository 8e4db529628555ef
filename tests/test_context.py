from __future__ import annotations

import asyncio

from smriti_scale import context


def test_capture_takes_only_what_is_set() -> None:
    assert context.capture() == {}
    with context.restored({"request_id": "r-1", "causal_position": "p"}):
        assert context.capture() == {"request_id": "r-1", "causal_position": "p"}
    assert context.capture() == {}


def test_restored_replaces_the_whole_context_and_ignores_strangers() -> None:
    with context.restored({"request_id": "outer", "trace": "t"}):
        with context.restored({"request_id": "inner", "colour": "blue"}):
            assert context.capture() == {"request_id": "inner"}
        assert context.capture() == {"request_id": "outer", "trace": "t"}


async def test_a_task_inherits_the_request_it_was_started_in() -> None:
    async def seen() -> str | None:
        return context.request_id.get()

    with context.restored({"request_id": "r-9"}):
        task = asyncio.create_task(seen())
    assert await task == "r-9"
    assert context.request_id.get() is None


async def test_the_position_moves_in_child_tasks_and_is_asked_for_when_read() -> None:
    newest = ["p-1"]
    before = context.causal_position.set(lambda: newest[-1])

    async def child() -> None:
        newest.append("p-2")
        cell = context.causal_position.cell()
        assert cell is not None
        cell.held = "p-3"

    assert context.capture() == {"causal_position": "p-1"}
    await asyncio.create_task(child())
    assert context.capture() == {"causal_position": "p-3"}
    context.causal_position.reset(before)
    assert context.causal_position.get() is None
