"""Handing things to an event loop from other threads."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from smriti_scale.tasks.mailbox import Mailbox


def selector_without_eventfd(monkeypatch: pytest.MonkeyPatch) -> asyncio.AbstractEventLoop:
    monkeypatch.delattr(os, "eventfd", raising=False)
    return asyncio.SelectorEventLoop()


LOOPS: list[Callable[[pytest.MonkeyPatch], asyncio.AbstractEventLoop]] = [
    lambda _: asyncio.SelectorEventLoop(),
    lambda _: uvloop.new_event_loop(),
    selector_without_eventfd,
]


@pytest.mark.parametrize("new_loop", LOOPS, ids=["eventfd", "uvloop", "no eventfd"])
def test_what_threads_post_arrives_on_the_loop_in_the_order_of_each(
    new_loop: Callable[[pytest.MonkeyPatch], asyncio.AbstractEventLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads, each = 4, 500

    async def main() -> list[tuple[int, int, int]]:
        arrived: list[tuple[int, int, int]] = []
        all_there = asyncio.Event()

        def deliver(item: tuple[int, int]) -> None:
            arrived.append((*item, threading.get_ident()))
            if len(arrived) == threads * each:
                all_there.set()

        mailbox: Mailbox[tuple[int, int]] = Mailbox(asyncio.get_running_loop(), deliver)

        def post(who: int) -> None:
            for number in range(each):
                mailbox.post((who, number))

        posting = [threading.Thread(target=post, args=(who,)) for who in range(threads)]
        for thread in posting:
            thread.start()
        await asyncio.wait_for(all_there.wait(), 10)
        mailbox.close()
        return arrived

    with asyncio.Runner(loop_factory=lambda: new_loop(monkeypatch)) as runner:
        arrived = runner.run(main())
    assert {where for _, _, where in arrived} == {threading.get_ident()}
    for who in range(threads):
        assert [number for poster, number, _ in arrived if poster == who] == list(range(each))


@pytest.mark.parametrize("new_loop", LOOPS, ids=["eventfd", "uvloop", "no eventfd"])
def test_who_posts_to_a_loop_that_is_closed_fails_nobody_and_files_are_closed(
    new_loop: Callable[[pytest.MonkeyPatch], asyncio.AbstractEventLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_files() -> int:
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    before = open_files()
    for _ in range(20):
        loop = new_loop(monkeypatch)
        mailbox: Mailbox[int] = Mailbox(loop, lambda item: None)
        loop.close()
        mailbox.post(1)
    del loop, mailbox
    assert open_files() <= before + 1


async def test_closing_delivers_what_is_there() -> None:
    arrived: list[int] = []
    mailbox = Mailbox(asyncio.get_running_loop(), arrived.append)
    mailbox.post(1)
    mailbox.close()
    assert arrived == [1]
    await asyncio.sleep(0)
    assert arrived == [1]
