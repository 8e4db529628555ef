"""The arithmetic of objectives, against reasoning from first principles."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies as st

from smriti_scale.errors import ConfigurationError
from smriti_scale.monitoring import DEFAULT_SLOS, SLO, BurnAlert, Match
from smriti_scale.monitoring.metrics import LATENCY, Metrics
from smriti_scale.monitoring.sli import LATENCY_BUCKETS, quantile
from smriti_scale.monitoring.slo import (
    BURN_ALERTS,
    DAY,
    HOUR,
    WINDOWS,
    budget_left,
    burn_rate,
    severity_of,
    window_name,
)

SHARES = st.floats(0, 1)


def test_the_usual_five_are_those_of_the_guide() -> None:
    assert [(slo.name, slo.objective, slo.threshold, slo.sli.unit) for slo in DEFAULT_SLOS] == [
        ("latency", 0.95, 0.2, "seconds"),
        ("errors", 0.99, 0.01, "ratio"),
        ("database", 0.99, 0.1, "seconds"),
        ("memory", 0.99, 0.8, "ratio"),
        ("cpu", 0.95, 0.7, "ratio"),
    ]
    assert [slo.title for slo in DEFAULT_SLOS] == [
        "95 % of requests under 200 ms",
        "less than 1 % of requests fail",
        "database queries under 100 ms on average",
        "less than 80 % of memory used",
        "less than 70 % of CPU used",
    ]


def test_every_metric_they_speak_of_is_there_with_those_buckets() -> None:
    described = {one.name: one for one in Metrics().described}
    for slo in DEFAULT_SLOS:
        assert slo.sli.metric in described
    assert LATENCY_BUCKETS == LATENCY == described["scale_http_request_duration_seconds"].buckets


def test_the_alerts_are_those_of_the_workbook() -> None:
    spent = [(alert.severity, round(alert.burn * alert.long / (30 * DAY), 4)) for alert in BURN_ALERTS]
    assert spent == [("page", 0.02), ("page", 0.05), ("ticket", 0.1)]


@pytest.mark.parametrize("objective", [0, 1, -0.1, 1.5, math.nan])
def test_an_objective_is_a_share(objective: float) -> None:
    with pytest.raises(ConfigurationError, match="objective"):
        SLO.errors(objective=objective)


@pytest.mark.parametrize("name", ["", "Errors", "two words", "5xx", 'a"b'])
def test_a_name_fits_a_label(name: str) -> None:
    with pytest.raises(ConfigurationError, match="name"):
        SLO.errors(name)


def test_a_latency_between_two_buckets_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigurationError, match=r"0\.3 s is no bucket .* 0\.2, 0\.5"):
        SLO.latency(under=0.3)
    assert SLO.latency(under=0.3, buckets=(0.1, 0.3)).threshold == 0.3


def test_a_pattern_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="regular expression"):
        Match("route", "(")


def test_windows_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="short"):
        BurnAlert("page", 14.4, long=300, short=3600)


@given(bad=st.integers(0, 10**6), good=st.integers(0, 10**6), budget=st.floats(0.0001, 0.5), covered=SHARES)
def test_a_burn_rate_of_one_spends_the_budget_exactly(bad: int, good: int, budget: float, covered: float) -> None:
    events = bad + good
    rate = burn_rate(bad, events, budget=budget, covered=covered)
    left = budget_left(bad, events, budget=budget, covered=covered)
    if not events:
        assert (rate, left) == (0, None)
        return
    # By definition: what was spent beside what may be spent by as much traffic over the whole window.
    assert rate == pytest.approx((bad / events) / budget * covered)
    assert left == pytest.approx(1 - rate)
    assert rate <= 1 / budget + 1e-9


@given(
    counts=st.lists(st.integers(0, 50), min_size=len(LATENCY_BUCKETS) + 1, max_size=len(LATENCY_BUCKETS) + 1),
    share=SHARES,
)
def test_a_quantile_lies_in_the_bucket_that_holds_its_rank(counts: list[int], share: float) -> None:
    cumulative = [float(sum(counts[: at + 1])) for at in range(len(counts))]
    found = quantile(share, LATENCY_BUCKETS, cumulative)
    total = sum(counts)
    if not total:
        assert found is None
        return
    assert found is not None
    rank = share * total
    bounds = (0.0, *LATENCY_BUCKETS)
    place = next((at for at, count in enumerate(cumulative[:-1]) if count >= rank), len(LATENCY_BUCKETS) - 1)
    assert bounds[place] - 1e-12 <= found <= bounds[place + 1] + 1e-12
    if cumulative[place] >= rank:  # not beyond the last bound: at or under a bound means enough events are there
        for bound, count in zip(LATENCY_BUCKETS, cumulative, strict=False):
            if abs(count - rank) > 1e-6:  # else rounding decides
                assert (found <= bound + 1e-12) == (count >= rank)


@given(
    burn=st.fixed_dictionaries({window: st.floats(0, 100) for window in WINDOWS}),
    bad=st.fixed_dictionaries({window: st.floats(0, 40) for window in WINDOWS}),
    objective=st.sampled_from([0.9, 0.95, 0.99, 0.999]),
    states=st.booleans(),
)
def test_an_alert_needs_both_windows_and_enough_bad_events(
    burn: dict[float, float], bad: dict[float, float], objective: float, states: bool
) -> None:
    slo = SLO.memory(objective=objective) if states else SLO.errors(objective=objective)
    minimum = 0 if states else 10
    page = (burn[3600] > 14.4 and burn[300] > 14.4 and bad[3600] >= minimum and objective != 0.9) or (
        burn[21600] > 6 and burn[1800] > 6 and bad[21600] >= minimum
    )
    ticket = burn[259200] > 1 and burn[21600] > 1 and bad[259200] >= minimum
    assert severity_of(slo, burn, bad) == ("page" if page else "ticket" if ticket else None)


def test_an_alert_that_an_objective_cannot_reach_is_left_out() -> None:
    assert [alert.burn for alert in SLO.errors(objective=0.9).reachable_alerts] == [6, 1]
    assert SLO.errors(objective=0.95).reachable_alerts == BURN_ALERTS


def test_windows_are_named_as_promql_writes_them() -> None:
    assert [window_name(window) for window in (*WINDOWS, 30 * DAY, 90.0, 1.5 * HOUR, 0.5)] == [
        "5m", "30m", "1h", "6h", "3d", "30d", "90s", "90m", "500ms",
    ]  # fmt: skip
