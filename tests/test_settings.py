from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from smriti_scale.settings import DEVELOPMENT_SECRET, ScaleSettings

GOOD_SECRET = "k7Jq0v-5TtC2mB9xWcYh3nRzL8sDfGaP"


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ENVIRONMENT", "SECRET_KEY", "MONGODB_URI", "REDIS_URL", "DATABASE_NAME", "SENTRY_DSN"):
        monkeypatch.delenv(name, raising=False)


def test_defaults_work_for_development() -> None:
    settings = ScaleSettings()
    assert settings.environment == "development"
    assert settings.redis_url is None
    assert not settings.is_production


@pytest.mark.parametrize("secret", [None, DEVELOPMENT_SECRET, "short", ""])
def test_production_refuses_a_default_or_short_secret(monkeypatch: pytest.MonkeyPatch, secret: str | None) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    if secret is not None:
        monkeypatch.setenv("SECRET_KEY", secret)
    with pytest.raises(ValidationError, match="SECRET_KEY must be set") as refused:
        ScaleSettings()
    assert DEVELOPMENT_SECRET not in str(refused.value)


def test_production_starts_with_a_real_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    monkeypatch.setenv("SECRET_KEY", GOOD_SECRET)
    settings = ScaleSettings()
    assert settings.is_production
    assert GOOD_SECRET not in repr(settings)


def test_both_spellings_of_a_conventional_name_are_read_and_the_prefixed_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONGODB_URI", "mongodb://plain")
    assert ScaleSettings().mongodb_uri == "mongodb://plain"
    monkeypatch.setenv("SCALE_MONGODB_URI", "mongodb://prefixed")
    assert ScaleSettings().mongodb_uri == "mongodb://prefixed"


@pytest.mark.parametrize("token", ["", "short"])
def test_a_metrics_token_that_can_be_guessed_is_refused_and_a_good_one_not_shown(
    monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("SCALE_METRICS_TOKEN", token)
    with pytest.raises(ValidationError, match="at least 16"):
        ScaleSettings()
    monkeypatch.setenv("SCALE_METRICS_TOKEN", GOOD_SECRET)
    assert GOOD_SECRET not in repr(ScaleSettings())


def test_lists_are_comma_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALE_DEFAULT_LIMITS", "300/minute, 5000/hour,")
    monkeypatch.setenv("SCALE_TRUSTED_PROXIES", "10.0.0.0/8")
    settings = ScaleSettings()
    assert settings.default_limits == ("300/minute", "5000/hour")
    assert settings.trusted_proxies == ("10.0.0.0/8",)


def test_a_dotenv_file_is_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DATABASE_NAME=from_file\nSCALE_MAX_POOL_SIZE=7\nSCALE_MIN_POOL_SIZE=1\n")
    settings = ScaleSettings()
    assert settings.database_name == "from_file"
    assert settings.max_pool_size == 7


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_pool_size": 0},
        {"min_pool_size": 60},
        {"page_default_limit": 200},
        {"namespace": "with space"},
        {"traces_sample_rate": 1.5},
        {"environment": "staging"},
        {"indexes": "drop"},
    ],
)
def test_values_that_cannot_work_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ScaleSettings.model_validate(wrong)


def test_a_secret_serves_each_purpose_by_a_key_of_its_own_and_rotates() -> None:
    old = ScaleSettings(secret_key=GOOD_SECRET)
    new = ScaleSettings(secret_key="another-secret-of-enough-characters", previous_secret_keys=(GOOD_SECRET,))
    assert old.secrets_for("cursor") != old.secrets_for("token")
    assert [len(key) for key in new.secrets_for("cursor")] == [32, 32]
    assert new.secrets_for("cursor")[1] == old.secrets_for("cursor")[0]
