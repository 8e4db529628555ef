"""Which documents stand against a unique index, as the index itself would count them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smriti_scale.mongo.drivers import rows
from smriti_scale.mongo.index import Index

if TYPE_CHECKING:
    from smriti_scale.mongo.drivers import Database

_IDS_SHOWN = 20


async def find_duplicates(
    db: Database, collection: str, index: Index, *, limit: int = 100
) -> tuple[list[dict[str, Any]], int]:
    """Groups of documents with equal keys, the largest first, and how many groups there are in all.

    As in the index: missing counts as null, an array's elements count one by one (within one document they may
    repeat), strings compare by its collation, and only documents that the index holds count.

    Returns:
        `[{"key": {field: value}, "count": n, "ids": [...]}]`, at most `limit` of them with 20 ids each, and the total.
    """
    answer = await rows(
        db[collection].aggregate(
            _pipeline(index, limit=limit),
            allowDiskUse=True,
            collation=dict(index.collation) if index.collation else None,
        )
    )
    found = answer[0] if answer else {"groups": [], "total": []}
    groups = [
        {
            "key": dict(
                zip(index.fields, (group["_id"][f"k{place}"] for place in range(len(index.fields))), strict=True)
            ),
            "count": group["count"],
            "ids": group["ids"],
        }
        for group in found["groups"]
    ]
    return groups, found["total"][0]["count"] if found["total"] else 0


def _pipeline(index: Index, *, limit: int) -> list[dict[str, Any]]:
    stages: list[dict[str, Any]] = []
    if index.partial is not None:
        stages.append({"$match": dict(index.partial)})
    if index.sparse:
        stages.append({"$match": {"$or": [{path: {"$exists": True}} for path in index.fields]}})
    names = [f"k{place}" for place in range(len(index.fields))]
    stages.append({"$project": {name: f"${path}" for name, path in zip(names, index.fields, strict=True)}})
    stages.extend({"$unwind": {"path": f"${name}", "preserveNullAndEmptyArrays": True}} for name in names)
    key = {name: {"$ifNull": [f"${name}", None]} for name in names}
    stages += [
        {"$group": {"_id": {"document": "$_id", **key}}},
        {
            "$group": {
                "_id": {name: f"$_id.{name}" for name in names},
                "count": {"$sum": 1},
                "ids": {"$minN": {"input": "$_id.document", "n": _IDS_SHOWN}},
            }
        },
        {"$match": {"count": {"$gt": 1}}},
        {
            "$facet": {
                "groups": [{"$sort": {"count": -1, "_id": 1}}, {"$limit": limit}],
                "total": [{"$count": "count"}],
            }
        },
    ]
    return stages
