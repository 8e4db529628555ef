"""Windows over running totals, against a reference that keeps everything."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings, strategies as st

from smriti_scale.monitoring.timeline import TIERS, Timeline

Step = tuple[float, int]
STEPS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.3, 5.0, 15.0, 61.0, 600.0, 7_200.0, 90_000.0]), st.integers(0, 100)),
    min_size=1,
    max_size=120,
)


def reference(entries: list[Step], now: float, window: float) -> int:
    """What was added in (now − window, now], by adding it up."""
    return sum(added for at, added in entries if at > now - window)


def told(steps: list[Step]) -> tuple[Timeline, list[Step], float]:
    timeline, entries, now = Timeline(1), [], 5_000.0
    for pause, added in steps:
        now += pause
        timeline.add(now, (added,))
        entries.append((now, added))
    return timeline, entries, now


@settings(max_examples=300)
@given(steps=STEPS, window=st.sampled_from([300.0, 1_800.0, 3_600.0, 21_600.0, 259_200.0]), later=st.floats(0, 900))
def test_a_window_holds_what_was_added_in_it_give_or_take_its_edge(
    steps: list[Step], window: float, later: float
) -> None:
    timeline, entries, now = told(steps)
    now += later
    # The edge lies between two kept entries; what was added between them counts in part.
    edge = now - window
    step = next(step for step, kept in TIERS if edge >= entries[-1][0] - kept)
    gap = max((after[0] - before[0] for before, after in pairwise(entries)), default=0.0)
    slack = step + gap
    found = timeline.increase(now, window)[0]
    assert reference(entries, now, window - slack) - 1e-6 <= found <= reference(entries, now, window + slack) + 1e-6


@given(steps=STEPS)
def test_a_window_longer_than_all_time_holds_everything(steps: list[Step]) -> None:
    timeline, entries, now = told(steps)
    if now - entries[0][0] < TIERS[-1][1]:
        assert timeline.increase(now, 10**9)[0] == sum(added for _, added in entries)
    assert timeline.age(now) == now - entries[0][0]


@given(steps=STEPS)
def test_a_longer_window_never_holds_less(steps: list[Step]) -> None:
    timeline, _, now = told(steps)
    found = [timeline.increase(now, float(window))[0] for window in range(0, 300_000, 7_000)]
    assert found == sorted(found)


def test_even_traffic_is_exact_at_every_age() -> None:
    timeline, now = Timeline(1), 0.0
    for _ in range(3 * 86_400 // 15 + 400):
        now += 15
        timeline.add(now, (30.0,))
    for window in (300.0, 1_800.0, 3_600.0, 21_600.0, 259_200.0):
        assert abs(timeline.increase(now, window)[0] - 2 * window) < 1e-6 * window


def test_memory_is_bounded_over_months_of_looks() -> None:
    timeline, now = Timeline(1), 0.0
    longest = 0
    for tick in range(40 * 86_400 // 30):
        now += 30
        timeline.add(now, (1.0,))
        if tick % 1_000 == 0:
            longest = max(longest, len(timeline))
    assert longest <= sum(kept / step for step, kept in TIERS) + 2 * len(TIERS)
    assert longest < 2_000


def test_looks_in_quick_succession_take_no_more_room() -> None:
    timeline, now = Timeline(1), 0.0
    for _ in range(20_000):
        now += 0.01
        timeline.add(now, (1.0,))
    assert abs(timeline.increase(now, 100.0)[0] - 10_000) < 0.001
    assert len(timeline) < 220


def test_time_that_does_not_move_or_goes_back_harms_nothing() -> None:
    timeline = Timeline(1)
    timeline.add(100.0, (1.0,))
    timeline.add(100.0, (1.0,))
    timeline.add(40.0, (1.0,))
    assert timeline.increase(100.0, 60.0) == (3.0,)
    assert timeline.increase(40.0, 60.0) == (3.0,)
    assert Timeline(2).increase(5.0, 60.0) == (0.0, 0.0)
