"""Pipelines: the part that selects rows, which an index serves, and the part that dresses the rows of one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from smriti_scale.errors import ConfigurationError

Pipeline = Sequence[Mapping[str, Any]]

# Each looks at the whole list: run on one page it would answer something else than it says.
_WHOLE_LIST = frozenset(
    {
        "$bucket", "$bucketAuto", "$collStats", "$count", "$facet", "$fill", "$densify", "$geoNear", "$group",
        "$indexStats", "$limit", "$merge", "$out", "$sample", "$search", "$searchMeta", "$setWindowFields", "$skip",
        "$sort", "$sortByCount", "$unionWith", "$vectorSearch", "$changeStream", "$documents",
    }
)  # fmt: skip


def split(pipeline: Pipeline) -> tuple[Mapping[str, Any], list[Mapping[str, Any]]]:
    """The filter that the leading `$match` stages make, and the stages after them.

    Raises:
        ConfigurationError: a later stage needs the whole list, or is no stage.
    """
    matches: list[Mapping[str, Any]] = []
    rest: list[Mapping[str, Any]] = []
    stage: Any
    for stage in pipeline:
        if not isinstance(stage, Mapping) or len(stage) != 1:
            raise ConfigurationError(
                f"pipeline stage {stage!r} must be a mapping with one key, such as {{'$match': ...}}"
            )
        name = next(iter(stage))
        if name in _WHOLE_LIST:
            raise ConfigurationError(
                f"{name} works on the whole list, but the stages after the leading $match run on one page: "
                "leave sorting and limits to the paginator, and page computed lists from a collection that holds them"
            )
        if name == "$match" and not rest:
            matches.append(stage["$match"])
        else:
            rest.append(stage)
    if len(matches) > 1:
        return {"$and": matches}, rest
    return (matches[0] if matches else {}), rest


def dress(
    filter: Mapping[str, Any], ids: Sequence[Any], sort: Sequence[tuple[str, int]], stages: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """The pipeline that runs `stages` on the rows `ids`, in the list's order."""
    # The filter again: a row that stopped matching since its key was read must not be shown.
    rows = {"$and": [dict(filter), {"_id": {"$in": list(ids)}}]} if filter else {"_id": {"$in": list(ids)}}
    return [{"$match": rows}, {"$sort": dict(sort)}, *stages]
