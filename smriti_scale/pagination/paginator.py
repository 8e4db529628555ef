"""The paginator: pages of a MongoDB collection by position in an index, in place of counting past rows."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from bson.codec_options import CodecOptions
from pymongo.errors import OperationFailure

from smriti_scale.clock import SYSTEM_CLOCK, Clock
from smriti_scale.errors import ConfigurationError, InvalidCursor
from smriti_scale.events import CursorRejected, Events
from smriti_scale.pagination.assembly import assemble
from smriti_scale.pagination.cursor import Binding, CursorCodec, Position, Secret
from smriti_scale.pagination.filters import MAX_RANGES, FilterReading, read_filter
from smriti_scale.pagination.keyset import SortSpec
from smriti_scale.pagination.page import Page
from smriti_scale.pagination.plan import ListPlan, index_for
from smriti_scale.pagination.planner import CONTRADICTION, STALE_PLAN, Collection, Planner, collation_document
from smriti_scale.pagination.projection import Projected, Projection, projected
from smriti_scale.pagination.reading import Document, PageRequest, read_rows
from smriti_scale.pagination.relevance import best_keys, load, relevance_keys
from smriti_scale.pagination.stages import Pipeline, dress, split
from smriti_scale.pagination.totals import Total, Totals

_NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


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
        max_merge: the most values of an `$in` that an index may serve by one range each. The ranges of several `$in`
            multiply, and the server merges 200 of them: beyond, an index without one of the fields is taken.
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
        if not 1 <= max_merge <= MAX_RANGES:
            raise ConfigurationError(f"max_merge={max_merge} must be from 1 to {MAX_RANGES}")
        self.sort = SortSpec.of(sort)
        self.codec = CursorCodec(secret, expires=expires, clock=clock)
        self.default_limit = default_limit
        self.max_limit = max_limit
        self._collation = collation_document(collation)
        self._totals = Totals(total, max_total)
        self._max_merge = max_merge
        self._events = events
        self._whole = Projected(None, self.sort.fields)
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
        chosen = filter if filter is not None else {}
        request, binding = self._request(collection, chosen, limit, cursor, skip, scope, projection, session)
        if self._totals.mode == "none":
            return self._page(await self._rows(request), request, request.shown, binding)
        return await self._totals.beside(request, self._index_page(request, binding))

    async def paginate_aggregate(
        self,
        collection: Collection,
        pipeline: Pipeline,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        skip: int = 0,
        scope: str | None = None,
        session: Any = None,
    ) -> Page[Document]:
        """One page, dressed by a pipeline: leading `$match` stages select the list, the others run on the page alone.

        Two round trips: the keys of the page by its index, as `paginate` reads them, then the stages on those rows.
        A `$match` or `$unwind` among the stages changes how many items a page has, never which rows it covers.

        Args:
            pipeline: `$match` stages, then any that work row by row (`$lookup`, `$project`, `$set`, `$unwind`, …).

        The other arguments, and the errors, are those of `paginate`; a stage that needs the whole list (`$group`,
        `$sort`, `$limit`, …) is a ConfigurationError too.
        """
        chosen, stages = split(pipeline)
        request, binding = self._request(collection, chosen, limit, cursor, skip, scope, {"_id": 1}, session)
        page = await self._totals.beside(request, self._index_page(request, binding))
        ids = [row["_id"] for row in page.items]
        if not ids:
            return page
        found: Any = collection.aggregate(
            dress(chosen, ids, self.sort.keys, stages), hint={"_id": 1}, **self._options(session)
        )
        # PyMongo Async gives a cursor to await, Motor gives the cursor.
        answer = await found if inspect.isawaitable(found) else found
        items: list[Document] = await answer.to_list(None)
        return page.with_items(items)

    async def paginate_relevance(
        self,
        collection: Collection,
        filter: Mapping[str, Any],
        *,
        limit: int | None = None,
        cursor: str | None = None,
        skip: int = 0,
        scope: str | None = None,
        projection: Projection = None,
        session: Any = None,
        window: int = 1_000,
        score_field: str | None = None,
    ) -> Page[Document]:
        """One page of a `$text` search, best match first, then by this paginator's sort.

        The list is the best `window` matches and ends there: scores are no index keys, so every page scores all
        matches again. A list by relevance is no deeper than a reader is patient.

        Args:
            filter: with `$text`.
            window: the longest the list can be.
            score_field: set this field of each item to its score; None leaves items alone.

        The other arguments, and the errors, are those of `paginate`.
        """
        if "$text" not in filter:
            raise ConfigurationError("paginate_relevance needs a filter with $text at its top level")
        if window < 1:
            raise ConfigurationError(f"window={window} must be at least 1")
        keys = relevance_keys(self.sort.keys)
        request, binding = self._request(collection, filter, limit, cursor, skip, scope, projection, session, keys=keys)
        return await self._totals.beside(request, self._relevance_page(request, binding, window, score_field))

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
        """The cursor of the page that begins after a row of this list.

        Args:
            item: the row, with its `_id` and sort fields; one that is absent counts as missing from the row.

        Raises:
            ConfigurationError: the row has no `_id`, or an array in a sort field.
        """
        if "_id" not in item:
            raise ConfigurationError(
                "cursor_after needs the row with its _id and sort fields: do not project them away"
            )
        binding = self._bind(collection, filter if filter is not None else {}, scope, self.sort.keys)
        return self.codec.encode(Position(self._whole.anchor(item)), binding)

    def rescoped(
        self,
        cursor: str,
        collection: Collection,
        filter: Mapping[str, Any] | None = None,
        *,
        scope: str | None,
        to: str | None,
    ) -> str:
        """The same cursor for another scope: so that one cached page can serve many readers, each with cursors of
        their own.

        Args:
            cursor: of this list, for `scope`.
            collection, filter: the list.
            scope: whom the cursor is for now.
            to: whom it shall be for.

        Raises:
            InvalidCursor: it is no cursor of this list and scope.
        """
        chosen, keys = filter if filter is not None else {}, self.sort.keys
        position = self._decoded(cursor, self._bind(collection, chosen, scope, keys), len(keys))
        return self.codec.encode(position, self._bind(collection, chosen, to, keys))

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

    def _request(
        self,
        collection: Any,
        filter: Mapping[str, Any],
        limit: int | None,
        cursor: str | None,
        skip: int,
        scope: str | None,
        projection: Projection,
        session: Any,
        keys: tuple[tuple[str, int], ...] | None = None,
    ) -> tuple[PageRequest, Binding]:
        if limit is None:
            limit = self.default_limit
        elif not 1 <= limit <= self.max_limit:
            raise ConfigurationError(f"limit={limit} must be from 1 to {self.max_limit}")
        if not 0 <= skip < 1 << 63 or (skip and cursor is not None):
            raise ConfigurationError(f"skip={skip} must be 0 or more, and 0 together with a cursor")
        binding = self._bind(collection, filter, scope, keys or self.sort.keys)
        request = PageRequest(
            collection=collection,
            filter=filter,
            reading=self._read(filter, text=keys is not None),
            sort=self.sort,
            shown=self._whole if projection is None else projected(projection, self.sort.fields),
            position=None if cursor is None else self._decoded(cursor, binding, len(keys or self.sort.keys)),
            limit=limit + 1,
            skip=skip,
            options=_NO_OPTIONS if session is None and self._collation is None else self._options(session),
        )
        return request, binding

    def _options(self, session: Any) -> dict[str, Any]:
        options: dict[str, Any] = {}
        if self._collation is not None:
            options["collation"] = self._collation
        if session is not None:
            options["session"] = session
        return options

    def _read(self, filter: Mapping[str, Any], *, text: bool = False) -> FilterReading:
        reading = read_filter(filter, max_members=self._max_merge)
        if reading.text and not text:
            raise ConfigurationError(
                "a $text search cannot be paged through an index: use paginate_relevance, which pages the best matches"
            )
        return reading

    def _bind(
        self, collection: Any, filter: Mapping[str, Any], scope: str | None, keys: tuple[tuple[str, int], ...]
    ) -> Binding:
        options: CodecOptions[Any] = collection.codec_options
        return self.codec.bind(sort=keys, filter=filter, scope=scope, collection=collection.name, options=options)

    def _decoded(self, cursor: str, binding: Binding, length: int) -> Position:
        try:
            position = self.codec.decode(cursor, binding)
            if len(position.values) != length:
                raise InvalidCursor("malformed")
        except InvalidCursor as refusal:
            if self._events:
                self._events.emit(CursorRejected(refusal.reason))
            raise
        return position

    async def _index_page(self, request: PageRequest, binding: Binding) -> Page[Document]:
        return self._page(await self._rows(request), request, request.shown, binding)

    async def _relevance_page(
        self, request: PageRequest, binding: Binding, window: int, score_field: str | None
    ) -> Page[Document]:
        collection, position = request.collection, request.position
        pipeline = best_keys(
            request.filter, self.sort.keys, position=position, window=window, limit=request.limit, skip=request.skip
        )
        found: Any = collection.aggregate(pipeline, **request.options)
        answer = await found if inspect.isawaitable(found) else found
        keys: list[Document] = await answer.to_list(None)
        fields = tuple(name for name, _ in relevance_keys(self.sort.keys))
        page = self._page(keys, request, Projected(None, fields), binding)
        items = await load(
            collection, page.items, request.filter, request.shown, score_field=score_field, options=request.options
        )
        return page.with_items(items)

    async def _rows(self, request: PageRequest) -> list[Document]:
        if request.reading.impossible:
            return []
        for last_try in (False, True):
            asked = (request.collection, request.filter, request.reading)
            plan = self._planner.known(*asked) or await self._planner.plan(*asked)
            if plan is None:
                return []
            try:
                return await read_rows(request, plan)
            except OperationFailure as failure:
                if failure.code == CONTRADICTION:
                    return []
                session = request.options.get("session")
                in_transaction = session is not None and session.in_transaction
                if failure.code not in STALE_PLAN or last_try or in_transaction:
                    raise
                self._planner.forget(request.collection, request.reading)
        raise AssertionError("unreachable")

    def _page(self, rows: list[Document], request: PageRequest, shown: Projected, binding: Binding) -> Page[Document]:
        return assemble(
            rows,
            limit=request.limit - 1,
            position=request.position,
            skipped=request.skip > 0,
            shown=shown,
            codec=self.codec,
            binding=binding,
        )
