from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client import CollectorRegistry, Counter

from smriti_scale.errors import ConfigurationError
from smriti_scale.monitoring import Metrics
from smriti_scale.monitoring.labels import OTHER, Children, LabelValues
from tests.monitoring.figures import series, value


def children(limit: int) -> Children[Counter]:
    counter = Counter("seen", "Seen.", ("thing",), registry=CollectorRegistry())
    return Children(counter, counter.labels, ("thing",), defaultdict(lambda: LabelValues(limit)))


def test_a_child_is_made_once_and_kept() -> None:
    known = children(10)
    assert known[("a",)] is known[("a",)]
    assert known[("a",)] is not known[("b",)]


def test_values_beyond_the_limit_share_one_child_and_take_no_memory() -> None:
    known = children(3)
    for number in range(1000):
        known[(f"thing {number}",)].inc()
    assert len(known) == 4
    assert known[(OTHER,)]._value.get() == 997
    assert known[("thing 1",)]._value.get() == 1


@pytest.mark.long
def test_several_threads_together_admit_no_more_than_the_limit() -> None:
    values = LabelValues(50)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(values.admit, [str(n % 500) for n in range(20_000)]))
    assert len(values) == 50


def test_a_wrong_number_of_label_values_is_an_error() -> None:
    with pytest.raises(KeyError, match="1 label values"):
        children(3)["a", "b"]


def test_a_label_is_bounded_over_all_of_its_instruments_while_routes_may_be_many() -> None:
    metrics = Metrics(max_values=5)
    for number in range(300):
        metrics.cache_load[f"cache {number}", "load"].observe(0.1)
        metrics.http_requests["GET", f"/route/{number}", "200"].inc()
    assert len(series(metrics, "scale_cache_load_seconds_count")) == 6
    assert value(metrics, "scale_cache_load_seconds_count", cache=OTHER, function="load") == 295
    assert len(series(metrics, "scale_http_requests_total")) == 300


def test_a_limit_that_admits_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="max_values"):
        Metrics(max_values=0)
