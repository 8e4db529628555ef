"""Lists by text relevance: the best matches of a search, in a window of bounded size.

A text score is no index key, so no position in an index names a place in such a list. The server scores every match,
keeps the keys of the best `window` (a bounded sort), and the page is cut out of those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import bson

from smriti_scale.pagination.cursor import Position
from smriti_scale.pagination.keyset import comparison
from smriti_scale.pagination.projection import Projected

SCORE = "_smriti_score"
Document = dict[str, Any]


def relevance_keys(sort: Sequence[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    """The order of a relevance list: best first, then the paginator's sort."""
    return ((SCORE, -1), *sort)


def best_keys(
    filter: Mapping[str, Any],
    sort: Sequence[tuple[str, int]],
    *,
    position: Position | None,
    window: int,
    limit: int,
    skip: int,
) -> list[dict[str, Any]]:
    """The pipeline that gives ids, scores and sort values of one page, nearest to the position first."""
    keys = relevance_keys(sort)
    shown = {name: 1 for name, _ in sort} | {"_id": 1, SCORE: {"$meta": "textScore"}}
    # Keys alone are sorted: with whole documents a thousand long texts would not fit the server's sort memory.
    stages: list[dict[str, Any]] = [
        {"$match": dict(filter)},
        {"$project": shown},
        {"$sort": dict(keys)},
        {"$limit": window},
    ]
    if position is not None:
        place = dict(zip((name for name, _ in keys), position.values, strict=True))
        after = comparison(keys, place, backward=position.backward, inclusive=position.inclusive)
        stages.append({"$match": {"$and": after}})
        if position.backward:
            stages.append({"$sort": {name: -direction for name, direction in keys}})
    if skip:
        stages.append({"$skip": skip})
    stages.append({"$limit": limit})
    return stages


async def load(
    collection: Any,
    keys: Sequence[Document],
    filter: Mapping[str, Any],
    shown: Projected,
    *,
    score_field: str | None,
    options: Mapping[str, Any],
) -> list[Document]:
    """The documents behind `keys`, in their order; one that is gone or has stopped matching is left out."""
    if not keys:
        return []
    ids = [key["_id"] for key in keys]
    others = {name: condition for name, condition in filter.items() if name != "$text"}
    # Without the text search, which would score every match again; whoever edited the text out of a row meanwhile is
    # shown once more, whoever hid it is not.
    found = collection.find({"$and": [others, {"_id": {"$in": ids}}]}, shown.send, hint=[("_id", 1)], **options)
    rows = {_identity(shown.anchor(row)[-1]): row for row in await found.to_list(None)}
    loaded: list[Document] = []
    for key in keys:
        row = rows.get(_identity(key["_id"]))
        if row is not None:
            row = shown.finish(row)
            if score_field is not None:
                row[score_field] = key[SCORE]
            loaded.append(row)
    return loaded


def _identity(value: Any) -> bytes:
    """An id as a dictionary key: ids may be documents."""
    return bson.encode({"": value})
