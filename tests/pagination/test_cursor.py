"""Cursors: exact, short, signed, and bound to their list."""

from __future__ import annotations

import base64
import datetime as dt
import hmac
import random
from typing import Any

import bson
import pytest
from bson import ObjectId
from bson.codec_options import CodecOptions
from hypothesis import given, settings, strategies as st

from smriti_scale.errors import ConfigurationError, InvalidCursor
from smriti_scale.pagination import CursorCodec, Position, decode_cursor, encode_cursor
from smriti_scale.pagination.cursor import MAX_LENGTH
from smriti_scale.testing import ManualClock

from .test_walks import values
from .walking import SECRET

SORT = [("created_at", -1), ("_id", -1)]
MOMENT = dt.datetime(2026, 11, 23, 12, 30, 31, 285000)
POST = [MOMENT, ObjectId("6b048377e21b1f9afc596000")]


def _bson(items: Any) -> bytes:
    return bson.encode({"": list(items)})


@given(st.lists(values, min_size=1, max_size=5), st.booleans(), st.booleans(), st.booleans())
def test_any_position_comes_back_exactly(items: list[Any], backward: bool, inclusive: bool, ties: bool) -> None:
    codec = CursorCodec(SECRET)
    binding = codec.bind(sort=SORT, filter={"a": 1}, scope="ana", collection="posts", options=CodecOptions())
    position = Position(tuple(items), backward=backward, inclusive=inclusive, ties=ties)
    read = codec.decode(codec.encode(position, binding), binding)
    assert (read.backward, read.inclusive, read.ties) == (backward, inclusive, ties)
    assert _bson(read.values) == _bson(items)


def test_a_cursor_for_two_fields_is_url_safe_and_short() -> None:
    for expires in (None, 3600.0):
        token = encode_cursor(POST, secret=SECRET, sort=SORT, filter={"user_id": "42"}, scope="ana", expires=expires)
        assert len(token) <= 80
        assert set(token) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    name = "a name of sixty characters, which is as long as names will get"
    assert len(encode_cursor([name, POST[1]], secret=SECRET, sort=[("name", 1), ("_id", 1)])) <= 160


def test_encode_and_decode_stand_alone() -> None:
    token = encode_cursor(POST, secret=SECRET, sort=SORT, scope="ana")
    moment, identity = decode_cursor(token, secret=SECRET, sort=SORT, scope="ana")
    assert (moment, identity) == (MOMENT.replace(tzinfo=dt.UTC), POST[1])


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"sort": [("created_at", 1), ("_id", 1)]}, "sort"),
        ({"sort": [("_id", -1)]}, "sort"),
        ({"filter": {"user_id": "43"}}, "filter"),
        ({"filter": {}}, "filter"),
        ({"scope": "bo"}, "scope"),
        ({"scope": None}, "scope"),
        ({"scope": ""}, "scope"),
        ({"secret": "another secret, of 32 bytes too!"}, "signature"),
    ],
)
def test_a_cursor_of_another_list_user_or_secret_is_refused_with_the_reason(other: dict[str, Any], reason: str) -> None:
    own: dict[str, Any] = {"secret": SECRET, "sort": SORT, "filter": {"user_id": "42"}, "scope": "ana"}
    with pytest.raises(InvalidCursor) as refusal:
        decode_cursor(encode_cursor(POST, **own), **(own | other))
    assert refusal.value.reason == reason
    assert str(refusal.value) == "invalid cursor"


def test_the_order_of_keys_and_of_in_values_does_not_change_the_list() -> None:
    first = {"user_id": {"$in": [3, 1, 2]}, "visibility": "public", "$or": [{"a": 1, "b": 2}]}
    second = {"$or": [{"b": 2, "a": 1}], "visibility": "public", "user_id": {"$in": [1, 2, 3]}}
    token = encode_cursor(POST, secret=SECRET, sort=SORT, filter=first)
    assert decode_cursor(token, secret=SECRET, sort=SORT, filter=second)[1] == POST[1]


def test_the_key_order_of_a_literal_subdocument_is_part_of_the_list() -> None:
    token = encode_cursor(POST, secret=SECRET, filter={"place": {"x": 1, "y": 2}})
    with pytest.raises(InvalidCursor):
        decode_cursor(token, secret=SECRET, filter={"place": {"y": 2, "x": 1}})


def test_parts_of_a_list_cannot_be_shifted_into_one_another() -> None:
    codec = CursorCodec(SECRET)
    token = codec.encode(POST, codec.bind(collection="posts", scope="ab"))
    for other in (codec.bind(collection="postsa", scope="b"), codec.bind(collection="posts\x00a\x011", scope="ab")):
        with pytest.raises(InvalidCursor):
            codec.decode(token, other)
    shifted = codec.bind(sort=[("a", 1), ("b", 1)]), codec.bind(sort=[("a\x011\x00b", 1)])
    assert shifted[0].digest != shifted[1].digest


def test_a_cursor_expires_when_its_lifetime_is_over(clock: ManualClock) -> None:
    codec = CursorCodec(SECRET, expires=60, clock=clock)
    token = codec.encode(POST)
    clock.advance(58)
    assert codec.decode(token).values[1] == POST[1]
    clock.advance(3)
    with pytest.raises(InvalidCursor) as refusal:
        codec.decode(token)
    assert refusal.value.reason == "expired"


def test_secrets_rotate_without_breaking_cursors_in_flight() -> None:
    old, new = "the old secret, 24 bytes", "the new secret, 24 bytes"
    before = encode_cursor(POST, secret=old)
    assert decode_cursor(before, secret=[new, old])[1] == POST[1]
    after = encode_cursor(POST, secret=[new, old])
    assert decode_cursor(after, secret=new)[1] == POST[1]
    with pytest.raises(InvalidCursor):
        decode_cursor(before, secret=new)


@pytest.mark.parametrize("secret", ["", "short", b"fifteen bytes..", []])
def test_a_weak_secret_is_refused_when_the_codec_is_made(secret: Any) -> None:
    with pytest.raises(ConfigurationError, match="16"):
        CursorCodec(secret)


def test_the_signature_is_the_standard_hmac_of_the_list_and_the_body() -> None:
    codec = CursorCodec(SECRET)
    binding = codec.bind(sort=SORT, filter={"a": 1}, scope="ana")
    raw = base64.urlsafe_b64decode(codec.encode(POST, binding) + "==")
    body, signature = raw[:-16], raw[-16:]
    key = hmac.digest(SECRET.encode(), b"smriti_scale.pagination cursor signature 1", "sha256")
    assert signature == hmac.digest(key, binding.digest + body, "blake2b")[:16]


def test_the_secret_itself_signs_nothing() -> None:
    """The key is derived for this purpose: a service that signs with the bare secret elsewhere lends no signature."""
    codec = CursorCodec(SECRET)
    import hashlib
    import hmac

    raw = _raw(codec.encode(POST))
    body, binding = raw[:-16], codec.bind()
    assert hmac.digest(SECRET.encode(), binding.digest + body, hashlib.sha256)[:16] != raw[-16:]


@pytest.mark.parametrize(
    "token", ["", "A", "=", "not a cursor", "é" * 40, "A" * (MAX_LENGTH + 1), "A" * 200, "\0" * 60]
)
def test_text_that_is_no_cursor_is_malformed_or_unsigned(token: str) -> None:
    with pytest.raises(InvalidCursor):
        CursorCodec(SECRET).decode(token)


def test_only_text_is_a_cursor() -> None:
    for thing in (None, 7, b"bytes", ["x"]):
        with pytest.raises(InvalidCursor):
            CursorCodec(SECRET).decode(thing)  # type: ignore[arg-type]


def test_one_position_has_one_spelling() -> None:
    codec = CursorCodec(SECRET)
    token = codec.encode(POST)
    for spelling in (token + "=", token + "==", token + "\n", " " + token, token[:10] + "\n" + token[10:], token + "A"):
        with pytest.raises(InvalidCursor):
            codec.decode(spelling)


def test_nothing_inside_is_read_before_the_signature_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = CursorCodec(SECRET)
    token = codec.encode(POST)
    read: list[bytes] = []

    def spy(data: bytes, **options: Any) -> dict[str, Any]:
        read.append(data)
        return bson.BSON(data).decode()

    monkeypatch.setattr("smriti_scale.pagination.cursor.bson.decode", spy)
    for altered in _altered(token, random.Random(1), 300):
        with pytest.raises(InvalidCursor):
            codec.decode(altered)
    assert read == []


def test_altered_cursors_are_invalid_and_nothing_else() -> None:
    _refuses_all_alterations(2_000)


@pytest.mark.long
def test_a_hundred_thousand_altered_cursors_are_invalid_and_nothing_else() -> None:
    _refuses_all_alterations(100_000)


def test_values_too_long_for_a_url_are_refused_with_advice() -> None:
    with pytest.raises(ConfigurationError, match="sort by a shorter field"):
        encode_cursor(["x" * MAX_LENGTH], secret=SECRET)


@settings(max_examples=200)
@given(
    st.text(max_size=120) | st.binary(max_size=90).map(lambda raw: base64.urlsafe_b64encode(raw).rstrip(b"=").decode())
)
def test_arbitrary_text_is_never_a_cursor(text: str) -> None:
    with pytest.raises(InvalidCursor):
        CursorCodec(SECRET).decode(text)


def _refuses_all_alterations(count: int) -> None:
    randomness = random.Random(count)
    codec = CursorCodec([SECRET, "an older secret of 32 bytes, yes"])
    originals = []
    for number in range(50):
        binding = codec.bind(sort=SORT, filter={"user_id": number}, scope=f"user {number}")
        originals.append((codec.encode([dt.datetime(2026, 1, 1, 0, number), ObjectId()], binding), binding))
    for round_ in range(count // len(originals)):
        token, binding = originals[round_ % len(originals)]
        for altered in _altered(token, randomness, len(originals)):
            try:
                codec.decode(altered, binding)
            except InvalidCursor:
                continue
            raise AssertionError(f"accepted {altered!r} for {token!r}")
    assert all(codec.decode(token, binding) for token, binding in originals)


def _altered(token: str, randomness: random.Random, count: int) -> list[str]:
    """Flipped bits, changed, swapped, dropped and doubled characters, cut ends, pieces joined."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    altered: list[str] = []
    while len(altered) < count:
        at = randomness.randrange(len(token))
        kind = randomness.randrange(8)
        if kind == 0:
            raw = bytearray(_raw(token))
            raw[randomness.randrange(len(raw))] ^= 1 << randomness.randrange(8)
            made = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
        elif kind == 1:
            made = token[:at] + randomness.choice(alphabet) + token[at + 1 :]
        elif kind == 2:
            made = token[:at] + token[at + 1 :]
        elif kind == 3:
            made = token[:at] + token[at] + token[at:]
        elif kind == 4:
            made = token[:at]
        elif kind == 5:
            made = token[at:] + token[:at]
        elif kind == 6:
            made = token[:at] + chr(randomness.randrange(0x110000)) + token[at:]
        else:
            raw = bytearray(_raw(token))
            start = randomness.randrange(len(raw))
            end = randomness.randrange(start, len(raw)) + 1
            raw[start:end] = randomness.randbytes(end - start)
            made = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
        if made != token:
            altered.append(made)
    return altered


def _raw(token: str) -> bytes:
    return base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
