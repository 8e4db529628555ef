from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings, strategies as st

from examples.smriti.quotes.day import Day, coordinates_of, day_of, is_timezone, push_moment


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_before_sunrise_it_is_still_yesterday() -> None:
    # Delhi, 23 November: the sun rises at 06:51 local, 01:21 UTC.
    before = day_of(at("2026-11-23T01:00"), timezone="Asia/Kolkata", location=None)
    after = day_of(at("2026-11-23T02:00"), timezone="Asia/Kolkata", location=None)
    assert (before.key, after.key) == ("2026-11-22", "2026-11-23")
    assert before.next_sunrise == after.sunrise
    assert abs(after.sunrise - at("2026-11-23T01:21")) < timedelta(minutes=3)


def test_where_the_sun_does_not_rise_six_oclock_stands_in() -> None:
    tromso = {"latitude": 69.65, "longitude": 18.96}
    day = day_of(at("2026-12-21T12:00"), timezone="Europe/Oslo", location=tromso)
    assert day.key == "2026-12-21"
    assert day.sunrise.astimezone(ZoneInfo("Europe/Oslo")).hour == 6


def test_coordinates_are_ones_own_then_the_zones_city_then_zero() -> None:
    assert coordinates_of("Asia/Tokyo", {"latitude": 0.0, "longitude": 0.0}) == (0.0, 0.0)
    assert coordinates_of("Asia/Tokyo", None) == (35.68, 139.65)
    assert coordinates_of("Antarctica/Troll", None) == coordinates_of(None, None) == (0.0, 0.0)


@pytest.mark.parametrize("name", ["", "Asia", "../../etc/passwd", "Europe/Nowhere", "x" * 5_000, "Asia/Kolkata\0"])
def test_what_is_no_zone_is_known_without_touching_a_file(name: str) -> None:
    assert not is_timezone(name)
    assert day_of(at("2026-11-23T12:00"), timezone=name, location=None).key


@settings(max_examples=200, deadline=None)
@given(
    moment=st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC)),
    zone=st.sampled_from(["UTC", "Asia/Kolkata", "America/New_York", "Pacific/Kiritimati", "Pacific/Niue", None]),
    latitude=st.floats(-90, 90),
    longitude=st.floats(-180, 180),
)
def test_every_moment_everywhere_lies_in_its_day(
    moment: datetime, zone: str | None, latitude: float, longitude: float
) -> None:
    day = day_of(moment, timezone=zone, location={"latitude": latitude, "longitude": longitude})
    assert day.sunrise <= moment < day.next_sunrise
    assert day.next_sunrise - day.sunrise < timedelta(days=2)
    assert day.sunrise.astimezone(ZoneInfo(zone or "UTC")).date().isoformat() == day.key


def test_the_push_falls_between_an_hour_after_sunrise_and_an_hour_before_the_next() -> None:
    day = Day("2026-11-23", at("2026-11-23T01:21:30"), at("2026-11-24T01:22:00"))
    chance = random.Random(1)
    moments = [push_moment(day, at("2026-11-23T01:30:00.250"), chance=chance) for _ in range(2_000)]
    assert all(day.sunrise + timedelta(hours=1) <= each <= day.next_sunrise - timedelta(hours=1) for each in moments)
    assert all(each.microsecond == 0 for each in moments)
    middle = day.sunrise + (day.next_sunrise - day.sunrise) / 2
    assert 0.45 < sum(each < middle for each in moments) / len(moments) < 0.55


def test_a_late_start_is_at_least_five_minutes_ahead_and_a_lost_day_within_a_quarter_of_an_hour() -> None:
    day = Day("2026-11-23", at("2026-11-23T01:21"), at("2026-11-24T01:22"))
    chance = random.Random(1)
    late = at("2026-11-23T20:00")
    assert all(push_moment(day, late, chance=chance) >= late + timedelta(minutes=5) for _ in range(200))
    lost = at("2026-11-24T00:30")
    for _ in range(200):
        moment = push_moment(day, lost, chance=chance)
        assert lost + timedelta(minutes=5) <= moment <= lost + timedelta(minutes=15)
