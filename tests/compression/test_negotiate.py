"""RFC 9110 section 12.5.3, clause by clause."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from smriti_scale.compression.negotiate import Choice, choose, parse_accept_encoding

ALL = ("zstd", "br", "gzip")


@pytest.mark.parametrize(
    ("accept_encoding", "coding"),
    [
        (None, None),
        ("", None),
        (" ", None),
        ("gzip", "gzip"),
        ("GZip", "gzip"),
        ("x-gzip", "gzip"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip, deflate, br", "br"),
        ("notgzip", None),
        ("gzipped, brotli", None),
        ("deflate, compress", None),
        ("gzip;q=0", None),
        ("gzip;q=0.000", None),
        ("gzip; Q=0", None),
        ("gzip;q=0, *", "zstd"),
        ("zstd;q=0, *;q=0.5", "br"),
        ("*", "zstd"),
        ("*;q=0", None),
        ("*;q=0, gzip", "gzip"),
        ("gzip;q=1.0, br;q=0.5, zstd;q=0.1", "gzip"),
        ("br;q=0.5, gzip;q=0.5", "br"),
        ("identity, gzip;q=0.5", None),
        ("identity;q=0.5, gzip", "gzip"),
        ("identity, gzip", "gzip"),
        ("identity;q=0", None),
        ("identity;q=0, gzip;q=0.001", "gzip"),
        ("gzip;q=abc", None),
        ("gzip;q=2", None),
        ("gzip;q=-1", None),
        ("gzip;q=nan", None),
        ("gzip;q=1e0", None),
        ("gzip;q=0.1234", None),
        ("gzip;q=", None),
        ("gzip;level=9", "gzip"),
        ("gzip;level=9;q=0", None),
        ("gzip, gzip;q=0", None),
        (",,gzip,,", "gzip"),
        (";q=1", None),
        ("gzip\t;\tq=0.3 , br ; q=0.2", "gzip"),
    ],
)
def test_the_clients_preference_comes_first_and_the_servers_second(
    accept_encoding: str | None, coding: str | None
) -> None:
    assert choose(accept_encoding, ALL).coding == coding


@pytest.mark.parametrize(
    ("accept_encoding", "allowed"),
    [
        (None, True),
        ("gzip", True),
        ("identity;q=0", False),
        ("*;q=0", False),
        ("*;q=0, identity", True),
        ("*;q=0.5", True),
        ("gzip, identity;q=0", False),
        ("identity;q=0.001, *;q=0", True),
    ],
)
def test_the_plain_body_is_refused_only_by_name_or_by_a_star_of_zero(
    accept_encoding: str | None, allowed: bool
) -> None:
    assert choose(accept_encoding, ALL).identity_allowed is allowed


def test_among_equals_the_servers_order_decides() -> None:
    assert choose("br, gzip, zstd", ("gzip", "br")).coding == "gzip"
    assert choose("br, gzip, zstd", ("br", "gzip")).coding == "br"


def test_nothing_offered_means_nothing_coded() -> None:
    assert choose("gzip, br", ()) == Choice(None, identity_allowed=True)


@given(st.text(max_size=400))
def test_no_header_breaks_it_and_what_is_chosen_was_named_or_starred(header: str) -> None:
    choice = choose(header, ALL)
    weights = parse_accept_encoding(header)
    assert all(0.0 <= weight <= 1.0 for weight in weights.values())
    if choice.coding is not None:
        assert weights.get(choice.coding, weights.get("*", 0.0)) > 0


@given(st.dictionaries(st.sampled_from([*ALL, "identity", "*", "deflate"]), st.integers(0, 1000)))
def test_no_acceptable_coding_weighs_more_than_the_chosen_one(weights: dict[str, int]) -> None:
    header = ", ".join(f"{name};q={weight / 1000:.3f}" for name, weight in weights.items())
    choice = choose(header, ALL)
    values = {coding: weights.get(coding, weights.get("*", 0)) for coding in ALL}
    if choice.coding is None:
        assert max(values.values()) == 0 or weights.get("identity", -1) > max(values.values())
    else:
        assert values[choice.coding] == max(values.values()) > 0
        assert weights.get("identity", 0) <= values[choice.coding]
