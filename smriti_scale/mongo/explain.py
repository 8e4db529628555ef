"""What an `explain` says: which stages the winning plan has, and how much it read for what it returned. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# Sorting what a group, a join or a text search made cannot be done by an index on the collection.
_UNSORTABLE = frozenset({"GROUP", "EQ_LOOKUP", "TEXT", "TEXT_MATCH", "$group", "$lookup", "$unwind", "$facet"})


@dataclass(frozen=True, slots=True)
class Explained:
    """The facts of one explained query.

    Attributes:
        stages: of the winning plan, outermost first, the pipeline's after them.
        scans: it reads the collection from end to end.
        sorts: it sorts in memory what an index could have given in order.
        indexes: the indexes it reads.
        keys, documents: examined, on all shards.
        returned: documents.
    """

    stages: tuple[str, ...]
    scans: bool
    sorts: bool
    indexes: tuple[str, ...]
    keys: int
    documents: int
    returned: int

    @property
    def ratio(self) -> float:
        """Keys or documents examined, whichever is more, for each one returned."""
        return max(self.keys, self.documents) / max(self.returned, 1)


def explained(answer: Mapping[str, Any]) -> Explained:
    """Read the answer of `explain`, of a find or a pipeline, from a `mongod` or a `mongos`.

    Counts are 0 unless it was asked with `executionStats`.
    """
    stages: list[str] = []
    indexes: list[str] = []
    sorts = False
    keys = documents = returned = 0
    for planner, statistics in _parts(answer):
        for node, below in _walk(planner.get("winningPlan", {})):
            stages.append(node["stage"])
            if "indexName" in node:
                indexes.append(node["indexName"])
            sorts = sorts or (node["stage"] == "SORT" and not _UNSORTABLE & below)
        keys += statistics.get("totalKeysExamined", 0)
        documents += statistics.get("totalDocsExamined", 0)
        returned += statistics.get("nReturned", 0)
    later = [next(iter(stage)) for stage in answer.get("stages", []) if "$cursor" not in stage]
    for place, name in enumerate(later):
        sorts = sorts or (name == "$sort" and not _UNSORTABLE & {*stages, *later[:place]})
    return Explained(
        stages=(*stages, *later),
        scans="COLLSCAN" in stages,
        sorts=sorts,
        indexes=tuple(dict.fromkeys(indexes)),
        keys=keys,
        documents=documents,
        returned=returned,
    )


def _parts(answer: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Each planner's choice with its statistics: one a shard."""
    shards = answer.get("shards")
    if isinstance(shards, Mapping):  # an aggregate through a mongos
        for shard in shards.values():
            yield from _parts(shard)
        return
    for stage in answer.get("stages", []):
        if "$cursor" in stage:
            yield from _parts(stage["$cursor"])
    planner = answer.get("queryPlanner")
    if planner is None:
        return
    statistics = answer.get("executionStats", {})
    by_shard = planner.get("winningPlan", {}).get("shards")
    if not by_shard:
        yield planner, statistics
        return
    for place, shard in enumerate(by_shard):  # a find through a mongos: the totals stand outside
        yield shard, statistics if place == 0 else {}


def _walk(node: Any) -> Iterator[tuple[Mapping[str, Any], frozenset[str]]]:
    """Every stage with the names of the stages below it."""
    if not isinstance(node, Mapping):
        return
    if "queryPlan" in node:  # the slot-based engine wraps the plan one reads in one it runs
        node = node["queryPlan"]
    children = [
        child
        for key in ("inputStage", "inputStages", "outerStage", "innerStage", "thenStage", "elseStage")
        for child in _children(node.get(key))
    ]
    below = [found for child in children for found in _walk(child)]
    if "stage" in node:
        yield node, frozenset(inner["stage"] for inner, _ in below)
    yield from below


def _children(of: Any) -> list[Any]:
    return of if isinstance(of, list) else [] if of is None else [of]
