"""What an entry is and when it may be served: policy and arithmetic, without clock or I/O.

Early refresh follows Vattani, Chierichetti and Lowenstein, "Optimal Probabilistic Cache Stampede Prevention" (VLDB
2015, "XFetch"): an entry is renewed `delta * beta * -ln(random)` seconds before it expires, where `delta` is what the
factory took. The paper draws on every read; here each copy in memory draws once when it is made, which costs a hit
nothing and lets every process draw for itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, NamedTuple

from smriti_scale.errors import ConfigurationError

MAX_TTL = 10 * 365 * 86_400.0
"""Ten years, in seconds: what is longer is a mistake in the unit."""

TTL = float | timedelta
State = Literal["fresh", "stale", "fallback", "dead"]


@dataclass(frozen=True, slots=True)
class Policy:
    """How long results live and what may be served meanwhile; all times in seconds. See `Cache.cached`."""

    ttl: float | Callable[[Any], TTL | None]
    stale: float = 0.0
    stale_if_error: float = 0.0
    error_throttle: float = 1.0
    soft_timeout: float | None = None
    timeout: float | None = None
    early: float = 1.0
    jitter: float = 0.0
    negative_ttl: float | None = None
    condition: Callable[[Any], bool] | None = None

    @property
    def longest(self) -> float:
        """Seconds that tag versions should be kept to outlive the entries."""
        ttl = MAX_TTL / 10 if callable(self.ttl) else self.ttl
        return ttl + max(self.stale, self.stale_if_error)

    def lifetime(self, value: Any) -> float:
        """Seconds that this value stays fresh, before jitter; 0 when it is not to be stored.

        Raises:
            ConfigurationError: the TTL computed from the value is no number or over ten years.
        """
        if self.condition is not None and not self.condition(value):
            return 0.0
        if value is None and self.negative_ttl is not None:
            return self.negative_ttl
        if not callable(self.ttl):
            return self.ttl
        computed = self.ttl(value)
        if computed is None:
            return 0.0
        ttl = computed.total_seconds() if isinstance(computed, timedelta) else computed
        if ttl <= 0:
            return 0.0
        return seconds(ttl, name="the ttl computed from the value")


def make_policy(
    ttl: TTL | Callable[[Any], TTL | None],
    *,
    stale: TTL = 0.0,
    stale_if_error: TTL = 0.0,
    error_throttle: TTL = 1.0,
    soft_timeout: float | None = None,
    timeout: float | None = None,
    early: float = 1.0,
    jitter: float = 0.0,
    negative_ttl: TTL | None = None,
    condition: Callable[[Any], bool] | None = None,
) -> Policy:
    """A checked policy.

    Raises:
        ConfigurationError: a time is negative, not finite or over ten years, or a factor out of range.
    """
    if not 0 <= jitter < 1:
        raise ConfigurationError(f"jitter is a fraction of the ttl, from 0 to below 1, not {jitter!r}")
    if not (early >= 0 and math.isfinite(early)):
        raise ConfigurationError(f"early is XFetch's beta: 0 (off) or positive, not {early!r}")
    for name, deadline in (("soft_timeout", soft_timeout), ("timeout", timeout)):
        if deadline is not None:
            seconds(deadline, name=name)
    if soft_timeout is not None and timeout is not None and soft_timeout > timeout:
        raise ConfigurationError(f"soft_timeout ({soft_timeout}) must not exceed timeout ({timeout})")
    return Policy(
        ttl=ttl if callable(ttl) else seconds(ttl, name="ttl"),
        stale=seconds(stale, name="stale", zero=True),
        stale_if_error=seconds(stale_if_error, name="stale_if_error", zero=True),
        error_throttle=seconds(error_throttle, name="error_throttle", zero=True),
        soft_timeout=soft_timeout,
        timeout=timeout,
        early=early,
        jitter=jitter,
        negative_ttl=None if negative_ttl is None else seconds(negative_ttl, name="negative_ttl"),
        condition=condition,
    )


def seconds(value: TTL, *, name: str, zero: bool = False) -> float:
    """A time as a checked number of seconds.

    Raises:
        ConfigurationError: not a number, negative, zero where that means nothing, or over ten years.
    """
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if type(number) not in {int, float} or not 0 <= number <= MAX_TTL:
        raise ConfigurationError(f"{name} must be a number of seconds up to ten years (or a timedelta), not {value!r}")
    if number == 0 and not zero:
        raise ConfigurationError(f"{name} must be positive, not {value!r}")
    return float(number)


class Record(NamedTuple):
    """An entry as it is stored: times are wall time (seconds since the epoch), ordered as named."""

    born: float
    fresh_until: float
    stale_until: float
    fallback_until: float
    delta: float
    """Seconds that the factory took."""
    fingerprint: str
    tags: tuple[tuple[str, bytes], ...]
    """Each tag with the version it had before the value was loaded."""
    payload: bytes

    def state(self, now: float) -> State:
        """`fresh`, `stale` (serve and refresh), `fallback` (serve if the factory fails) or `dead`.

        A clock that is set back, or another machine's that runs ahead, never lengthens a life: an entry from the
        future is as old as it can be told to be, that is new.
        """
        now = max(now, self.born)
        if now < self.fresh_until:
            return "fresh"
        if now < self.stale_until:
            return "stale"
        return "fallback" if now < self.fallback_until else "dead"


def make_record(
    payload: bytes,
    *,
    policy: Policy,
    lifetime: float,
    now: float,
    delta: float,
    fingerprint: str,
    tags: tuple[tuple[str, bytes], ...],
    random: float,
) -> Record:
    """The record of a value just loaded; `random` in [0, 1) shortens the lifetime by up to the policy's jitter."""
    fresh_until = now + lifetime * (1 - policy.jitter * random)
    return Record(
        born=now,
        fresh_until=fresh_until,
        stale_until=fresh_until + policy.stale,
        fallback_until=fresh_until + max(policy.stale, policy.stale_if_error),
        delta=delta,
        fingerprint=fingerprint,
        tags=tags,
        payload=payload,
    )


def early_by(delta: float, *, beta: float, random: float) -> float:
    """Seconds before expiry at which this copy asks for a refresh (XFetch); `random` in [0, 1)."""
    return 0.0 if beta == 0 else delta * beta * -math.log(1.0 - random)


class Entry:
    """An entry in memory. Times are of the monotonic clock. Slotted and mutable: a hit reads `until` and `value`."""

    __slots__ = (
        "born",
        "delta",
        "fallback_until",
        "fingerprint",
        "fresh_until",
        "hot",
        "hot_key",
        "key",
        "load",
        "promised",
        "raw",
        "size",
        "stale_until",
        "tags",
        "until",
        "used",
        "value",
    )

    def __init__(self, key: str, record: Record, *, now_wall: float, now: float) -> None:
        self.key = key
        shift = now - max(now_wall, record.born)
        self.born = record.born
        self.fresh_until = record.fresh_until + shift
        self.stale_until = record.stale_until + shift
        self.fallback_until = record.fallback_until + shift
        self.delta = record.delta
        self.fingerprint = record.fingerprint
        self.tags = tuple(tag for tag, _ in record.tags)
        self.until = self.fresh_until
        """Up to here a hit is served without another thought."""
        self.raw = b""
        self.value: Any = None
        self.load: Callable[[bytes], Any] | None = None
        """Makes a caller's own copy of `raw`; None when `value` is shared."""
        self.promised = False
        """The value is shared only because the caller promised not to change it."""
        self.size = 0
        self.used = False
        self.hot: dict[Any, Entry] | None = None
        self.hot_key: Any = None

    def give(self) -> Any:
        """The value, or this caller's own copy of it."""
        return self.value if self.load is None else self.load(self.raw)

    def state(self, now: float) -> State:
        """As `Record.state`, by the monotonic clock."""
        if now < self.fresh_until:
            return "fresh"
        if now < self.stale_until:
            return "stale"
        return "fallback" if now < self.fallback_until else "dead"
