from __future__ import annotations

import asyncio

import pytest

from smriti_scale.breaker import CircuitBreaker
from smriti_scale.errors import CircuitOpen, ConfigurationError, DeadlineExceeded
from smriti_scale.events import BreakerChanged, Event, Events, GuardedCall


class HandClock:
    """Stands still until told; kept here so that the ground floor is tested without the rooms above it."""

    def __init__(self) -> None:
        self.now = 0.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


async def answer() -> str:
    return "answer"


async def refuse() -> str:
    raise ConnectionRefusedError("refused")


def make(clock: HandClock, events: Events | None = None, *, threshold: int = 1) -> CircuitBreaker:
    return CircuitBreaker(
        "redis", clock=clock, events=events, threshold=threshold, reset_after=1, reset_max=4, timeout=0.05
    )


async def test_a_failure_opens_the_breaker_and_the_next_call_sends_nothing() -> None:
    breaker = make(HandClock())
    with pytest.raises(ConnectionRefusedError):
        await breaker.call(refuse())
    sent = False

    async def send() -> None:
        nonlocal sent
        sent = True

    with pytest.raises(CircuitOpen, match="next try in 1.0 s"):
        await breaker.call(send())
    assert not sent


async def test_failures_in_a_row_up_to_the_threshold_are_let_through() -> None:
    breaker = make(HandClock(), threshold=3)
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            await breaker.call(refuse())
    assert await breaker.call(answer()) == "answer"  # an answer clears the count
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            await breaker.call(refuse())
    assert breaker.state == "open"


async def test_one_trial_passes_after_the_wait_and_an_answer_closes() -> None:
    clock = HandClock()
    breaker = make(clock)
    with pytest.raises(ConnectionRefusedError):
        await breaker.call(refuse())
    clock.now = 1.0
    assert breaker.allows()
    assert not breaker.allows()  # the trial is one
    breaker.succeeded()
    assert breaker.state == "closed"
    assert breaker.allows()


async def test_each_failed_trial_doubles_the_wait_up_to_the_bound() -> None:
    clock = HandClock()
    breaker = make(clock)
    breaker.failed(OSError("down"))
    for wait, following in ((1, 2), (2, 4), (4, 4)):
        clock.now += wait
        assert breaker.allows()
        breaker.failed(OSError("still down"))
        with pytest.raises(CircuitOpen) as refused:
            breaker.check()
        assert refused.value.retry_after == following


async def test_a_trial_whose_caller_was_cancelled_gives_way_to_another() -> None:
    clock = HandClock()
    breaker = make(clock)
    breaker.failed(OSError("down"))
    clock.now = 1.0
    trial = asyncio.create_task(breaker.call(asyncio.sleep(60), timeout=60))
    await asyncio.sleep(0)
    trial.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trial
    assert not breaker.allows()
    clock.now = 2.0
    assert breaker.allows()


async def test_a_call_that_outlasts_the_deadline_fails_and_is_counted() -> None:
    breaker = make(HandClock())
    with pytest.raises(DeadlineExceeded, match="redis did not finish within 0.05 s"):
        await breaker.call(asyncio.sleep(30))
    assert breaker.state == "open"


async def test_an_error_that_is_the_callers_own_leaves_the_breaker_closed() -> None:
    async def wrong() -> None:
        raise ValueError("bad argument")

    breaker = make(HandClock())
    with pytest.raises(ValueError, match="bad argument"):
        await breaker.call(wrong())
    assert breaker.state == "closed"


async def test_changes_of_state_are_events() -> None:
    seen: list[Event] = []
    clock = HandClock()
    breaker = make(clock, Events(seen.append))
    breaker.failed(OSError("down"))
    clock.now = 1.0
    await breaker.call(answer())
    states = [event.state for event in seen if isinstance(event, BreakerChanged)]
    assert states == ["open", "half_open", "closed"]


@pytest.mark.parametrize(
    "wrong", [{"threshold": 0}, {"timeout": 0}, {"reset_after": 0}, {"reset_after": 9, "reset_max": 3}]
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError):
        CircuitBreaker("redis", **wrong)  # type: ignore[arg-type]


async def test_a_caller_who_is_cancelled_is_not_told_of_a_deadline() -> None:
    breaker = CircuitBreaker("server", timeout=30.0)
    call = asyncio.create_task(breaker.call(asyncio.Event().wait()))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert breaker.state == "closed"


async def test_each_of_many_calls_has_its_own_deadline_though_they_share_a_timer() -> None:
    breaker = CircuitBreaker("server", timeout=0.05, threshold=100)
    answered = asyncio.Event()

    async def late() -> str:
        try:
            await breaker.call(asyncio.Event().wait())
        except DeadlineExceeded:
            return "late"
        return "answered"

    async def quick() -> str:
        await breaker.call(answered.wait())
        return "answered"

    first = [asyncio.create_task(late()) for _ in range(5)]
    second = [asyncio.create_task(quick()) for _ in range(5)]
    await asyncio.sleep(0)
    answered.set()
    assert await asyncio.gather(*second) == ["answered"] * 5
    assert await asyncio.gather(*first) == ["late"] * 5
    assert await asyncio.gather(*(late() for _ in range(3))) == ["late"] * 3


async def test_a_deadline_of_the_callers_own_outside_is_left_to_it() -> None:
    breaker = CircuitBreaker("server", timeout=30.0)
    with pytest.raises(TimeoutError) as raised:
        async with asyncio.timeout(0.01):
            await breaker.call(asyncio.Event().wait())
    assert not isinstance(raised.value, DeadlineExceeded)
    assert breaker.state == "closed"


async def test_each_call_is_told_with_its_duration_and_failure() -> None:
    clock, events, told = HandClock(), Events(), list[Event]()
    events.subscribe(told.append)
    breaker = make(clock, events, threshold=9)

    async def takes_two_seconds() -> None:
        clock.now += 2

    await breaker.call(takes_two_seconds())
    with pytest.raises(ConnectionRefusedError):
        await breaker.call(refuse())
    with pytest.raises(DeadlineExceeded):
        await breaker.call(asyncio.Event().wait())
    assert told == [
        GuardedCall("redis", 2.0),
        GuardedCall("redis", 0.0, "ConnectionRefusedError"),
        GuardedCall("redis", 0.0, "DeadlineExceeded"),
    ]


async def test_a_call_that_began_before_anybody_listened_is_not_told() -> None:
    events, told, go_on = Events(), list[Event](), asyncio.Event()
    breaker = make(HandClock(), events)
    call = asyncio.create_task(breaker.call(go_on.wait(), timeout=30))
    await asyncio.sleep(0)
    events.subscribe(told.append)
    go_on.set()
    await call
    assert told == []
