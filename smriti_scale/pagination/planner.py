"""Asking the server which indexes a collection has, choosing one for each list, and remembering the choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pymongo.errors import OperationFailure

from smriti_scale.clock import SYSTEM_CLOCK, Clock
from smriti_scale.errors import ConfigurationError
from smriti_scale.pagination.filters import FilterReading
from smriti_scale.pagination.keyset import SortSpec, page_bounds
from smriti_scale.pagination.plan import Candidate, ListPlan, Method, candidates, implies, index_for

if TYPE_CHECKING:
    from motor.motor_asyncio import AsyncIOMotorCollection
    from pymongo.asynchronous.collection import AsyncCollection

    Collection = AsyncCollection[Any] | AsyncIOMotorCollection[Any]
else:
    Collection = Any

_MAX_SHAPES = 512  # shapes come from code, not from clients: a fence, not a policy
_MAX_PARTIAL = 8
_NO_COLLECTION = 26
_NOT_THE_PLAN = ("rejectedPlans", "command", "filter", "parsedQuery")
_IS_VIEW = 166
_API_STRICT = 323

_ARRAYS = (
    "a sort field holds arrays, or did since the index was built: a row has several places in it "
    "(once no row holds one, drop and create the index)"
)

STALE_PLAN = frozenset({2, 51173, 51174})
"""Codes of a find whose index is gone or has changed: plan again, once."""
CONTRADICTION = 51175
"""Code of a find whose `min` is not before its `max`: a filter that no row can match."""


class Planner:
    """Plans lists of one sort and remembers a plan for each collection and shape of filter.

    Args:
        sort: the order.
        index: the one index to use, by name or keys; None chooses.
        collation: as the driver takes it, or None for the collection's.
        ttl: seconds after which a plan is made anew, so that an index that has since become unfit is noticed.
        clock: where the time comes from.
    """

    def __init__(
        self,
        sort: SortSpec,
        *,
        index: str | Sequence[tuple[str, int]] | None = None,
        collation: Mapping[str, Any] | None = None,
        ttl: float = 300.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._sort = sort
        self._index = index
        self._collation = dict(collation) if collation is not None else None
        self._ttl = ttl
        self._clock = clock
        self._plans: dict[tuple[Any, ...], tuple[tuple[float, ListPlan], ...]] = {}

    async def plan(
        self,
        collection: Any,
        filter: Mapping[str, Any],
        reading: FilterReading,
    ) -> ListPlan | None:
        """The plan for a list; None when the collection does not exist yet.

        Raises:
            ConfigurationError: no index serves the list, with the one that would; or the collection is a view.
        """
        known = self.known(collection, filter, reading)
        return known if known is not None else await self._remember(collection, filter, reading)

    def known(self, collection: Any, filter: Mapping[str, Any], reading: FilterReading) -> ListPlan | None:
        """The plan for a list, when it is remembered."""
        now = self._clock.monotonic()
        for until, plan in self._plans.get((collection.full_name, reading.shape), ()):
            # A shape says nothing of values, and whether a partial index holds every row depends on them.
            if now < until and (plan.partial is None or implies(reading, filter, plan.partial)):
                return plan
        return None

    async def _remember(self, collection: Any, filter: Mapping[str, Any], reading: FilterReading) -> ListPlan | None:
        made = await self._make(collection, filter, reading)
        if made is not None:
            if len(self._plans) >= _MAX_SHAPES:
                self._plans.clear()
            key, now = (collection.full_name, reading.shape), self._clock.monotonic()
            kept = tuple(each for each in self._plans.get(key, ()) if now < each[0])[:_MAX_PARTIAL]
            self._plans[key] = (*kept, (now + self._ttl, made))
        return made

    def forget(self, collection: Any, reading: FilterReading) -> None:
        """Drop a plan that the server has refused."""
        self._plans.pop((collection.full_name, reading.shape), None)

    async def _make(self, collection: Any, filter: Mapping[str, Any], reading: FilterReading) -> ListPlan | None:
        indexes = await _list_indexes(collection)
        if not indexes:
            return None
        found, refused = candidates(indexes, self._sort, reading, filter, only=self._index, collation=self._collation)
        for candidate in found:
            try:
                method = await self._try(collection, filter, reading, candidate)
            except OperationFailure as failure:
                if failure.code not in STALE_PLAN:
                    raise
                refused[candidate.path.name] = "the server does not use it: it is being built or dropped"
                continue
            if method is None:
                refused[candidate.path.name] = _ARRAYS
                continue
            path = candidate.path
            return ListPlan(
                collection.name,
                path.name,
                method,
                path.prefix,
                candidate.residual,
                path,
                partial=candidate.partial,
                collated=candidate.collated,
            )
        raise ConfigurationError(self._refusal(collection, filter, refused))

    async def _try(
        self,
        collection: Any,
        filter: Mapping[str, Any],
        reading: FilterReading,
        candidate: Candidate,
    ) -> Method | None:
        """Have the server explain the list's first page: whether the index is fit, and by which method."""
        path = candidate.path
        find: dict[str, Any] = {
            "find": collection.name,
            "filter": dict(filter),
            "sort": dict(path.sort(backward=False)),
            "hint": path.name,
            "limit": 1,
        }
        if self._collation is not None:
            find["collation"] = self._collation
        method: Method = candidate.method
        if method == "bounds":
            bounds = page_bounds(path, reading.equal, reading, anchor=None, backward=False)
            ends = {"min": bounds.lower, "max": bounds.upper}
            try:
                explained = await _explain(collection, find | {k: end for k, end in ends.items() if end is not None})
            except OperationFailure as failure:
                if failure.code not in (_API_STRICT, CONTRADICTION):
                    raise
                method = "comparison" if failure.code == _API_STRICT else method
                explained = await _explain(collection, find)
        else:
            explained = await _explain(collection, find)
        scans = _index_scans(explained)
        arrays = {name for scan in scans for name, paths in scan.get("multiKeyPaths", {}).items() if paths}
        return None if arrays & set(self._sort.fields) else method

    def _refusal(self, collection: Any, filter: Mapping[str, Any], refused: Mapping[str, str]) -> str:
        keys = index_for(self._sort, filter)
        fields = ", ".join(filter) or "nothing"
        lines = "".join(f"\n  {name}: {why}" for name, why in refused.items())
        asked = f" (index={self._index!r} was asked for)" if self._index is not None else ""
        return (
            f"no index serves {collection.name} sorted by {self._sort} and filtered by {fields}{asked}. "
            f"This one would: await db.{collection.name}.create_index({keys!r})"
            + (f"\nNot usable:{lines}" if lines else "")
        )


def collation_document(collation: Any) -> dict[str, Any] | None:
    """A collation as the server takes it, from a mapping or the driver's `Collation`."""
    if collation is None:
        return None
    document = collation if isinstance(collation, Mapping) else getattr(collation, "document", None)
    if not isinstance(document, Mapping) or "locale" not in document:
        raise ConfigurationError(f"collation={collation!r} must be a Collation or a mapping with a 'locale'")
    return dict(document)


async def _list_indexes(collection: Any) -> list[dict[str, Any]]:
    # The plain command, since the drivers' list_indexes always asks the primary: a reader of secondaries may have none.
    try:
        answer = await collection.database.command(
            "listIndexes", collection.name, read_preference=collection.read_preference
        )
    except OperationFailure as failure:
        if failure.code == _NO_COLLECTION:
            return []
        if failure.code == _IS_VIEW:
            raise ConfigurationError(
                f"{collection.name} is a view, which has no indexes of its own: page the collection under it"
            ) from None
        raise
    return [dict(index) for index in answer["cursor"]["firstBatch"]]


async def _explain(collection: Any, find: Mapping[str, Any]) -> Any:
    return await collection.database.command(
        "explain", dict(find), verbosity="queryPlanner", read_preference=collection.read_preference
    )


def _index_scans(node: Any) -> list[Mapping[str, Any]]:
    """Every index scan of a winning plan, on one server or on all shards."""
    if isinstance(node, Mapping):
        if node.get("stage") == "IXSCAN":
            return [node]
        return [scan for name, inner in node.items() if name not in _NOT_THE_PLAN for scan in _index_scans(inner)]
    if isinstance(node, list):
        return [scan for inner in node for scan in _index_scans(inner)]
    return []
