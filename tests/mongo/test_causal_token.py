from __future__ import annotations

import pytest
from bson.timestamp import Timestamp
from hypothesis import given, strategies as st

from smriti_scale.errors import ConfigurationError, InvalidCausalToken
from smriti_scale.mongo.causal_token import CausalToken, TokenSigner, cluster_label, packed, unpacked

SECRET = "a secret of thirty-two characters"
moments = st.integers(min_value=1, max_value=2**63 - 1)
tokens = st.builds(
    lambda one, two, signature, key: CausalToken(min(one, two), max(one, two), signature, key, cluster_label("a")),
    moments,
    moments,
    st.binary(min_size=20, max_size=20),
    st.integers(min_value=-(2**63), max_value=2**63 - 1),
)


@given(tokens)
def test_a_token_comes_back_as_it_went(token: CausalToken) -> None:
    assert CausalToken.decode(token.encode()) == token
    signer = TokenSigner(SECRET, ttl=60)
    assert signer.verify(signer.sign(token, now=1000.0), now=1059.0) == token
    assert CausalToken.from_reply(token.timestamp, token.gossip, cluster=token.cluster) == token


@given(tokens, tokens)
def test_merging_takes_the_later_of_both_in_any_order(one: CausalToken, other: CausalToken) -> None:
    merged = one.merge(other)
    assert merged.operation_time == max(one.operation_time, other.operation_time)
    assert merged.cluster_time == max(one.cluster_time, other.cluster_time)
    assert (merged.signature, merged.key_id) in {
        (token.signature, token.key_id) for token in (one, other) if token.cluster_time == merged.cluster_time
    }
    if one.cluster_time != other.cluster_time:
        assert merged == other.merge(one)
    assert merged.merge(one) == merged.merge(None) == merged


@given(st.text(max_size=40) | st.text(alphabet="AB-_=", min_size=80, max_size=260))
def test_whatever_text_comes_in_is_a_token_or_an_invalid_one(text: str) -> None:
    for read in (CausalToken.decode, lambda given: TokenSigner(SECRET, ttl=60).verify(given, now=0)):
        with pytest.raises(InvalidCausalToken):
            read(text)


@given(tokens, st.data())
def test_a_signed_token_with_any_bit_changed_is_refused(token: CausalToken, data: st.DataObject) -> None:
    import base64

    signer = TokenSigner(SECRET, ttl=60)
    signed = signer.sign(token, now=1000.0)
    raw = bytearray(base64.urlsafe_b64decode(signed + "=" * (-len(signed) % 4)))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(InvalidCausalToken) as refused:
        signer.verify(base64.urlsafe_b64encode(raw).decode().rstrip("="), now=1000.0)
    assert refused.value.reason == "signature"


def test_a_token_expires_and_its_key_can_be_rotated() -> None:
    token = CausalToken(5 << 32, 6 << 32)
    signed = TokenSigner(SECRET, ttl=60).sign(token, now=1000.0)
    with pytest.raises(InvalidCausalToken) as refused:
        TokenSigner(SECRET, ttl=60).verify(signed, now=1061.0)
    assert refused.value.reason == "expired"
    new = "another secret, of enough length"
    assert TokenSigner([new, SECRET], ttl=60).verify(signed, now=1000.0) == token
    with pytest.raises(InvalidCausalToken) as refused:
        TokenSigner([new], ttl=60).verify(signed, now=1000.0)
    assert refused.value.reason == "signature"


def test_tokens_of_two_clusters_do_not_merge() -> None:
    with pytest.raises(InvalidCausalToken) as refused:
        CausalToken(1, 1, cluster=cluster_label("a")).merge(CausalToken(2, 2, cluster=cluster_label("b")))
    assert refused.value.reason == "foreign"


def test_a_short_secret_is_refused() -> None:
    for secret in ("short", [], [SECRET, "short"]):
        with pytest.raises(ConfigurationError, match="16 bytes"):
            TokenSigner(secret, ttl=60)


def test_packed_moments_compare_as_timestamps_do() -> None:
    ordered = [Timestamp(1, 1), Timestamp(1, 2), Timestamp(2, 0), Timestamp(2**31, 2**32 - 1)]
    assert sorted(map(packed, reversed(ordered))) == list(map(packed, ordered))
    assert [unpacked(packed(moment)) for moment in ordered] == ordered
