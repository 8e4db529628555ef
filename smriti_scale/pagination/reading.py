"""Reading the rows of one page from the server, by the method its plan names."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any

from smriti_scale.errors import ConfigurationError
from smriti_scale.pagination.cursor import Position
from smriti_scale.pagination.filters import FilterReading
from smriti_scale.pagination.keyset import Bounds, SortSpec, comparison, page_bounds
from smriti_scale.pagination.plan import ListPlan
from smriti_scale.pagination.projection import Projected

Document = dict[str, Any]


@dataclass(slots=True)  # not frozen: one is made for every page
class PageRequest:
    """One page, as asked for.

    Args:
        limit: rows to read: one more than the page has, which tells whether another page follows.
        options: collation and session for the driver.
    """

    collection: Any
    filter: Mapping[str, Any]
    reading: FilterReading
    sort: SortSpec
    shown: Projected
    position: Position | None
    limit: int
    skip: int
    options: Mapping[str, Any]


async def read_rows(request: PageRequest, plan: ListPlan) -> list[Document]:
    """The rows, nearest to the position first; so in reverse for a backward page.

    Raises:
        ConfigurationError: ids are text and the list has a collation, under which different ids may be level.
    """
    rows: list[Document] = await _read(request, plan)
    if plan.collated and any(isinstance(request.shown.anchor(row)[-1], (str, Mapping)) for row in rows):
        raise ConfigurationError(
            f"the ids of {plan.collection} are text and index {plan.index} has a collation, which may hold two "
            "different ids for one: page by an index of the simple collation, or use ids that are not text"
        )
    return rows


def _read(request: PageRequest, plan: ListPlan) -> Awaitable[list[Document]]:
    position = request.position
    anchor = None if position is None else dict(zip(request.sort.fields, position.values, strict=True))
    if plan.method == "bounds" and (position is None or not position.inclusive):
        backward = position is not None and position.backward
        bounds = page_bounds(plan.path, request.reading.equal, request.reading, anchor=anchor, backward=backward)
        return _find(request, plan, request.filter, bounds=bounds)
    if position is None or anchor is None:
        return _find(request, plan, request.filter)
    if plan.method == "merge" and position.ties and not position.inclusive:
        return _merge_level_rows(request, plan, anchor)
    after = comparison(plan.path.ordered, anchor, backward=position.backward, inclusive=position.inclusive)
    clauses = [dict(request.filter), *after] if request.filter else after
    return _find(request, plan, {"$and": clauses})


async def _merge_level_rows(request: PageRequest, plan: ListPlan, anchor: Mapping[str, Any]) -> list[Document]:
    """Merge by bounds, for a position among many rows that are level in the first sort field.

    A comparison bounds the scan by the first field alone, so it would walk all the level rows before the position.
    Bounds do not, but cannot be merged by the server: the ids of each range are read first, then the best of them.
    """
    assert request.position is not None  # noqa: S101 - told to the type checker
    backward = request.position.backward
    spread = [
        _find(
            request,
            plan,
            {"$and": [dict(request.filter), fixed]},
            bounds=page_bounds(plan.path, fixed, request.reading, anchor=anchor, backward=backward),
            projection={"_id": 1},
        )
        for fixed in request.reading.combinations(plan.prefix)
    ]
    if "session" not in request.options:
        ranges = await asyncio.gather(*spread)
    else:  # a session carries one operation at a time
        ranges = [await each for each in spread]
    ids = [row["_id"] for rows in ranges for row in rows]
    by_id = {"$and": [dict(request.filter), {"_id": {"$in": ids}}]}
    return await _find(request, plan, by_id, hint=[("_id", 1)]) if ids else []


def _find(
    request: PageRequest,
    plan: ListPlan,
    filter: Mapping[str, Any],
    *,
    bounds: Bounds | None = None,
    projection: dict[str, Any] | None = None,
    hint: Any = None,
) -> Awaitable[list[Document]]:
    # No coroutine of its own: each costs every page, and the driver's is there already.
    backward = request.position is not None and request.position.backward
    wanted = dict(filter)
    options: dict[str, Any] = {
        "hint": hint or plan.index,
        "sort": plan.path.sort(backward=backward),
        "limit": request.limit,
        # All rows in one answer: by default the first holds 101.
        "batch_size": request.limit,
        **request.options,
    }
    if bounds is not None:
        if bounds.drops:
            apart = {"_id": {"$ne": bounds.without}}
            wanted = {"$and": [wanted, apart]} if wanted else apart
        if bounds.lower is not None:
            options["min"] = bounds.lower
        if bounds.upper is not None:
            options["max"] = bounds.upper
    if request.skip:
        options["skip"] = request.skip
    found = request.collection.find(wanted, projection or request.shown.send, **options)
    rows: Awaitable[list[Document]] = found.to_list(None)
    return rows
