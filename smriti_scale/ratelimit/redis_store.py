"""Counters in Redis: one hash a caller, one call of one script for all limits of a request.

Calls go through the link's pipe: the decisions of one turn of the event loop share a write and a read.

Layout: `{prefix}:{caller}` is a hash with a field for each rule and scope; a moving window has a list beside it
(`{prefix}:{caller}|{field}`). The caller stands in braces, so on a cluster all of one caller's counters share a slot.
Time is the server's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any, TypeAlias

from redis.crc import key_slot

from smriti_scale.clock import Clock
from smriti_scale.ratelimit.rules import (
    MICROSECONDS,
    BanPolicy,
    Check,
    Decision,
    LimitStatus,
    Outcome,
    rule_of_field,
    status_of,
)
from smriti_scale.redis_link import RedisLink, RedisScript

_PARTS = ("fixed_window", "sliding_window_counter", "moving_window", "gcra", "decide")
_FIELDS = 5

Argument: TypeAlias = str | int | float


def script_source() -> str:
    """The four algorithms and the decision, as one script."""
    folder = resources.files("smriti_scale.ratelimit") / "lua"
    return "local algorithms = {}\n" + "\n".join((folder / f"{part}.lua").read_text("utf-8") for part in _PARTS)


class RedisStore:
    """Asks Redis.

    Args:
        link: the Redis.
        prefix: begins every key.
        timeout: deadline of a call, seconds.
        clock: a time other than the server's (tests).
    """

    def __init__(self, link: RedisLink, *, prefix: str, timeout: float, clock: Clock | None = None) -> None:
        self.link = link
        self._prefix = prefix
        self._clock = clock
        self._script = RedisScript(script_source())
        self._timeout = timeout

    async def decide(
        self,
        checks: Sequence[Check],
        *,
        wants: Sequence[int] | None = None,
        ban: BanPolicy | None = None,
        client: str = "",
    ) -> Decision:
        """Charge all checks or none.

        Args:
            checks: what to charge.
            wants: units to take if they are there (a lease), for each check; at least its cost.
            ban: when given, refusals are counted for `client`, and a banned one is refused.
            client: the caller that is banned, as keys hold it.
        """
        if self.link.is_cluster:
            return await self._decide_by_slot(checks, wants=wants, ban=ban, client=client)
        return await self._run(checks, wants=wants, ban=ban, client=client)

    async def give_back(self, parts: Iterable[tuple[Check, int, Argument]]) -> None:
        """Return units that were taken and not spent: (check, units, stamp) each."""
        by_slot: dict[int, list[tuple[Check, int, Argument]]] = {}
        for part in parts:
            slot = key_slot(self._key(part[0].identity).encode()) if self.link.is_cluster else 0
            by_slot.setdefault(slot, []).append(part)
        for group in by_slot.values():
            keys: list[str] = []
            arguments: list[Argument] = [1, self._now(), 0, 0, 0, 0, 0]
            for check, units, stamp in group:
                self._append(keys, arguments, check, units, stamp)
            await self._call(keys, arguments)

    async def peek(self, identity: str) -> tuple[list[LimitStatus], float]:
        """Every limit that counts something for a caller, and until when it is banned (epoch seconds, or 0)."""
        client: Any = self.link.client
        key = self._key(identity)
        fields = [_text(field) for field in await client.hkeys(key)]
        known = [(field, *found) for field in sorted(fields) if (found := rule_of_field(field))]
        checks = [Check(rule, identity, field, 0, False, None, ()) for field, rule, _ in known]
        decision = await self._run(checks, wants=None, ban=None, client="")
        statuses = [
            status_of(rule, scope, outcome) for (_, rule, scope), outcome in zip(known, decision.outcomes, strict=True)
        ]
        until = int(await client.hget(key, "!ban") or 0)
        return statuses, until / MICROSECONDS if until > decision.now else 0.0

    async def reset(self, identity: str) -> None:
        """Forget a caller: counters, refusals and ban."""
        client: Any = self.link.client
        key = self._key(identity)
        lists = [f"{key}|{name}" for field in await client.hkeys(key) if (name := _text(field)).startswith("M")]
        await client.unlink(key, *lists)

    async def clear(self) -> None:
        """Forget everybody under this prefix."""
        client: Any = self.link.client
        pattern = "".join(f"\\{mark}" if mark in "*?[]\\^" else mark for mark in self._prefix) + ":*"
        async for key in client.scan_iter(match=pattern, count=500):
            await client.unlink(key)

    async def check(self) -> bool:
        """Whether Redis answers."""
        return bool(await self.link.pipe.send("PING", timeout=self._timeout))

    async def _decide_by_slot(
        self, checks: Sequence[Check], *, wants: Sequence[int] | None, ban: BanPolicy | None, client: str
    ) -> Decision:
        """One script a slot at once, each all or nothing; where one refuses, the others' units are given back."""
        slots: dict[int, list[int]] = {}
        for index, check in enumerate(checks):
            slots.setdefault(key_slot(self._key(check.identity).encode()), []).append(index)
        home = key_slot(self._key(client).encode()) if ban else -1
        if ban:
            slots.setdefault(home, [])
        if len(slots) == 1:
            return await self._run(checks, wants=wants, ban=ban, client=client)
        parts = await asyncio.gather(
            *(
                self._run(
                    [checks[index] for index in indexes],
                    wants=[wants[index] for index in indexes] if wants else None,
                    ban=ban if slot == home else None,
                    client=client,
                )
                for slot, indexes in slots.items()
            )
        )
        now = max(part.now for part in parts)
        if all(part.allowed for part in parts):
            outcomes: dict[int, Outcome] = {}
            for indexes, part in zip(slots.values(), parts, strict=True):
                outcomes.update(zip(indexes, part.outcomes, strict=True))
            return Decision(True, "redis", checks, [outcomes[index] for index in range(len(checks))], now)
        await self.give_back(
            (check, outcome.granted, outcome.stamp)
            for part in parts
            if part.allowed
            for check, outcome in zip(part.checks, part.outcomes, strict=True)
            if outcome.granted > 0
        )
        refusing = {slot: part for slot, part in zip(slots, parts, strict=True) if not part.allowed}
        if ban and home not in refusing:  # where the client's own slot refused, it has counted that itself
            await self._strike(ban, client)
        return refusing.get(home) or next(iter(refusing.values()))

    async def _strike(self, ban: BanPolicy, client: str) -> None:
        await self._call([self._key(client)], [0, self._now(), 1, *ban.arguments, 1])

    async def _run(
        self, checks: Sequence[Check], *, wants: Sequence[int] | None, ban: BanPolicy | None, client: str
    ) -> Decision:
        keys: list[str] = []
        arguments: list[Argument]
        if ban is None:
            arguments = [0, self._now(), 0, 0, 0, 0, 0]
        else:
            keys.append(self._key(client))
            arguments = [0, self._now(), 1, *ban.arguments, 0]
        for index, check in enumerate(checks):
            self._append(keys, arguments, check, check.cost, wants[index] if wants else check.cost)
        reply = await self._call(keys, arguments)
        now: int = reply[0]
        if reply[1] and len(reply) == 2:
            return Decision(False, "banned", checks, (), now, wait=(reply[1] - now) / MICROSECONDS)
        outcomes = []
        refused = None
        for index, check in enumerate(checks):
            base = 2 + index * _FIELDS
            outcome = Outcome._make(reply[base : base + _FIELDS])
            if outcome[0] < 0 and not check[4] and refused is None:
                refused = index
            outcomes.append(outcome)
        return Decision(refused is None, "redis", checks, outcomes, now, refused)

    async def _call(self, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        # Once more when the connection breaks: rather is a request counted twice than a restart of Redis felt.
        return await self._script.send(self.link.pipe, keys, arguments, timeout=self._timeout, again=True)

    def _append(self, keys: list[str], arguments: list[Argument], check: Check, need: int, want: Argument) -> None:
        rule, identity, field, _, shadow, _, _ = check
        key = self._key(identity)
        if key in keys:
            at = keys.index(key) + 1
        else:
            keys.append(key)
            at = len(keys)
        beside = 0
        if rule.strategy == "moving-window":
            keys.append(f"{key}|{field}")
            beside = len(keys)
        arguments.extend((at, beside, field, *rule.static, need, want, 1 if shadow else 0))

    def _key(self, identity: str) -> str:
        return f"{self._prefix}:{{{identity}}}"

    def _now(self) -> int:
        return int(self._clock.time() * MICROSECONDS) if self._clock else 0


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")
