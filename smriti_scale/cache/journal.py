"""What this process invalidated: told to the others now, and again after Redis was away.

An invalidation that could not be delivered must be made good, and one that was may have been lost with a server that
failed over before it replicated. On recovery both kinds are sent again; doing so twice costs a reload, no more.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass

import orjson

_REPLAY_WINDOW = 30.0  # seconds; asynchronous replication that lags further behind a failover is beyond help
_MAX_ENTRIES = 10_000
_MAX_NAMES = 10_000


@dataclass(frozen=True, slots=True)
class Invalidation:
    """One change: of keys, of tags, or of everything, with the causal position of the write behind it."""

    keys: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    everything: bool = False
    position: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """What the channel carries: a change, or the key that somebody has finished loading."""

    origin: str
    change: Invalidation | None = None
    finished: str | None = None

    def pack(self) -> bytes:
        if self.change is None:
            return orjson.dumps({"o": self.origin, "f": self.finished})
        change = self.change
        return orjson.dumps({"o": self.origin, "k": change.keys, "t": change.tags, "e": change.everything})

    @classmethod
    def unpack(cls, raw: bytes) -> Message | None:
        """The message, or None when it is not one."""
        try:
            fields = orjson.loads(raw)
            if "f" in fields:
                return cls(origin=fields["o"], finished=fields["f"])
            change = Invalidation(tuple(fields["k"]), tuple(fields["t"]), bool(fields["e"]))
            return cls(origin=fields["o"], change=change)
        except (ValueError, TypeError, KeyError):
            return None


class Journal:
    """The changes to send again when Redis is back."""

    def __init__(self) -> None:
        self._delivered: deque[tuple[float, Invalidation]] = deque(maxlen=_MAX_ENTRIES)
        self._owed: deque[Invalidation] = deque()

    def delivered(self, change: Invalidation, *, now: float) -> None:
        """Redis confirmed the change."""
        self._delivered.append((now, change))
        while self._delivered[0][0] < now - _REPLAY_WINDOW:
            self._delivered.popleft()

    def owe(self, change: Invalidation) -> None:
        """Redis did not. Too many of these become one change of everything."""
        if len(self._owed) < _MAX_ENTRIES:
            self._owed.append(change)
        elif not self._owed[0].everything:
            self._owed.appendleft(Invalidation(everything=True, position=change.position))

    def take(self, *, now: float) -> list[Invalidation]:
        """What to send again: the recent deliveries and all that is owed. The caller notes anew what became of each."""
        owed, self._owed = self._owed, deque()
        if owed and owed[0].everything:
            return [owed[0]]
        recent = [change for at, change in self._delivered if at >= now - _REPLAY_WINDOW]
        self._delivered.clear()
        return [*recent, *owed]

    def __bool__(self) -> bool:
        return bool(self._owed or self._delivered)


class Positions:
    """The causal positions of this process's own recent changes, by key and tag, for loads without Redis."""

    def __init__(self, *, window: float) -> None:
        self._window = window
        self._by_name: OrderedDict[str, dict[str, float]] = OrderedDict()

    def note(self, names: Iterable[str], position: str, *, now: float) -> None:
        """These names changed at this position."""
        for name in names:
            positions = self._by_name.setdefault(name, {})
            positions[position] = now
            self._by_name.move_to_end(name)
        while self._by_name:
            name, positions = next(iter(self._by_name.items()))
            if len(self._by_name) <= _MAX_NAMES and max(positions.values()) >= now - self._window:
                break
            del self._by_name[name]

    def of(self, names: Iterable[str], *, now: float) -> tuple[str, ...]:
        """The positions that a load of these names must not read before."""
        found = {
            position
            for name in names
            for position, at in self._by_name.get(name, {}).items()
            if at >= now - self._window
        }
        return tuple(sorted(found))
