"""The four ways of counting, on plain state: what memory uses, and what the Lua scripts do in Redis, step by step.

Each works on a small list that belongs to one caller and one rule:

- `roll` gives the state as it is at `now`, a new one where there is none yet. If the clock was set back, it shortens
  what would otherwise last too long. The new state is kept when units are taken, or when `ahead` said that the clock
  was set back (else a refused caller would be told to wait anew at every try).
- `available` says how many units may be taken.
- `take` takes them; `give_back` returns some that were not spent.
- `reset_at` and `retry_after` say when all, or enough, is back.

Times are microseconds since the epoch. Operations on floats are in the same order as in Lua, so that both agree to
the last bit.

Sources: fixed and moving windows and the sliding window counter as `limits` has them; GCRA: ITU-T I.371 (virtual
scheduling).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import Protocol, TypeAlias

from smriti_scale.ratelimit.rules import Rule, Strategy

State: TypeAlias = list[float]


class Algorithm(Protocol):
    """One way of counting; the functions keep no state of their own."""

    def roll(self, state: State | None, rule: Rule, now: int) -> State: ...
    def ahead(self, state: State, rule: Rule, now: int) -> bool: ...
    def available(self, state: State, rule: Rule, now: int) -> int: ...
    def take(self, state: State, rule: Rule, now: int, units: int) -> None: ...
    def give_back(self, state: State, rule: Rule, now: int, units: int, stamp: float) -> None: ...
    def stamp(self, state: State, now: int) -> int: ...
    def reset_at(self, state: State, rule: Rule, now: int) -> int: ...
    def retry_after(self, state: State, rule: Rule, now: int, units: int) -> int: ...
    def expires_at(self, state: State, rule: Rule, now: int) -> int: ...


class FixedWindow:
    """`[used, reset_at, refused]`: a window begins with the first request and all of it comes back at its end."""

    def roll(self, state: State | None, rule: Rule, now: int) -> State:
        if state is None or now >= state[1]:
            return [0, now + rule.window, 0]
        if state[1] > now + rule.window:
            return [state[0], now + rule.window, state[2]]
        return state

    def ahead(self, state: State, rule: Rule, now: int) -> bool:
        return state[1] > now + rule.window

    def available(self, state: State, rule: Rule, now: int) -> int:
        return int(max(0, rule.amount - state[0]))

    def take(self, state: State, rule: Rule, now: int, units: int) -> None:
        state[0] += units

    def give_back(self, state: State, rule: Rule, now: int, units: int, stamp: float) -> None:
        if state[1] == stamp:
            state[0] = max(0, state[0] - units)

    def stamp(self, state: State, now: int) -> int:
        return int(state[1])

    def reset_at(self, state: State, rule: Rule, now: int) -> int:
        return int(state[1])

    def retry_after(self, state: State, rule: Rule, now: int, units: int) -> int:
        return int(state[1] - now)

    def expires_at(self, state: State, rule: Rule, now: int) -> int:
        return int(state[1])


class SlidingWindowCounter:
    """`[start, current, previous]`: the last window's count fades out evenly while this one's builds up."""

    def roll(self, state: State | None, rule: Rule, now: int) -> State:
        begin = now - now % rule.window
        if state is None:
            return [begin, 0, 0]
        start, current, previous = state
        if begin == start:
            return state
        if begin == start + rule.window:
            return [begin, 0, current]
        if begin > start:
            return [begin, 0, 0]
        # The clock was set back: what was counted is what counts.
        return [begin, min(rule.amount, current + previous), 0]

    def ahead(self, state: State, rule: Rule, now: int) -> bool:
        return state[0] > now

    def available(self, state: State, rule: Rule, now: int) -> int:
        start, current, previous = state
        fading = math.ceil(previous * (rule.window - (now - start)) / rule.window)
        return int(max(0, rule.amount - current - fading))

    def take(self, state: State, rule: Rule, now: int, units: int) -> None:
        state[1] += units

    def give_back(self, state: State, rule: Rule, now: int, units: int, stamp: float) -> None:
        if state[0] == stamp:
            state[1] = max(0, state[1] - units)
        elif state[0] == stamp + rule.window:
            state[2] = max(0, state[2] - units)

    def stamp(self, state: State, now: int) -> int:
        return int(state[0])

    def reset_at(self, state: State, rule: Rule, now: int) -> int:
        return (
            int(state[0] + (2 * rule.window if state[1] else rule.window if state[2] else 0)) if any(state[1:]) else now
        )

    def retry_after(self, state: State, rule: Rule, now: int, units: int) -> int:
        # Solve used(t) + units <= amount for t, in this window or, where it cannot be, in the next.
        room = rule.amount - units - state[1]
        if room >= 0 and state[2] > 0:
            at = state[0] + rule.window - room * rule.window / state[2]
        else:
            at = state[0] + 2 * rule.window - max(0, rule.amount - units) * rule.window / max(1, state[1])
        return max(1, math.ceil(at - now) + 1)

    def expires_at(self, state: State, rule: Rule, now: int) -> int:
        return int(state[0] + 2 * rule.window)


class MovingWindow:
    """The moments of the units taken, oldest first: exact at every instant, at a list entry for each unit."""

    def roll(self, state: State | None, rule: Rule, now: int) -> State:
        if state is None:
            return []
        if state and state[-1] > now:  # the clock was set back: all of it counts from now
            live = len(state) - bisect_right(state, state[-1] - rule.window)
            state[:] = [now] * live
        gone = bisect_right(state, now - rule.window)
        if gone:
            del state[:gone]
        return state

    def ahead(self, state: State, rule: Rule, now: int) -> bool:
        return False  # `roll` has set it right in place

    def available(self, state: State, rule: Rule, now: int) -> int:
        return max(0, rule.amount - len(state))

    def take(self, state: State, rule: Rule, now: int, units: int) -> None:
        state.extend([now] * units)

    def give_back(self, state: State, rule: Rule, now: int, units: int, stamp: float) -> None:
        for _ in range(units):
            if stamp not in state:
                return
            state.remove(stamp)

    def stamp(self, state: State, now: int) -> int:
        return now

    def reset_at(self, state: State, rule: Rule, now: int) -> int:
        return int(state[-1] + rule.window) if state else now

    def retry_after(self, state: State, rule: Rule, now: int, units: int) -> int:
        if units > rule.amount:
            return rule.window
        return int(state[len(state) + units - rule.amount - 1] + rule.window - now)

    def expires_at(self, state: State, rule: Rule, now: int) -> int:
        return self.reset_at(state, rule, now)


class GCRA:
    """`[tat]`: the theoretical arrival time. Admits at most `burst + rate × time` units in any span of time."""

    def roll(self, state: State | None, rule: Rule, now: int) -> State:
        if state is None:
            return [float(now)]
        furthest = now + rule.window / rule.amount * rule.burst
        return [min(max(state[0], float(now)), furthest)]

    def ahead(self, state: State, rule: Rule, now: int) -> bool:
        return state[0] > now + rule.window / rule.amount * rule.burst

    def available(self, state: State, rule: Rule, now: int) -> int:
        interval = rule.window / rule.amount
        # Adding an interval many times rounds; a microsecond of slack keeps the last unit of a burst.
        slack = min(1.0, interval / 2)
        return max(0, math.floor((interval * rule.burst - (state[0] - now) + slack) / interval))

    def take(self, state: State, rule: Rule, now: int, units: int) -> None:
        state[0] += rule.window / rule.amount * units

    def give_back(self, state: State, rule: Rule, now: int, units: int, stamp: float) -> None:
        state[0] = max(float(now), state[0] - rule.window / rule.amount * units)

    def stamp(self, state: State, now: int) -> int:
        return 0

    def reset_at(self, state: State, rule: Rule, now: int) -> int:
        return math.ceil(state[0])

    def retry_after(self, state: State, rule: Rule, now: int, units: int) -> int:
        interval = rule.window / rule.amount
        return max(1, math.ceil(state[0] - now - interval * (rule.burst - min(units, rule.burst))))

    def expires_at(self, state: State, rule: Rule, now: int) -> int:
        return math.ceil(state[0])


ALGORITHMS: dict[Strategy, Algorithm] = {
    "fixed-window": FixedWindow(),
    "sliding-window-counter": SlidingWindowCounter(),
    "moving-window": MovingWindow(),
    "gcra": GCRA(),
}
