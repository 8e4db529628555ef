"""Counting a list beside its page."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Literal

from smriti_scale.errors import ConfigurationError
from smriti_scale.pagination.page import Page
from smriti_scale.pagination.reading import Document, PageRequest

Total = Literal["none", "estimated", "exact"]


@dataclass(frozen=True, slots=True)
class Totals:
    """How far a list is counted.

    Args:
        mode: `exact`; `estimated`, from the collection's metadata where the filter is empty, else as `exact`; `none`.
        most: where counting stops; None counts to the end.

    Raises:
        ConfigurationError: another mode, or a bound below 1.
    """

    mode: Total
    most: int | None

    def __post_init__(self) -> None:
        if self.mode not in ("none", "estimated", "exact"):
            raise ConfigurationError(f"total={self.mode!r} must be 'none', 'estimated' or 'exact'")
        if self.most is not None and self.most < 1:
            raise ConfigurationError(f"max_total={self.most} must be at least 1, or None")

    async def beside(self, request: PageRequest, reading: Coroutine[Any, Any, Page[Document]]) -> Page[Document]:
        """The page that `reading` gives, with the list's total; both are asked for at once."""
        if self.mode == "none":
            return await reading
        if "session" in request.options:  # a session carries one operation at a time
            page = await reading
            total, exact = await self._count(request)
        else:
            counting = asyncio.create_task(self._count(request))
            try:
                page = await reading
                total, exact = await counting
            finally:  # a page that fails does not leave its count running
                counting.cancel()
        return page.model_copy(update={"total": total, "total_is_exact": exact})

    async def _count(self, request: PageRequest) -> tuple[int, bool]:
        collection, chosen = request.collection, request.filter
        if self.mode == "estimated" and not chosen:
            return await collection.estimated_document_count(), False
        if self.most is None:
            return await collection.count_documents(chosen, **request.options), True
        counted = await collection.count_documents(chosen, limit=self.most + 1, **request.options)
        return min(counted, self.most), counted <= self.most
