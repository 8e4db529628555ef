"""What a decorated function asks of its cache."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from smriti_scale.cache.entry import Entry
from smriti_scale.cache.found import Kind
from smriti_scale.cache.loading import Loader
from smriti_scale.cache.tiers import Tiers
from smriti_scale.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class StoredValue:
    """What `peek` finds."""

    value: Any
    age: float
    """Seconds since it was loaded."""
    expires_in: float
    """Seconds until it stops being fresh; negative for a stale one."""
    tags: tuple[str, ...]


class Target:
    """The cache, seen from one function."""

    def __init__(
        self,
        loader: Loader,
        tiers: Tiers,
        bind: Callable[[], Kind],
        *,
        invalidate: Callable[[str], Awaitable[None]],
    ) -> None:
        self._loader = loader
        self._tiers = tiers
        self._bind = bind
        self._kind: Kind | None = None
        self.invalidate = invalidate

    def kind(self) -> Kind:
        """Policy and codec; found on first need, since a return type may name what is defined later in the module."""
        if self._kind is None:
            try:
                self._kind = self._bind()
            except NameError as error:
                raise ConfigurationError(
                    f"the function's return type cannot be looked up ({error}): pass as_type=…"
                ) from error
        return self._kind

    def try_early(self) -> None:
        """Fail when decorating, unless it may only be too early."""
        with contextlib.suppress(NameError):
            self._kind = self._bind()

    async def call(self, key: str, tags: tuple[str, ...], factory: Callable[[], Awaitable[Any]]) -> Any:
        return await self._loader.call(key, self._kind or self.kind(), tags, factory)

    def entry(self, key: str) -> Entry | None:
        """The entry in memory if it may be found without further checks."""
        tiers = self._tiers
        if self._loader.disabled or (tiers.channel is not None and not (tiers.channel.live and tiers.trusted())):
            return None
        entry = tiers.memory.get(key)
        kind = self.kind()
        if entry is None or entry.fingerprint != kind.codec.fingerprint or (entry.promised and not kind.shared):
            return None
        return entry

    async def refresh(self, key: str, tags: tuple[str, ...], factory: Callable[[], Awaitable[Any]]) -> Any:
        return await self._loader.refresh(key, self.kind(), tags, factory)

    async def peek(self, key: str) -> StoredValue | None:
        if self._loader.disabled:
            return None
        found, _ = await self._loader.find(key, self.kind(), (), count=False)
        if found is None:
            return None
        now = self._tiers.clock.time()
        return StoredValue(found.result.take(), max(0.0, now - found.born), found.fresh_until - now, found.tags)
