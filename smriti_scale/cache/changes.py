"""Which keys and tags changed while a read or load was under way, so that it does not keep what it found before.

A read of Redis and the notice of an invalidation travel on different connections: the notice may be handled after
Redis was read and before the value is put into memory, where it would then stay for good. Every read therefore notes
the count of changes when it starts (`begin`), and keeps its result only if none of its names changed since.
"""

from __future__ import annotations

from collections.abc import Iterable


class Changes:
    """Counts invalidations and remembers the names of those that running reads may care about."""

    __slots__ = ("_active", "_at", "_count", "_everything")

    def __init__(self) -> None:
        self._count = 0
        self._everything = 0
        self._active: dict[int, int] = {}  # count at start -> reads under way; in ascending order
        self._at: dict[str, int] = {}  # name -> count at its last change; in ascending order

    def begin(self) -> int:
        """Note the start of a read; give the number to `since` and to `end`."""
        self._active[self._count] = self._active.get(self._count, 0) + 1
        return self._count

    def end(self, start: int) -> None:
        """The read is over: what only it needed is forgotten."""
        left = self._active[start] - 1
        if left:
            self._active[start] = left
            return
        del self._active[start]
        oldest = next(iter(self._active), None)
        if oldest is None:
            self._at.clear()
            return
        while self._at:
            name, at = next(iter(self._at.items()))
            if at > oldest:
                break
            del self._at[name]

    def record(self, names: Iterable[str]) -> None:
        """These keys and tags (see `tag_name`) change now."""
        self._count += 1
        if not self._active:
            return
        for name in names:
            self._at.pop(name, None)
            self._at[name] = self._count

    def record_everything(self) -> None:
        """All keys change now."""
        self._count += 1
        self._everything = self._count

    def since(self, start: int, names: Iterable[str]) -> bool:
        """Whether any of the names changed after `start`."""
        if self._count == start:
            return False
        return self._everything > start or any(self._at.get(name, 0) > start for name in names)


def tag_name(tag: str) -> str:
    """A tag's name among keys."""
    return f"\0{tag}"
