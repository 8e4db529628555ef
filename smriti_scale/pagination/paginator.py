"""The paginator: pages of a MongoDB collection by position in an index, in place of counting past rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Literal

from bson.codec_options import CodecOptions
from pymongo.errors import OperationFailure

from smriti_scale.clock import SYSTEM_CLOCK, Clock
from smriti_scale.errors import ConfigurationError, InvalidCursor
from smriti_scale.events import CursorRejected, Events
from smriti_scale.pagination.cursor import Binding, CursorCodec, Position, Secret
from smriti_scale.pagination.filters import FilterReading, read_filter
from smriti_scale.pagination.keyset import SortSpec
from smriti_scale.pagination.page import Page
from smriti_scale.pagination.plan import ListPlan, index_for
from smriti_scale.pagination.planner import CONTRADICTION, STALE_PLAN, Collection, Planner
from smriti_scale.pagination.projection import Projected, Projection, projected
from smriti_scale.pagination.reading import PageRequest, read_rows

Document = dict[str, Any]
Total = Literal["none", "estimated", "exact"]


class CursorPaginator:
    """Pages through a collection in one sort order; every row exactly once, at the same cost at any depth.

    Args:
        sort: 1–4 `(field, direction)` pairs; `_id` is appended unless it is there.
        secret: signs cursors; at least 16 bytes. Several rotate: the first signs, all are accepted.
        default_limit, max_limit: items a page.
        index: the one index to use, by name or keys; None chooses the best of the collection's.
        collation: as the driver takes it (a mapping or `Collation`); None for the collection's own.
        total: count the list for each page: `exact` (up to `max_total`), `estimated` (from the collection's metadata
            when the filter is empty, else as `exact`), or `none`.
        max_total: where counting stops; None counts to the end.
        expires: seconds a cursor lives; None for ever.
        max_merge: the most ranges that `$in` conditions may be served by.
        clock: where the time comes from.
        events: told of every cursor that is refused.

    Raises:
        ConfigurationError: an argument cannot work.
    """

    def __init__(
        self,
        sort: Sequence[tuple[str, int]],
        secret: Secret | Sequence[Secret],
        *,
        default_limit: int = 20,
        max_limit: int = 100,
        index: str | Sequence[tuple[str, int]] | None = None,
        collation: Any = None,
        total: Total = "none",
        max_total: int | None = 10_000,
        expires: float | None = None,
        max_merge: int = 20,
        clock: Clock = SYSTEM_CLOCK,
        events: Events | None = None,
    ) -> None:
        if not 1 <= default_limit <= max_limit:
            raise ConfigurationError(
                f"default_limit={default_limit}, max_limit={max_limit}: 1 <= default_limit <= max_limit is needed"
            )
        if total not in ("none", "estimated", "exact"):
            raise ConfigurationError(f"total={total!r} must be 'none', 'estimated' or 'exact'")
        if max_total is not None and max_total < 1:
            raise ConfigurationError(f"max_total={max_total} must be at least 1, or None")
        if not 1 <= max_merge <= 200:  # the server itself stops merging at 200 ranges
            raise ConfigurationError(f"max_merge={max_merge} must be from 1 to 200")
        self.sort = SortSpec.of(sort)
        self.codec = CursorCodec(secret, expires=expires, clock=clock)
        self.default_limit = default_limit
        self.max_limit = max_limit
        self._collation = _collation_document(collation)
        self._total: Total = total
        self._max_total = max_total
        self._max_merge = max_merge
        self._events = events
        self._planner = Planner(self.sort, index=index, collation=self._collation, clock=clock)

    async def paginate(
        self,
        collection: Collection,
        filter: Mapping[str, Any] | None = None,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        skip: int = 0,
        scope: str | None = None,
        projection: Projection = None,
        session: Any = None,
    ) -> Page[Document]:
        """One page.

        Args:
            collection: of Motor or of PyMongo's async API, with its read preference and BSON options.
            filter: which rows the list has. It must be the same for every page: a moving part, such as the present
                time, makes the cursors of the last page invalid.
            limit: items, from 1 to `max_limit`; None for `default_limit`.
            cursor: from the page before or after; None for the first page.
            skip: rows to leave out first, for clients that still page by skip; costs an index key each.
            scope: whom the list is for, such as the user's id: cursors of another scope are refused.
            projection: as `find` takes it; it may hide the sort fields.
            session: the driver's session.

        Raises:
            InvalidCursor: the cursor is altered, expired, or belongs to another list or scope.
            ConfigurationError: a limit or skip out of bounds, a filter that cannot be paged, or no index that serves
                the list; the message has the index to create.
        """
        wanted = self._limit(limit)
        if skip < 0 or (skip and cursor is not None):
            raise ConfigurationError("skip must be 0 or more, and 0 together with a cursor")
        chosen = filter if filter is not None else {}
        binding = self._bind(collection, chosen, scope)
        position = self._position(cursor, binding)
        reading = self._read(chosen)
        shown = projected(projection, self.sort.fields)
        request = PageRequest(
            collection, chosen, reading, self.sort, shown, self._collation, position, wanted + 1, skip, session
        )
        if self._total == "none":
            rows = await self._rows(request)
            return self._page(rows, request, binding, None)
        if session is not None:  # a session carries one operation at a time
            rows = await self._rows(request)
            return self._page(rows, request, binding, await self._count(request))
        rows, total = await asyncio.gather(self._rows(request), self._count(request))
        return self._page(rows, request, binding, total)

    async def pages(
        self,
        collection: Collection,
        filter: Mapping[str, Any] | None = None,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        scope: str | None = None,
        projection: Projection = None,
        session: Any = None,
    ) -> AsyncIterator[Page[Document]]:
        """Every page from `cursor` to the end. To resume a job, keep `page.next_cursor` once a page is done."""
        while True:
            page = await self.paginate(
                collection, filter, limit=limit, cursor=cursor, scope=scope, projection=projection, session=session
            )
            if page.items:
                yield page
            cursor = page.next_cursor
            if cursor is None:
                return

    async def items(
        self,
        collection: Collection,
        filter: Mapping[str, Any] | None = None,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        scope: str | None = None,
        projection: Projection = None,
        session: Any = None,
    ) -> AsyncIterator[Document]:
        """Every row from `cursor` to the end, read by pages of `limit`. To resume after a row, see `cursor_after`."""
        async for page in self.pages(
            collection, filter, limit=limit, cursor=cursor, scope=scope, projection=projection, session=session
        ):
            for item in page.items:
                yield item

    def cursor_after(
        self,
        collection: Collection,
        item: Mapping[str, Any],
        filter: Mapping[str, Any] | None = None,
        *,
        scope: str | None = None,
    ) -> str:
        """The cursor of the page that begins after a row of this list; the row must hold its sort fields."""
        shown = Projected(None, self.sort.fields)
        return self.codec.encode(Position(shown.anchor(item)), self._bind(collection, filter or {}, scope))

    async def check(
        self,
        collection: Collection,
        filter: Mapping[str, Any] | None = None,
    ) -> ListPlan | None:
        """Which index serves a list, for start-up and tests; None when the collection does not exist yet.

        `plan.exact` is whether a page costs no more index keys than rows; `str(plan)` says it in a sentence.

        Raises:
            ConfigurationError: none does; the message has the index to create.
        """
        chosen = filter if filter is not None else {}
        return await self._planner.plan(collection, chosen, self._read(chosen))

    def index_for(self, filter: Mapping[str, Any] | None = None) -> list[tuple[str, int]]:
        """The keys of the index that serves such a list best, to declare it or to assert that it is declared."""
        return index_for(self.sort, filter or {})

    def _limit(self, limit: int | None) -> int:
        if limit is None:
            return self.default_limit
        if not 1 <= limit <= self.max_limit:
            raise ConfigurationError(f"limit={limit} must be from 1 to {self.max_limit}")
        return limit

    def _read(self, filter: Mapping[str, Any]) -> FilterReading:
        reading = read_filter(filter, max_members=self._max_merge)
        if reading.text:
            raise ConfigurationError(
                "a $text search cannot be paged through an index: use paginate_relevance, which pages the best matches"
            )
        return reading

    def _bind(self, collection: Any, filter: Mapping[str, Any], scope: str | None) -> Binding:
        options: CodecOptions[Any] = collection.codec_options
        return self.codec.bind(
            sort=self.sort.keys, filter=filter, scope=scope, collection=collection.name, options=options
        )

    def _position(self, cursor: str | None, binding: Binding) -> Position | None:
        if cursor is None:
            return None
        try:
            position = self.codec.decode(cursor, binding)
            if len(position.values) != len(self.sort.keys):
                raise InvalidCursor("malformed")
        except InvalidCursor as refusal:
            if self._events:
                self._events.emit(CursorRejected(refusal.reason))
            raise
        return position

    async def _rows(self, request: PageRequest) -> list[Document]:
        if request.reading.impossible:
            return []
        for last_try in (False, True):
            plan = await self._planner.plan(request.collection, request.filter, request.reading)
            if plan is None:
                return []
            try:
                return await read_rows(request, plan)
            except OperationFailure as failure:
                if failure.code == CONTRADICTION:
                    return []
                in_transaction = request.session is not None and request.session.in_transaction
                if failure.code not in STALE_PLAN or last_try or in_transaction:
                    raise
                self._planner.forget(request.collection, request.reading)
        raise AssertionError("unreachable")

    def _page(
        self, rows: list[Document], request: PageRequest, binding: Binding, total: tuple[int, bool] | None
    ) -> Page[Document]:
        position, shown = request.position, request.shown
        backward = position is not None and position.backward
        more = len(rows) == request.limit
        if more:
            rows.pop()
        # Every row is looked at, not the outer two only: an array among the sort values loses rows without a word.
        anchors = [shown.anchor(row) for row in rows]
        if backward:
            rows.reverse()
            anchors.reverse()
        came_from = position is not None or request.skip > 0
        has_next = came_from if backward else more
        has_previous = more if backward else came_from
        following = preceding = None
        if anchors:
            ties = _level(anchors[0][0], anchors[-1][0])
            if has_next:
                following = self.codec.encode(Position(anchors[-1], ties=ties), binding)
            if has_previous:
                preceding = self.codec.encode(Position(anchors[0], backward=True, ties=ties), binding)
        elif position is not None:
            # Everything on this side is gone. The way back begins with the row at the position, if it still exists.
            back = self.codec.encode(Position(position.values, backward=not backward, inclusive=True), binding)
            following, preceding = (back, None) if backward else (None, back)
        if shown.changes:
            rows = [shown.finish(row) for row in rows]
        page: Page[Document] = Page.model_construct(
            items=rows,
            next_cursor=following,
            previous_cursor=preceding,
            has_next=following is not None,
            has_previous=preceding is not None,
            total=total[0] if total else None,
            total_is_exact=total[1] if total else True,
        )
        return page

    async def _count(self, request: PageRequest) -> tuple[int, bool]:
        collection: Any = request.collection
        if self._total == "estimated" and not request.filter:
            return await collection.estimated_document_count(), False
        options: dict[str, Any] = {} if request.session is None else {"session": request.session}
        if self._collation is not None:
            options["collation"] = self._collation
        if self._max_total is None:
            return await collection.count_documents(request.filter, **options), True
        counted = await collection.count_documents(request.filter, limit=self._max_total + 1, **options)
        return min(counted, self._max_total), counted <= self._max_total


def _level(one: Any, other: Any) -> bool:
    """Whether two sort values share a place; NaN differs from itself in Python but not in an index."""
    return bool(one == other) or (one != one and other != other)


def _collation_document(collation: Any) -> dict[str, Any] | None:
    if collation is None:
        return None
    document = collation if isinstance(collation, Mapping) else getattr(collation, "document", None)
    if not isinstance(document, Mapping) or "locale" not in document:
        raise ConfigurationError(f"collation={collation!r} must be a Collation or a mapping with a 'locale'")
    return dict(document)
