from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from smriti_scale.monitoring.redaction import REDACTED, is_sensitive, redact, scrubbed

LEAKS = (
    "mongodb://root:hunter2@db.test:27017/shop?authSource=admin",
    "mongodb+srv://root:hun@hunter2@db.test/",
    "redis://:hunter2@127.0.0.1:6379/0",
    "amqp://hunter2@broker/",
    "Authorization: Bearer hunter2.hunter2",
    "authorization=basic aHVudGVyMjpodW50ZXIy hunter",
    '{"password": "hunter2"}',
    "{'new_password': 'hunter2'}",
    "DB_PASSWORD=hunter2 ./run",
    "--key-password=hunter2",
    "accessToken: hunter2",
    "X-Api-Key: hunter2",
    "Set-Cookie: sid=hunter2; Path=/; HttpOnly",
    "cookie: a=b; sid=hunter2",
    "GET /reset?code=hunter2 HTTP/1.1",
    "https://a.test/x?y=1&z=hunter2#part",
    "hunter2@example.com wrote",
    "-----BEGIN RSA PRIVATE KEY-----\nhunter2\n-----END RSA PRIVATE KEY-----",
    "otp: hunter2",
    "RuntimeError: token=hunter2",
    "a=b: c= password: hunter2",
)


@pytest.mark.parametrize("text", LEAKS)
def test_what_leaks_in_practice_is_taken_out(text: str) -> None:
    clean = redact(f"before {text}")
    assert "hunter2" not in clean
    assert clean.startswith("before ")
    assert REDACTED in clean


@pytest.mark.parametrize(
    "token",
    [
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI0MiJ9.c2lnbmF0dXJl",
        "ghp_0123456789abcdefghij0123456789",
        "AKIAIOSFODNN7EXAMPLE",
        "xoxb-1234567890-abcdef",
        "sk_live_0123456789abcdef",
    ],
)
def test_tokens_are_known_by_their_form(token: str) -> None:
    assert token not in redact(f"used {token} just now")


@pytest.mark.parametrize(
    "text",
    [
        "user 42 created post 17 in 3.2 ms",
        "the author is: nobody",
        "GET /users/42 200",
        "ValueError: limit must be <= 100, not 500",
        "https://a.test/x/y",
        "mongodb://db.test:27017/shop",
    ],
)
def test_harmless_texts_stay_as_they_are(text: str) -> None:
    assert redact(text) == text


@given(st.text())
def test_any_text_can_be_redacted(text: str) -> None:
    assert isinstance(redact(text), str)


@given(st.sampled_from(LEAKS), st.text(alphabet=st.characters(categories=["L", "Zs"]), max_size=20))
def test_a_leak_is_found_wherever_it_stands(leak: str, around: str) -> None:
    assert "hunter2" not in redact(f"{around} {leak}\n{around}")


def test_values_are_taken_out_by_the_name_they_are_kept_under() -> None:
    found = scrubbed(
        {
            "id": 7,
            "Password": "x",
            "nested": [{"refresh-token": 12, "name": "mail a@b.cd", "email": None}],
            "set": {"c=d"},
        }
    )
    assert found == {
        "id": 7,
        "Password": REDACTED,
        "nested": [{"refresh-token": REDACTED, "name": f"mail {REDACTED}", "email": None}],
        "set": ["c=d"],
    }
    assert is_sensitive("X-Forwarded-For")
    assert not is_sensitive("author")


def test_values_without_end_are_cut_off() -> None:
    endless: list[object] = []
    endless.append(endless)
    assert REDACTED in str(scrubbed(endless))
