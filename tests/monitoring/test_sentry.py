from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sentry_sdk

from smriti_scale.monitoring import init_sentry

DSN = "http://key@127.0.0.1:9/1"  # nobody listens there; nothing is sent


@pytest.fixture(autouse=True)
def _sentry_off_again() -> Iterator[None]:
    yield
    sentry_sdk.get_client().close(timeout=0)
    sentry_sdk.get_global_scope().set_client(None)


@pytest.mark.parametrize("dsn", [None, ""])
def test_without_a_dsn_nothing_starts(dsn: str | None) -> None:
    assert init_sentry(dsn, environment="test") is False
    assert not sentry_sdk.get_client().is_active()


def test_the_sampler_drops_probes_and_follows_no_caller() -> None:
    assert init_sentry(DSN, environment="test", release="1.2.3", traces_sample_rate=0.25) is True
    options: dict[str, Any] = sentry_sdk.get_client().options
    sampler = options["traces_sampler"]
    for path in ("/livez", "/readyz", "/internal/readyz", "/api/health", "/metrics"):
        assert sampler({"asgi_scope": {"path": path}}) == 0.0
    assert sampler({"asgi_scope": {"path": "/api/posts"}}) == 0.25
    assert sampler({"asgi_scope": {"path": "/api/posts"}, "parent_sampled": True}) == 0.25
    assert sampler({}) == 0.25


def test_nothing_personal_is_sent_by_default() -> None:
    init_sentry(DSN, environment="test", release="1.2.3")
    options: dict[str, Any] = sentry_sdk.get_client().options
    assert not options["send_default_pii"]
    assert options["max_request_body_size"] == "never"
    assert (options["environment"], options["release"]) == ("test", "1.2.3")
