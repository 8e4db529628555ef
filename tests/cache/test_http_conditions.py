"""Entity tags and conditions, clause by clause of RFC 9110 sections 8.8 and 13."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from bson import ObjectId
from hypothesis import given, strategies as st
from starlette.exceptions import HTTPException
from starlette.requests import Request

from smriti_scale.cache.http import PreconditionFailed, PreconditionRequired, check_preconditions
from smriti_scale.cache.http.conditions import (
    EntityTag,
    body_etag,
    http_date,
    is_not_modified,
    parse_etag,
    parse_etags,
    parse_http_date,
    version_etag,
)
from smriti_scale.errors import ScaleError

MONDAY = "Mon, 01 Jan 2024 00:00:00 GMT"
TUESDAY = "Tue, 02 Jan 2024 00:00:00 GMT"


@pytest.mark.parametrize(
    ("condition", "etag", "expected"),
    [
        ('"a"', '"a"', True),
        ('W/"a"', '"a"', True),
        ('"a"', 'W/"a"', True),
        ('"b", "a"', '"a"', True),
        ('"b","a"', '"a"', True),
        ('"b"', '"a"', False),
        ("*", '"a"', True),
        (" * ", '"a"', True),
        ("a", '"a"', False),
        ('"A"', '"a"', False),
        ('"a,b"', '"a,b"', True),
        ('"a,b"', '"b"', False),
        ("", '"a"', False),
        ('"', '"a"', False),
        ('"a"', None, False),
        ('w/"a"', '"a"', True),
        ('"a"', "a", False),
    ],
)
def test_if_none_match_compares_weakly_over_lists(condition: str, etag: str | None, expected: bool) -> None:
    found = is_not_modified(if_none_match=condition, if_modified_since=None, etag=etag, last_modified=None)
    assert found is expected


@pytest.mark.parametrize(
    ("since", "modified", "expected"),
    [
        (MONDAY, MONDAY, True),
        (TUESDAY, MONDAY, True),
        (MONDAY, TUESDAY, False),
        ("yesterday", MONDAY, False),
        (MONDAY, "yesterday", False),
        (None, MONDAY, False),
        (MONDAY, None, False),
        ("Mon, 99 Jan 2024 99:00:00 GMT", MONDAY, False),
        ("9" * 5000, MONDAY, False),
    ],
)
def test_if_modified_since_compares_dates_and_ignores_what_is_none(
    since: str | None, modified: str | None, expected: bool
) -> None:
    found = is_not_modified(if_none_match=None, if_modified_since=since, etag='"a"', last_modified=modified)
    assert found is expected


def test_if_modified_since_does_not_count_beside_if_none_match() -> None:
    assert not is_not_modified(if_none_match='"old"', if_modified_since=TUESDAY, etag='"new"', last_modified=MONDAY)


@given(st.text(st.characters(max_codepoint=255), max_size=80))
def test_no_header_breaks_the_parsers(text: str) -> None:
    for tag in parse_etags(text):
        assert str(tag) in text
    parse_http_date(text)
    found = parse_etag(text)
    assert found is None or str(found) == text.strip()


@given(st.text(max_size=40))
def test_any_version_makes_a_valid_tag_and_two_make_two(version: str) -> None:
    tag = version_etag(version)
    assert parse_etag(tag) == EntityTag(tag[1:-1])
    assert "~" not in tag
    assert version_etag(version + "x") != tag


def test_versions_of_every_usual_kind_make_tags() -> None:
    assert version_etag(7) == '"7"'
    assert version_etag(ObjectId("0" * 24)) == f'"{"0" * 24}"'
    assert version_etag(datetime(2024, 1, 1, tzinfo=UTC)) == '"2024-01-01T00:00:00+00:00"'


def test_a_body_has_one_tag_in_every_process() -> None:
    assert body_etag(b"hello") == '"46fb7408d4f285228f4af516ea25851b"'


def test_dates_are_written_in_gmt_and_a_naive_one_is_utc() -> None:
    assert http_date(datetime(2024, 1, 1)) == MONDAY
    assert http_date(datetime(2024, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))) == MONDAY
    assert parse_http_date(MONDAY) == datetime(2024, 1, 1, tzinfo=UTC)


def _write(**headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "PUT", "path": "/", "headers": raw})


@pytest.mark.parametrize(
    ("headers", "etag", "passes"),
    [
        ({}, '"1"', True),
        ({"if_match": '"1"'}, '"1"', True),
        ({"if_match": '"0", "1"'}, '"1"', True),
        ({"if_match": '"0"'}, '"1"', False),
        ({"if_match": 'W/"1"'}, '"1"', False),
        ({"if_match": '"1"'}, 'W/"1"', False),
        ({"if_match": "*"}, '"1"', True),
        ({"if_match": "*"}, None, False),
        ({"if_match": '"1"'}, None, False),
        ({"if_none_match": "*"}, None, True),
        ({"if_none_match": "*"}, '"1"', False),
        ({"if_none_match": '"1"'}, '"1"', False),
        ({"if_none_match": 'W/"1"'}, '"1"', False),
        ({"if_none_match": '"0"'}, '"1"', True),
        ({"if_match": '"1"', "if_none_match": '"1"'}, '"1"', False),
        ({"if_unmodified_since": MONDAY}, '"1"', True),
    ],
)
def test_a_write_passes_only_under_conditions_that_hold(
    headers: dict[str, str], etag: str | None, passes: bool
) -> None:
    if passes:
        check_preconditions(_write(**headers), etag)
        return
    with pytest.raises(PreconditionFailed) as refused:
        check_preconditions(_write(**headers), etag)
    assert refused.value.status_code == 412
    assert (refused.value.headers or {}).get("ETag") == etag
    assert isinstance(refused.value, HTTPException | ScaleError)


def test_if_unmodified_since_is_held_against_the_last_change() -> None:
    changed = datetime(2024, 1, 1, 12, tzinfo=UTC)
    check_preconditions(_write(if_unmodified_since=TUESDAY), '"1"', last_modified=changed)
    with pytest.raises(PreconditionFailed):
        check_preconditions(_write(if_unmodified_since=MONDAY), '"1"', last_modified=changed)
    check_preconditions(_write(if_unmodified_since="nonsense"), '"1"', last_modified=changed)


def test_a_write_without_a_condition_can_be_refused() -> None:
    with pytest.raises(PreconditionRequired) as refused:
        check_preconditions(_write(), '"1"', required=True)
    assert refused.value.status_code == 428
    check_preconditions(_write(if_match='"1"'), '"1"', required=True)
    check_preconditions(_write(if_none_match="*"), None, required=True)


def test_a_weakened_tag_can_be_accepted_where_a_proxy_weakens() -> None:
    check_preconditions(_write(if_match='W/"1"'), '"1"', accept_weak=True)
    with pytest.raises(PreconditionFailed):
        check_preconditions(_write(if_match='W/"0"'), '"1"', accept_weak=True)
