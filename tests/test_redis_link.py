from __future__ import annotations

import pytest

from smriti_scale.errors import ConfigurationError
from smriti_scale.redis_link import RedisLink, RedisScript, redacted


async def test_a_link_opens_one_client_for_a_loop_and_closes_it(redis_url: str, redis_prefix: str) -> None:
    link = RedisLink(redis_url)
    assert link.client is link.client
    assert await link.client.set(f"{redis_prefix}k", "v")
    assert await link.client.get(f"{redis_prefix}k") == b"v"
    await link.aclose()
    await link.aclose()


async def test_a_script_runs_by_hash_and_loads_itself_when_unknown(redis_url: str, redis_prefix: str) -> None:
    link = RedisLink(redis_url)
    script = RedisScript(f"return {{KEYS[1], ARGV[1], '{redis_prefix}'}}")  # unique, so surely unknown at first
    for _ in range(2):
        assert await script.run(link.client, [f"{redis_prefix}k"], [7]) == [
            f"{redis_prefix}k".encode(),
            b"7",
            redis_prefix.encode(),
        ]
    await link.aclose()


def test_an_unknown_scheme_is_refused_without_showing_the_password() -> None:
    with pytest.raises(ConfigurationError, match="unknown Redis URL") as refused:
        RedisLink("postgres://user:hunter2@host/0")
    assert "hunter2" not in str(refused.value)


def test_credentials_never_show() -> None:
    assert redacted("redis://user:hunter2@host:6379/0") == "redis://***@host:6379/0"
    assert redacted("redis://host:6379/0") == "redis://host:6379/0"
    assert "hunter2" not in repr(RedisLink("rediss://:hunter2@host:6379/0"))


async def test_a_sentinel_url_without_a_service_says_what_is_missing() -> None:
    with pytest.raises(ConfigurationError, match="names no service"):
        _ = RedisLink("redis+sentinel://host:26379").client


def test_a_cluster_is_known_by_its_url() -> None:
    assert RedisLink("redis+cluster://host:7000,host:7001").is_cluster
    assert not RedisLink("redis://host").is_cluster
