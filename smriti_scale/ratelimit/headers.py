"""What an answer tells the client: `X-RateLimit-*`, `Retry-After`, and the IETF draft's fields."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from functools import cached_property

from starlette.datastructures import MutableHeaders

from smriti_scale.ratelimit.rules import MICROSECONDS, Check, Decision, Outcome


@dataclass(frozen=True)
class HeaderNames:
    """The names that slowapi's settings allow to change."""

    limit: str = "X-RateLimit-Limit"
    remaining: str = "X-RateLimit-Remaining"
    reset: str = "X-RateLimit-Reset"
    retry_after: str = "Retry-After"

    @cached_property
    def encoded(self) -> tuple[bytes, bytes, bytes, bytes]:
        """As they stand in a response: limit, remaining, reset, retry after."""
        names = (self.limit, self.remaining, self.reset, self.retry_after)
        limit, remaining, reset, retry_after = (name.lower().encode("latin-1") for name in names)
        return limit, remaining, reset, retry_after


def reported(decision: Decision) -> tuple[Check, Outcome] | None:
    """The check that headers speak of: the one that refused, else the one with the shortest window, as with slowapi."""
    outcomes = decision.outcomes
    if not outcomes:
        return None
    index = decision.refused
    if index is not None or len(outcomes) == 1:
        return decision.checks[index or 0], outcomes[index or 0]
    pairs = zip(decision.checks, outcomes, strict=True)
    return min(pairs, key=lambda pair: (pair[0].shadow, pair[0].rule.item))


def append_fields(
    headers: list[tuple[bytes, bytes]], check: Check, remaining: int, reset_at: int, now: int, names: HeaderNames
) -> bool:
    """`X-RateLimit-*` and `Retry-After` for an admitted request, where the application has set none of them itself.

    Returns:
        Whether they were added; else nothing was.
    """
    ours = names.encoded
    for name, _ in headers:
        if name.lower() in ours:
            return False
    limit, left, reset, retry_after = ours
    headers += (
        (limit, b"%d" % check.rule.amount),
        (left, b"%d" % remaining),
        (reset, b"%d" % (reset_at // MICROSECONDS + 1)),  # the first whole second at which the allowance is back
        (retry_after, b"%d" % max(0, -((now - reset_at) // MICROSECONDS))),
    )
    return True


def write_headers(
    headers: MutableHeaders,
    decision: Decision,
    *,
    names: HeaderNames,
    limits: bool,
    ietf: bool = False,
    http_date: bool = False,
) -> None:
    """Add the fields that are wanted; what the application has set itself stays.

    Args:
        headers: of the response.
        decision: what was decided for the request.
        names: how the fields are called.
        limits: write `X-RateLimit-*`, and `Retry-After` on every answer (as slowapi does).
        ietf: write `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers).
        http_date: `Retry-After` as a date in place of seconds.
    """
    refused = not decision.allowed and decision.source != "denied"
    told = reported(decision)
    if limits and told is not None:
        check, outcome = told
        plain = not (refused or http_date or ietf)
        if plain and append_fields(headers.raw, check, outcome.remaining, outcome.reset_at, decision.now, names):
            return
        if names.limit not in headers:
            headers[names.limit] = str(check.rule.amount)
            headers[names.remaining] = str(outcome.remaining)
            headers[names.reset] = str(outcome.reset_at // MICROSECONDS + 1)
    if ietf and decision.outcomes and "RateLimit-Policy" not in headers:
        headers["RateLimit-Policy"] = ", ".join(_policies(decision.checks))
        headers["RateLimit"] = ", ".join(_standings(decision))
    if refused:
        wait = max(1, math.ceil(decision.retry_after))
    elif limits and told is not None:
        wait = max(0, math.ceil((told[1].reset_at - decision.now) / MICROSECONDS))
    else:
        return
    _write_retry_after(headers, names.retry_after, wait, decision.now / MICROSECONDS, http_date=http_date)


def _write_retry_after(headers: MutableHeaders, name: str, wait: int, now: float, *, http_date: bool) -> None:
    """Never shorten a wait that the application asks for."""
    existing = headers.get(name)
    if existing is not None:
        asked = seconds_of(existing, now)
        if asked is None or asked >= wait:
            return
    headers[name] = formatdate(math.ceil(now) + wait, usegmt=True) if http_date else str(wait)


def seconds_of(retry_after: str, now: float) -> float | None:
    """Seconds that a `Retry-After` asks for, a number or a date; None when it is neither."""
    if retry_after.strip().isdigit():
        return float(retry_after)
    try:
        return parsedate_to_datetime(retry_after).timestamp() - now
    except (TypeError, ValueError):
        return None


def _policies(checks: Iterable[Check]) -> list[str]:
    return [f'"{_policy_name(check)}";q={check.rule.amount};w={check.rule.window // MICROSECONDS}' for check in checks]


def _standings(decision: Decision) -> list[str]:
    standings = []
    for check, outcome in zip(decision.checks, decision.outcomes, strict=True):
        seconds = max(0, math.ceil((outcome.reset_at - decision.now) / MICROSECONDS))
        standings.append(f'"{_policy_name(check)}";r={outcome.remaining};t={seconds}')
    return standings


def _policy_name(check: Check) -> str:
    """`5-per-1-minute`: names the policy, without quotes that a scope could smuggle in."""
    return str(check.rule).replace(" ", "-")
