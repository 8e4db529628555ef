"""Limits as values: a rule, a check of one rule for one caller, and what a decision says about each.

Pure: no I/O, no clock. Time is in microseconds since the epoch everywhere below the limiter.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple, TypeAlias

from limits import RateLimitItem, parse_many

from smriti_scale.errors import ConfigurationError

Strategy = Literal["fixed-window", "sliding-window-counter", "moving-window", "gcra"]
"""How a limit counts; see the explanation of the algorithms."""

OnFailure = Literal["memory", "deny", "allow"]
"""What happens while Redis cannot be asked: count in memory, refuse, or let pass."""

CODES: dict[str, str] = {"fixed-window": "F", "sliding-window-counter": "S", "moving-window": "M", "gcra": "G"}
MICROSECONDS = 1_000_000

_PLAIN_IDENTITY = re.compile(r"[\w.:/@+-]{1,96}", re.ASCII).fullmatch


@dataclass(frozen=True, slots=True)
class Rule:
    """One limit, parsed.

    Attributes:
        item: the limit as `limits` knows it; its text is what messages show.
        strategy: how it counts.
        amount: units per window.
        window: length of the window, microseconds.
        burst: for GCRA, units that may be spent at once; otherwise `amount`.
        key: names the rule inside a caller's counters; holds the strategy, so changing it starts afresh.
        static: what every call of the script says about the rule.
    """

    item: RateLimitItem
    strategy: Strategy
    amount: int
    window: int
    burst: int
    key: str
    static: tuple[str, int, int, int]

    def __str__(self) -> str:
        return str(self.item)

    def shared_among(self, instances: int) -> Rule:
        """This rule with an instance's part of the allowance, at least one unit."""
        if instances == 1:
            return self
        item = type(self.item)(max(1, self.amount // instances), self.item.multiples, self.item.namespace)
        return make_rule(item, self.strategy, max(1, self.burst // instances) if self.strategy == "gcra" else None)


@lru_cache(maxsize=4096)
def make_rule(item: RateLimitItem, strategy: Strategy, burst: int | None = None) -> Rule:
    """A rule from a parsed limit.

    Raises:
        ConfigurationError: an unknown strategy, or a burst where none can be.
    """
    if strategy not in CODES:
        raise ConfigurationError(f"unknown strategy {strategy!r}: use one of {', '.join(CODES)}")
    if burst is not None and (strategy != "gcra" or burst < 1):
        raise ConfigurationError(f"burst={burst} needs strategy='gcra' and at least 1; the strategy is {strategy!r}")
    if item.amount < 1:
        raise ConfigurationError(f"{item} admits nothing; use a deny list to refuse everything")
    window = int(item.get_expiry()) * MICROSECONDS
    size = burst or item.amount
    code = CODES[strategy]
    key = f"{code}{item.amount}/{item.multiples}{item.GRANULARITY.name}" + (f"b{burst}" if burst else "")
    return Rule(item, strategy, item.amount, window, size, key, (code, item.amount, window, size))


@lru_cache(maxsize=1024)
def parse_limits(text: str, strategy: Strategy, burst: int | None = None) -> tuple[Rule, ...]:
    """The rules of a limit string, for instance `"5/minute;100/hour"`.

    Raises:
        ConfigurationError: the string is not in `limits` notation.
    """
    try:
        items = parse_many(text)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"{text!r} is no rate limit ({error}): write '5/minute', '10 per 30 seconds' or '5/minute;100/hour'"
        ) from error
    return tuple(make_rule(item, strategy, burst) for item in items)


class Check(NamedTuple):
    """One rule to be asked for one caller.

    Attributes:
        rule: the rule.
        identity: the caller, as it is written into keys (see `identity_key`).
        field: the rule's key and what it counts (a route, a shared scope).
        cost: units to take.
        shadow: count and report, but do not refuse.
        limit: the slowapi limit it came from, for errors.
        names: the caller and scope as the application wrote them.
    """

    rule: Rule
    identity: str
    field: str
    cost: int
    shadow: bool
    limit: Any
    names: tuple[str, ...]


class Outcome(NamedTuple):
    """What a store says about one check.

    Attributes:
        granted: units taken (more than the cost when a lease was asked for); -1 when the rule refused.
        remaining: units that are left.
        reset_at: when the whole allowance is back, microseconds since the epoch.
        retry_after: microseconds until the same cost would be granted; 0 when it was.
        stamp: identifies what was taken, so that it can be given back.
    """

    granted: int
    remaining: int
    reset_at: int
    retry_after: int
    stamp: str | int | float


new_tuple = tuple.__new__
"""Makes a NamedTuple of all its fields, for hot paths: its own constructor costs twice as much."""

Source: TypeAlias = Literal["memory", "redis", "lease", "fallback", "unavailable", "denied", "banned", "allowed"]


class Decision(NamedTuple):
    """The answer for one request: all its limits, or none of them, were charged.

    Attributes:
        allowed: whether the request may pass.
        source: who decided.
        checks: what was asked.
        outcomes: the answers, in the same order; empty for deny lists, bans and an unreachable store.
        now: the store's time, microseconds since the epoch.
        refused: index of the first check that refused, or None.
        wait: seconds to wait, where no check tells.
    """

    allowed: bool
    source: Source
    checks: Sequence[Check]
    outcomes: Sequence[Outcome]
    now: int
    refused: int | None = None
    wait: float = 0.0

    @property
    def retry_after(self) -> float:
        """Seconds until the same request could pass; 0 when it did."""
        if self.allowed:
            return 0.0
        waits = [
            outcome.retry_after / MICROSECONDS
            for check, outcome in zip(self.checks, self.outcomes, strict=False)
            if outcome.granted < 0 and not check.shadow
        ]
        return max([self.wait, *waits])


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """Where one caller stands with one limit.

    Attributes:
        limit: the limit's text, `5 per 1 minute`.
        scope: what it counts: a route, an endpoint, a shared scope.
        strategy: how it counts.
        amount: units per window.
        remaining: units left.
        reset_at: when the whole allowance is back, seconds since the epoch.
        retry_after: seconds until one more unit is granted; 0 when it would be now.
    """

    limit: str
    scope: str
    strategy: Strategy
    amount: int
    remaining: int
    reset_at: float
    retry_after: float


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one caller stands.

    Attributes:
        limits: every limit that counts something for it.
        banned_until: seconds since the epoch, or None.
    """

    limits: tuple[LimitStatus, ...]
    banned_until: float | None


@dataclass(frozen=True, slots=True)
class BanPolicy:
    """Who is refused too often is refused altogether, for a while.

    Args:
        refusals: refusals that ban.
        within: seconds in which they are counted.
        duration: seconds that the ban lasts.
    """

    refusals: int
    within: float
    duration: float

    def __post_init__(self) -> None:
        if self.refusals < 1 or self.within <= 0 or self.duration <= 0:
            raise ConfigurationError(f"{self} bans nobody: all three must be positive")

    @property
    def arguments(self) -> tuple[int, int, int]:
        return self.refusals, int(self.within * MICROSECONDS), int(self.duration * MICROSECONDS)


@lru_cache(maxsize=8192)
def identity_key(identity: str) -> str:
    """An identity as keys hold it: as it is where short and plain, else by hash, so that no header can forge a key."""
    if _PLAIN_IDENTITY(identity):
        return identity
    return "#" + hashlib.blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=20).hexdigest()


def status_of(rule: Rule, scope: str, outcome: Outcome) -> LimitStatus:
    """What `peek` shows of one outcome."""
    return LimitStatus(
        limit=str(rule),
        scope=scope,
        strategy=rule.strategy,
        amount=rule.amount,
        remaining=outcome.remaining,
        reset_at=outcome.reset_at / MICROSECONDS,
        retry_after=outcome.retry_after / MICROSECONDS,
    )


_FIELD = re.compile(r"([FSMG])(\d+)/(\d+)([a-z]+)(?:b(\d+))? (.*)", re.DOTALL)


def rule_of_field(field: str) -> tuple[Rule, str] | None:
    """The rule and scope that a field was made of; None for what is no rule (a ban's counter)."""
    match = _FIELD.fullmatch(field)
    if match is None:
        return None
    code, amount, multiples, granularity, burst, scope = match.groups()
    strategy = next(name for name, known in CODES.items() if known == code)
    (rule,) = parse_limits(f"{amount} per {multiples} {granularity}", strategy, int(burst) if burst else None)
    return rule, scope
