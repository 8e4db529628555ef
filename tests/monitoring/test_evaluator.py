"""Objectives judged from real instruments, with a clock moved by hand."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram

from smriti_scale.errors import ConfigurationError
from smriti_scale.monitoring import SLO, Match, SLOEvaluator
from smriti_scale.monitoring.slo import BURN_ALERTS
from smriti_scale.testing import ManualClock
from tests.monitoring.induced import Service


def test_a_service_that_is_well_meets_everything() -> None:
    service = Service()
    service.run(60)
    for status in service.evaluator.statuses():
        assert status.met is True, status.name
        assert status.alert is None
        assert status.budget_left == 1.0
        assert set(status.burn) == {"5m", "30m", "1h", "6h", "3d"}
    assert service.status("latency").value == pytest.approx(0.04875)  # 95 % of the way from 25 to 50 ms
    assert service.status("database").value == pytest.approx(0.01)
    assert service.status("memory").value == pytest.approx(0.5)
    assert service.status("errors").value == 0
    assert service.active() == []


def test_without_data_nothing_is_claimed() -> None:
    evaluator = SLOEvaluator(CollectorRegistry(), clock=ManualClock())
    before = evaluator.statuses()
    evaluator.tick()
    for status in (*before, *evaluator.statuses()):
        assert (status.value, status.met, status.budget_left, status.alert) == (None, None, None, None)
        assert set(status.burn.values()) == {0.0}


@pytest.mark.long
def test_slow_requests_page_once_they_have_cost_enough_and_it_ends_soon_after_them() -> None:
    service = Service()
    service.run(180)
    service.run(40, slow=1.0)
    assert service.active() == []
    assert service.status("latency").met is False
    assert service.status("latency").value == pytest.approx(2.425)  # 95 % of the way from 1 s to 2.5 s
    service.run(5, slow=1.0)  # 43 minutes of an hour are 72 %, 14.4 times the budget of 5 %
    assert service.active() == [("slo:latency", "page")]
    assert service.gauge("slo:latency", "page") == 1
    service.run(10)
    assert service.active() == []
    assert service.gauge("slo:latency", "page") == 0
    assert service.status("latency").met is True


def test_an_error_burst_pages_after_nine_minutes_and_clears() -> None:
    service = Service()
    service.run(120)
    service.run(8, failing=1.0)
    assert service.active() == []
    service.run(1, failing=1.0)
    assert service.active() == [("slo:errors", "page")]
    assert service.status("errors").value == 1.0
    service.run(12)  # five minutes for the short window, two of calm
    # The six-hour pair is not reached by nine minutes, so nothing is left.
    assert service.active() == []


def test_memory_above_its_bound_pages_and_clears() -> None:
    service = Service()
    service.run(60)
    service.metrics.memory_ratio.set(0.93)
    service.run(9)
    assert service.active() == [("slo:memory", "page")]
    assert service.status("memory").value == pytest.approx(0.93)
    service.metrics.memory_ratio.set(0.6)
    service.run(12)
    assert service.active() == []


def test_slow_queries_page_and_clear() -> None:
    service = Service()
    service.run(60)
    service.run(12, query=5.0)
    assert service.active() == [("slo:database", "page")]
    assert service.status("database").value == pytest.approx(5.0)
    service.run(20)
    assert service.active() == []


def test_a_quiet_database_is_neither_good_nor_bad() -> None:
    service = Service()
    service.run(60, query=None)
    status = service.status("database")
    assert (status.value, status.met, status.budget_left) == (None, None, None)


@pytest.mark.long
def test_a_slow_leak_of_the_budget_is_a_ticket() -> None:
    service = Service((SLO.errors(),))
    for _ in range(3 * 24 * 60):
        service.clock.advance(60)
        service.metrics.http_requests["GET", "/posts", "500"].inc(2)  # twice what is allowed
        service.metrics.http_requests["GET", "/posts", "200"].inc(98)
        service.evaluator.tick()
    assert service.active() == [("slo:errors", "ticket")]
    assert service.status("errors").burn["3d"] == pytest.approx(2, rel=0.02)
    assert service.status("errors").budget_left == pytest.approx(1 - 2 * 3 / 30, rel=0.02)


def test_the_first_request_of_a_young_process_wakes_nobody_though_it_fails() -> None:
    service = Service()
    service.run(1, requests=3, failing=1.0)
    assert service.status("errors").value == 1.0
    assert service.status("errors").met is False
    assert service.active() == []
    service.run(120, requests=3)
    assert service.active() == []


@pytest.mark.long
def test_a_young_process_in_an_outage_pages_as_soon_as_an_old_one() -> None:
    young, old = Service(), Service()
    old.run(7 * 60, requests=2)
    for service in (young, old):
        service.run(8, requests=2, failing=1.0)
        assert service.active() == []
        service.run(1, requests=2, failing=1.0)
        assert service.active() == [("slo:errors", "page")]


@pytest.mark.long
def test_a_few_failures_among_few_requests_wake_nobody() -> None:
    service = Service()
    for _ in range(7):
        service.run(59.75, requests=0)
        service.run(0.25, requests=1, failing=1.0)
    assert service.status("errors").burn["6h"] == pytest.approx(100)
    assert service.active() == []


@pytest.mark.long
@settings(max_examples=25, deadline=None)
@given(share=st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.8, 1.0]), objective=st.sampled_from([0.95, 0.99, 0.999]))
def test_a_constant_share_of_errors_pages_when_the_workbook_says(share: float, objective: float) -> None:
    slo = SLO.errors(objective=objective)
    service = Service((slo,))
    expected = min(
        (alert.burn * slo.budget / share * alert.long for alert in BURN_ALERTS[:2] if share > alert.burn * slo.budget),
        default=None,
    )
    if expected is None or expected > 5 * 3600:
        return
    minutes = max(expected / 60, 0.25)
    service.run(minutes - min(0.5, minutes * 0.1), failing=share)
    before = service.active()
    service.run(1.5, failing=share)
    assert service.active() == [("slo:errors", "page")]
    if minutes > 5:
        assert before == []


@pytest.mark.long
def test_a_wall_clock_that_jumps_moves_no_window() -> None:
    steady, jumping = Service(), Service()
    for service in (steady, jumping):
        service.run(60, failing=0.5)
        if service is jumping:
            service.clock.jump(-86_400)
        service.run(60)
        if service is jumping:
            service.clock.jump(400 * 86_400)
        service.run(30)
    assert jumping.status("errors").burn == steady.status("errors").burn
    moments = [at for at, _ in jumping.status("errors").history]
    assert moments == sorted(moments)
    assert moments[-1] == pytest.approx(jumping.clock.time(), abs=31)
    assert moments[-1] - moments[0] < 3_700


def test_a_process_that_stood_still_for_a_night_judges_what_it_saw() -> None:
    service = Service()
    service.run(60)
    service.clock.advance(8 * 3_600)
    service.run(10)
    assert service.status("memory").budget_left == 1.0
    assert service.active() == []


class Reborn:
    """A registry that is made anew: what a restart looks like to a reader."""

    def __init__(self) -> None:
        self.now = CollectorRegistry()
        self.start()

    def start(self) -> None:
        self.now = CollectorRegistry()
        self.requests = Counter("scale_http_requests", "-", ["method", "route", "status"], registry=self.now)

    def gathered(self) -> CollectorRegistry:
        return self.now

    def serve(self, status: str, count: int) -> None:
        self.requests.labels("GET", "/", status).inc(count)


def test_totals_that_go_back_are_a_new_count_and_nothing_is_counted_twice() -> None:
    clock, service = ManualClock(), Reborn()
    evaluator = SLOEvaluator(service, (SLO.errors(),), clock=clock)
    service.serve("500", 1_000)  # before the first look: whose they are is unknown
    service.serve("200", 1)
    evaluator.tick()
    for life in range(5):
        if life:
            service.start()
        for _ in range(40):
            clock.advance(15)
            service.serve("200", 99)
            service.serve("500", 1)
            evaluator.tick()
    [status] = evaluator.statuses()
    assert status.burn["1h"] == pytest.approx((50 / 60) * 1.0, rel=0.05)
    assert status.value == pytest.approx(0.01)


def test_some_of_the_series_going_away_counts_nothing_old_as_new() -> None:
    clock, service = ManualClock(), Reborn()
    evaluator = SLOEvaluator(service, (SLO.errors(),), clock=clock)
    service.serve("200", 0)
    evaluator.tick()
    service.serve("500", 500)
    service.serve("200", 9_500)
    clock.advance(15)
    evaluator.tick()
    service.start()  # of two workers' files one is swept away: the sum falls, but not to nothing
    service.serve("500", 250)
    service.serve("200", 4_750)
    clock.advance(15)
    evaluator.tick()
    clock.advance(600)
    service.serve("200", 10)
    evaluator.tick()
    [status] = evaluator.statuses()
    assert status.value == 0.0
    assert status.burn["1h"] == pytest.approx(500 / 10_010 / 0.01 * 630 / 3600)


def test_probes_and_the_dashboard_are_no_users() -> None:
    service = Service()
    for _ in range(40):
        service.clock.advance(15)
        for route in ("/livez", "/internal/readyz", "/metrics", "/_scale", "/_scale/events"):
            service.metrics.http_requests["GET", route, "503"].inc(10)
            service.metrics.http_duration["GET", route].observe(9.0)
        service.metrics.http_requests["GET", "/livezone", "200"].inc(1)
        service.evaluator.tick()
    assert service.status("errors").value == 0.0
    assert service.status("latency").value is None


def test_an_objective_may_be_about_one_route() -> None:
    matches = (Match("route", "/posts"), Match("method", "GET"))
    service = Service((SLO.latency("posts", under=0.1, matches=matches), SLO.latency()))
    service.run(10, seconds=0.15)
    service.metrics.http_duration["POST", "/posts"].observe(0.001)
    assert service.status("posts").met is False
    assert service.status("latency").met is True


def test_a_histogram_with_other_buckets_is_told_once_and_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    registry, clock = CollectorRegistry(), ManualClock()
    Histogram("scale_http_request_duration_seconds", "-", registry=registry, buckets=(0.3, 1)).observe(0.1)
    Counter("scale_http_requests", "-", ["route", "status"], registry=registry).labels("/", "200").inc()
    evaluator = SLOEvaluator(registry, clock=clock)
    evaluator.tick()
    evaluator.tick()
    assert caplog.text.count("the SLO latency cannot be judged") == 1
    assert "0.3, 1, inf" in caplog.text
    assert "the SLO errors" not in caplog.text


class Broken:
    def collect(self) -> Iterable[Any]:
        raise RuntimeError("a collector of the application's own")


def test_a_registry_that_cannot_be_read_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    SLOEvaluator(Broken(), clock=ManualClock()).tick()
    assert "the metrics could not be read" in caplog.text


class Recovering(Reborn):
    """Cannot be read at first."""

    broken = True

    def gathered(self) -> CollectorRegistry:
        if self.broken:
            raise OSError("files of another user")
        return self.now


def test_totals_first_seen_after_a_failed_look_are_not_taken_for_new() -> None:
    clock, service = ManualClock(), Recovering()
    evaluator = SLOEvaluator(service, (SLO.errors(),), clock=clock)
    service.serve("500", 1_000)
    evaluator.tick()
    service.broken = False
    clock.advance(15)
    evaluator.tick()
    assert evaluator.statuses()[0].value is None


def test_the_first_requests_of_all_are_counted_although_their_series_is_new() -> None:
    clock, service = ManualClock(), Reborn()
    evaluator = SLOEvaluator(service, (SLO.errors(),), clock=clock)
    evaluator.tick()
    clock.advance(15)
    service.serve("500", 3)
    service.serve("200", 1)
    evaluator.tick()
    assert evaluator.statuses()[0].value == 0.75


async def test_run_looks_again_and_again_until_cancelled() -> None:
    service = Service()
    running = asyncio.create_task(service.evaluator.run())
    for _ in range(60):
        await service.clock.until_sleepers()
        service.metrics.http_requests["GET", "/posts", "500"].inc(100)
        service.clock.advance(15)
        await asyncio.sleep(0)
    await service.clock.until_sleepers()
    assert service.active() == [("slo:errors", "page")]
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


def test_two_objectives_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="one name"):
        SLOEvaluator(CollectorRegistry(), (SLO.errors(), SLO.errors()))
    with pytest.raises(ConfigurationError, match="interval"):
        SLOEvaluator(CollectorRegistry(), interval=0)


def test_the_figures_of_all_processes_are_judged_together(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import os, sys
        from smriti_scale.monitoring import Metrics, SLO, SLOEvaluator
        from smriti_scale.testing import ManualClock

        metrics, clock = Metrics(), ManualClock()
        evaluator = SLOEvaluator(metrics, (SLO.errors(),), clock=clock)
        metrics.http_requests["GET", "/", "200"].inc(0)
        evaluator.tick()
        if os.fork() == 0:
            worker = Metrics()
            worker.http_requests["GET", "/", "500"].inc(30)
            os._exit(0)
        os.wait()
        metrics.http_requests["GET", "/", "200"].inc(70)
        clock.advance(60)
        evaluator.tick()
        print(evaluator.statuses()[0].value)
    """)
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "0.3"


@pytest.mark.long
def test_a_thousand_routes_are_looked_at_without_a_word_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    service = Service()
    with caplog.at_level(logging.INFO):
        for number in range(900):
            service.metrics.http_duration["GET", f"/r{number}"].observe(0.01)
        service.run(1)
    assert service.status("latency").met is True
    assert caplog.text == ""
