"""The memory tier: bounded by entries and by bytes, evicting what was not used lately.

cachetools keeps the order and the bounds; eviction gives an entry that was hit since it last came up a second chance
(the CLOCK algorithm), so that a hit only sets a bit. Tags find their entries by an index.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

import cachetools

from smriti_scale.cache.entry import Entry

OVERHEAD = 900
"""Bytes that an entry takes beside its key and value: the object, its places in the dictionaries, a call's arguments.
Measured by `tests/cache/test_memory.py`, as the next."""

TAG_OVERHEAD = 200
"""Bytes that a tag of an entry takes beside its text: its place in the index, half of one that no other entry has."""

_MAX_CHANCES = 64  # so that one insertion never walks the whole tier


class _SecondChance(cachetools.FIFOCache[str, Entry]):
    def __init__(self, max_bytes: int, owner: MemoryStore) -> None:
        super().__init__(max_bytes, getsizeof=lambda entry: entry.size)
        self._owner = owner

    def popitem(self) -> tuple[str, Entry]:
        key, entry = super().popitem()
        for _ in range(_MAX_CHANCES):
            if not entry.used:
                break
            entry.used = False
            self[key] = entry  # to the end of the queue
            key, entry = super().popitem()
        self._owner.evictions += 1
        self._owner.forget(entry)
        return key, entry


class MemoryStore:
    """Entries by key.

    Args:
        max_entries: bound on entries; 0 keeps nothing.
        max_bytes: bound on bytes, keys and overhead included.
    """

    def __init__(self, *, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries = _SecondChance(max_bytes, self)
        self._by_tag: dict[str, set[str]] = {}
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def enabled(self) -> bool:
        """Whether anything can be kept."""
        return self._max_entries > 0

    @property
    def bytes(self) -> int:
        """Bytes accounted for."""
        return int(self._entries.currsize)

    def get(self, key: str) -> Entry | None:
        """The entry, whatever its age."""
        return self._entries.get(key)

    def put(self, entry: Entry, *, value_bytes: int) -> bool:
        """Keep an entry in place of the key's earlier one; False when it is larger than the whole tier."""
        self.drop(entry.key)
        entry.size = OVERHEAD + sys.getsizeof(entry.key) + value_bytes
        entry.size += sum(TAG_OVERHEAD + sys.getsizeof(tag) for tag in entry.tags)
        if self._max_entries < 1 or entry.size > self._max_bytes:
            return False
        while len(self._entries) >= self._max_entries:
            self._entries.popitem()
        self._entries[entry.key] = entry
        for tag in entry.tags:
            self._by_tag.setdefault(tag, set()).add(entry.key)
        return True

    def drop(self, key: str) -> None:
        """Remove an entry."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.forget(entry)

    def drop_tags(self, tags: Iterable[str]) -> None:
        """Remove every entry with one of the tags."""
        for tag in tags:
            for key in self._by_tag.pop(tag, ()):
                self.drop(key)

    def clear(self) -> None:
        """Remove everything."""
        for entry in self._entries.values():
            entry.until = float("-inf")
            entry.hot = None
        self._entries = _SecondChance(self._max_bytes, self)
        self._by_tag = {}

    def forget(self, entry: Entry) -> None:
        """Undo the references to an entry that is leaving."""
        entry.until = float("-inf")  # a hit that has the entry in hand already must not serve it later
        if entry.hot is not None:
            entry.hot.pop(entry.hot_key, None)
            entry.hot = None
        for tag in entry.tags:
            keys = self._by_tag.get(tag)
            if keys is not None:
                keys.discard(entry.key)
                if not keys:
                    del self._by_tag[tag]
