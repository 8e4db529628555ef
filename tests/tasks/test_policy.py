"""Which settings Celery gets, and what is refused: pure."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError
from hypothesis import given, strategies as st

from smriti_scale.errors import ConfigurationError, MissingExtraError
from smriti_scale.tasks import Delivery, TaskPolicy, make_celery
from smriti_scale.tasks.idempotency import _unmistakable
from smriti_scale.tasks.keys import list_key, list_keys
from smriti_scale.tasks.policy import broker_of
from smriti_scale.tasks.request import outcome_of, reason_of

URL = "redis://127.0.0.1:1/0"


def test_the_visibility_timeout_exceeds_the_longest_task_and_the_lease_does_not_wait_for_it() -> None:
    app = make_celery("t", URL, policy=TaskPolicy(time_limit=600, lease=5))
    options = app.conf.broker_transport_options
    assert options["visibility_timeout"] == 720 > app.conf.task_time_limit == 600
    assert options["lease"] == 5
    assert options["unacked_restore_interval"] * options["unacked_restore_throttle"] <= 2
    assert options["unacked_mutex_expire"] <= 10
    with pytest.raises(ConfigurationError, match="must exceed time_limit"):
        TaskPolicy(time_limit=600, visibility_timeout=600)


def test_work_is_acknowledged_late_fetched_singly_and_written_as_json_only() -> None:
    conf = make_celery("t", URL).conf
    assert conf.task_acks_late
    assert conf.task_reject_on_worker_lost
    assert conf.worker_prefetch_multiplier == 1
    assert conf.accept_content == ["json"]
    assert (conf.task_serializer, conf.result_serializer, conf.event_serializer) == ("json",) * 3
    assert conf.task_soft_time_limit < conf.task_time_limit


def test_results_are_kept_only_where_a_backend_is_named_and_then_expire() -> None:
    assert make_celery("t", URL).conf.task_ignore_result
    kept = make_celery("t", URL, result_backend=URL, policy=TaskPolicy(result_ttl=60)).conf
    assert not kept.task_ignore_result
    assert timedelta(seconds=60) in (kept.result_expires, timedelta(seconds=float(kept.result_expires)))


def test_the_users_own_settings_win_and_transport_options_add_up() -> None:
    app = make_celery(
        "t", URL, settings={"worker_prefetch_multiplier": 4, "broker_transport_options": {"socket_timeout": 9}}
    )
    assert app.conf.worker_prefetch_multiplier == 4
    assert app.conf.broker_transport_options["socket_timeout"] == 9
    assert app.conf.broker_transport_options["lease"] == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"time_limit": 0}, "time_limit must be positive"),
        ({"lease": -1}, "lease must be positive"),
        ({"max_retries": -1}, "max_retries cannot be negative"),
        ({"max_deliveries": 0}, "max_deliveries must be at least 1"),
        ({"soft_time_limit": 300}, "soft_time_limit 300 must lie below time_limit 300"),
    ],
)
def test_numbers_that_cannot_work_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        TaskPolicy(**arguments)


def test_queues_and_routes_must_fit_together() -> None:
    with pytest.raises(ConfigurationError, match="'slow'"):
        make_celery("t", URL, routes={"a.*": "slow"})
    with pytest.raises(ConfigurationError, match="different names"):
        make_celery("t", URL, queues=("a", "a"))
    with pytest.raises(ConfigurationError, match="name"):
        make_celery("", URL)


def test_sentinel_urls_are_translated_for_every_node() -> None:
    broker = broker_of("redis+sentinel://:pw@one:26379,two:26380/mymaster/3")
    assert broker.url == "sentinel://:pw@one:26379/3;sentinel://:pw@two:26380/3"
    assert broker.options["master_name"] == "mymaster"
    app = make_celery("t", "redis+sentinel://one:26379/mymaster")
    assert app.conf.broker_transport_options["master_name"] == "mymaster"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis+cluster://:secret@a:1,b:2", "cannot use a Redis Cluster"),
        ("amqp://guest:secret@localhost", "no broker this library knows"),
        ("redis+sentinel://:secret@a:1", "names no service"),
    ],
)
def test_brokers_that_cannot_work_are_refused_without_showing_the_password(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as raised:
        make_celery("t", url)
    assert "secret" not in str(raised.value)


def test_without_celery_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins
    import sys

    original = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "smriti_scale.tasks.app":
            raise ModuleNotFoundError("No module named 'celery'", name="celery")
        return original(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "smriti_scale.tasks.app", raising=False)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingExtraError, match=r"pip install 'smriti_scale\[tasks\]'"):
        make_celery("t", URL)


def test_a_priority_is_one_of_three() -> None:
    assert [Delivery(priority=level).options()["priority"] for level in ("high", "normal", "low")] == [0, 3, 6]
    with pytest.raises(ConfigurationError, match="urgent"):
        Delivery(priority="urgent")  # type: ignore[arg-type]


def test_a_priority_leads_to_the_list_that_kombu_uses() -> None:
    assert list_keys("q") == ["q", "q\x06\x163", "q\x06\x166"]
    assert [list_key("q", priority) for priority in (-1, 0, 2, 3, 5, 6, 9)] == [
        *("q", "q", "q"),
        *("q\x06\x163", "q\x06\x163"),
        *("q\x06\x166", "q\x06\x166"),
    ]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Retry("again", exc=ValueError()), "retried"),
        (Ignore(), "deferred"),
        (Reject("no", requeue=True), "requeued"),
        (Reject("no", requeue=False), "failed"),
        (WorkerLostError(), "requeued"),
        (SystemExit(), "requeued"),
        (ValueError(), "failed"),
        (MemoryError(), "failed"),
    ],
)
def test_what_becomes_of_a_delivery(error: BaseException, outcome: str) -> None:
    assert outcome_of(error, requeues_lost=True) == outcome


def test_time_limits_are_told_from_other_failures() -> None:
    assert [reason_of(error) for error in (SoftTimeLimitExceeded(), TimeLimitExceeded(1), ValueError())] == [
        *("timed_out", "timed_out"),
        "failed",
    ]


values = st.one_of(st.text(max_size=6), st.integers(), st.booleans(), st.none())


@given(st.lists(values, min_size=1, max_size=3), st.lists(values, min_size=1, max_size=3))
def test_different_arguments_never_share_an_idempotency_key(left: list[Any], right: list[Any]) -> None:
    keys = [":".join(_unmistakable(value) for value in arguments) for arguments in (left, right)]
    same = [(type(value), value) for value in left] == [(type(value), value) for value in right]
    assert (keys[0] == keys[1]) is same


def test_retries_wait_longer_each_time_up_to_a_bound_with_jitter() -> None:
    app = make_celery("t", URL, policy=TaskPolicy(retry_backoff=1, retry_backoff_max=8))

    @app.task
    def job() -> None: ...

    @app.task(retry_jitter=False, retry_backoff=3)
    def steady() -> None: ...

    for retries, bound in enumerate((1, 2, 4, 8, 8)):
        waits = [job.backoff(retries) for _ in range(200)]
        assert 0 <= min(waits) < bound * 0.2
        assert bound * 0.8 < max(waits) <= bound
    assert [steady.backoff(retries) for retries in range(3)] == [3, 6, 8]
