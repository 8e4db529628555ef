from __future__ import annotations

import logging

import pytest

from smriti_scale.events import BreakerChanged, Event, Events


def test_events_are_false_until_somebody_listens() -> None:
    events = Events()
    assert not events
    stop = events.subscribe(lambda event: None)
    assert events
    stop()
    assert not events


def test_every_listener_gets_the_event_even_when_one_raises(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Event] = []

    def broken(event: Event) -> None:
        raise RuntimeError("listener trouble")

    events = Events(broken, seen.append)
    event = BreakerChanged(breaker="redis", state="open", reason="refused")
    with caplog.at_level(logging.ERROR, logger="smriti_scale.events"):
        events.emit(event)
    assert seen == [event]
    assert "listener failed" in caplog.text
