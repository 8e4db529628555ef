"""A person's day: from sunrise to the next sunrise where they are. Functions of values."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

from astral import Observer
from astral.sun import sunrise

_MAIN_CITIES: dict[str, tuple[float, float]] = {
    "Africa/Cairo": (30.04, 31.24),
    "Africa/Johannesburg": (-26.20, 28.05),
    "Africa/Lagos": (6.52, 3.38),
    "Africa/Nairobi": (-1.29, 36.82),
    "America/Chicago": (41.88, -87.63),
    "America/Denver": (39.74, -104.99),
    "America/Los_Angeles": (34.05, -118.24),
    "America/Mexico_City": (19.43, -99.13),
    "America/New_York": (40.71, -74.01),
    "America/Sao_Paulo": (-23.55, -46.63),
    "America/Toronto": (43.65, -79.38),
    "Asia/Bangkok": (13.76, 100.50),
    "Asia/Dhaka": (23.81, 90.41),
    "Asia/Dubai": (25.20, 55.27),
    "Asia/Hong_Kong": (22.32, 114.17),
    "Asia/Jakarta": (-6.21, 106.85),
    "Asia/Karachi": (24.86, 67.00),
    "Asia/Kathmandu": (27.72, 85.32),
    "Asia/Kolkata": (28.61, 77.21),
    "Asia/Shanghai": (31.23, 121.47),
    "Asia/Singapore": (1.35, 103.82),
    "Asia/Tokyo": (35.68, 139.65),
    "Australia/Sydney": (-33.87, 151.21),
    "Europe/Berlin": (52.52, 13.41),
    "Europe/London": (51.51, -0.13),
    "Europe/Paris": (48.86, 2.35),
    "Pacific/Auckland": (-36.85, 174.76),
}
_STAND_IN = time(6)  # where the sun does not rise


@dataclass(frozen=True, slots=True)
class Day:
    """One day of one person.

    Args:
        key: the local calendar date on which it began, `YYYY-MM-DD`.
        sunrise: its beginning, UTC.
        next_sunrise: its end, UTC.
    """

    key: str
    sunrise: datetime
    next_sunrise: datetime


def is_timezone(name: str) -> bool:
    """Whether `name` is an IANA zone; never touches a file, whatever the name."""
    return name in _zones()


def coordinates_of(timezone: str | None, location: dict[str, float] | None) -> tuple[float, float]:
    """Latitude and longitude: the person's own, else their zone's main city, else 0, 0."""
    if location is not None:
        return location["latitude"], location["longitude"]
    return _MAIN_CITIES.get(timezone or "", (0.0, 0.0))


def day_of(moment: datetime, *, timezone: str | None, location: dict[str, float] | None) -> Day:
    """The day that `moment` falls in.

    Args:
        moment: an aware time.
        timezone: the person's IANA zone; UTC when None or unknown.
        location: `{"latitude", "longitude"}` in degrees, or None.
    """
    zone = ZoneInfo(timezone) if timezone and is_timezone(timezone) else ZoneInfo("UTC")
    latitude, longitude = coordinates_of(timezone, location)
    here = moment.astimezone(zone).date()
    # Two days either way: coordinates need not lie in the zone.
    rises = sorted(_rise(latitude, longitude, here + timedelta(days=days), str(zone.key)) for days in range(-2, 3))
    began = max(rise for rise in rises if rise <= moment)
    ends = min(rise for rise in rises if rise > moment)
    return Day(began.astimezone(zone).date().isoformat(), began, ends)


def push_moment(day: Day, now: datetime, *, chance: random.Random) -> datetime:
    """When the day's quote is pushed: drawn uniformly, in whole seconds.

    From an hour after sunrise (and at least five minutes from now) to an hour before the next; if that time is over,
    5 to 15 minutes from now.
    """
    earliest = max(day.sunrise + timedelta(hours=1), now + timedelta(minutes=5))
    latest = day.next_sunrise - timedelta(hours=1)
    if earliest > latest:
        earliest, latest = now + timedelta(minutes=5), now + timedelta(minutes=15)
    earliest = _next_whole_second(earliest)
    seconds = int((latest - earliest).total_seconds())
    return earliest + timedelta(seconds=chance.randint(0, max(0, seconds)))


@lru_cache(maxsize=4096)
def _rise(latitude: float, longitude: float, on: date, zone: str) -> datetime:
    try:
        return sunrise(Observer(latitude, longitude), date=on, tzinfo=UTC)
    except ValueError:  # polar day or night
        return datetime.combine(on, _STAND_IN, ZoneInfo(zone)).astimezone(UTC)


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


def _next_whole_second(moment: datetime) -> datetime:
    whole = moment.replace(microsecond=0)
    return whole if whole == moment else whole + timedelta(seconds=1)
