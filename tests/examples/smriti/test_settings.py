from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from examples.smriti.app import create_app
from examples.smriti.settings import SmritiSettings
from smriti_scale.settings import DEVELOPMENT_SECRET
from tests.examples.smriti.conftest import SettingsFactory, client_of

PRODUCTION: dict[str, Any] = {"_env_file": None, "environment": "production", "secret_key": "s" * 40}


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"secret_key": DEVELOPMENT_SECRET}, "SECRET_KEY"),
        ({"secret_key": "short"}, "SECRET_KEY"),
        ({"cron_secret": "secret"}, "CRON_SECRET"),
        ({"cron_secret": ""}, "CRON_SECRET"),
        ({"bcrypt_rounds": 4}, "BCRYPT_ROUNDS"),
        ({"primitives": "off"}, "PRIMITIVES"),
        ({"metrics_token": "short"}, "metrics_token"),
        ({"algorithm": "none"}, "algorithm"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_production_does_not_start_with_what_is_for_development(wrong: dict[str, Any], named: str) -> None:
    SmritiSettings(**PRODUCTION, cron_secret="c" * 16)
    with pytest.raises(ValidationError, match=named):
        SmritiSettings(**{**PRODUCTION, **wrong})


def test_every_variable_of_the_original_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {
        "ENVIRONMENT": "test", "MONGODB_URI": "mongodb://db", "DATABASE_NAME": "memories", "SECRET_KEY": "k" * 32,
        "ALGORITHM": "HS512", "ACCESS_TOKEN_EXPIRE_MINUTES": "7", "CLOUDINARY_CLOUD_NAME": "cloud",
        "CLOUDINARY_API_KEY": "key", "CLOUDINARY_API_SECRET": "hidden", "FIREBASE_CREDENTIALS_PATH": "/f.json",
        "FIREBASE_CREDENTIALS_JSON": "{}", "CRON_SECRET": "tick",
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = SmritiSettings(_env_file=None)
    assert (settings.environment, settings.mongodb_uri, settings.database_name) == ("test", "mongodb://db", "memories")
    assert (settings.algorithm, settings.access_token_expire_minutes) == ("HS512", 7)
    assert (settings.cloudinary_cloud_name, settings.cloudinary_api_key) == ("cloud", "key")
    assert settings.firebase_credentials_path == "/f.json"
    hidden = (
        settings.secret_key, settings.cloudinary_api_secret, settings.firebase_credentials_json, settings.cron_secret,
    )  # fmt: skip
    assert [each.get_secret_value() for each in hidden if each] == ["k" * 32, "hidden", "{}", "tick"]
    assert not any(secret in repr(settings) for secret in ("k" * 32, "hidden", "tick"))


def test_the_limits_are_those_of_the_contract_unless_they_are_set() -> None:
    settings = SmritiSettings(_env_file=None)
    limits = (settings.signup_limit, settings.login_limit, settings.post_limit, settings.user_limit)
    assert limits == ("5/minute", "10/minute", "30/minute", "300/minute")
    assert settings.bcrypt_rounds == 12
    assert settings.effective.application_limits == ("300/minute",)


async def test_origins_are_a_setting(smriti_settings: SettingsFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORS_ORIGINS", "https://app.example, https://beta.example")
    origins = SmritiSettings(_env_file=None).cors_origins
    app = create_app(smriti_settings(cors_origins=origins))
    ask = {"Access-Control-Request-Method": "GET"}
    async with app.router.lifespan_context(app), client_of(app) as client:
        for origin, allowed in (
            ("https://app.example", True), ("https://beta.example", True), ("http://localhost:3000", False),
        ):  # fmt: skip
            answer = await client.options("/api/posts", headers={"Origin": origin, **ask})
            assert (answer.headers.get("access-control-allow-origin") == origin) == allowed
            simple = await client.get("/api/health", headers={"Origin": origin})
            assert (simple.headers.get("access-control-allow-origin") == origin) == allowed


async def test_without_the_primitives_nothing_is_kept_limited_or_coded(smriti_settings: SettingsFactory) -> None:
    app = create_app(smriti_settings(primitives="off", user_limit="1/minute"))
    async with app.router.lifespan_context(app), client_of(app) as client:
        await client.post("/api/auth/signup", json={"username": "asha", "password": "a" * 9, "email": "a@example.org"})
        for _ in range(3):
            answer = await client.get("/api/openapi.json", headers={"Accept-Encoding": "gzip"})
            assert answer.status_code == 200
        told = {name.lower() for name in answer.headers}
        assert not told & {"etag", "content-encoding", "x-ratelimit-limit"}
        stats = app.state.services.scale.cache.stats()
        assert (stats.hits_memory, stats.hits_redis, stats.memory_entries) == (0, 0, 0)
