"""The indexes an application declares: checked when they are written down, planned and applied against a database."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from smriti_scale.errors import ConfigurationError, IndexDrift, StalePlan
from smriti_scale.events import Events
from smriti_scale.mongo.index import Index
from smriti_scale.mongo.queries import Query, SortField, serving
from smriti_scale.mongo.sharding import ShardKey

if TYPE_CHECKING:
    from smriti_scale.mongo.drivers import Database
    from smriti_scale.mongo.lint import LintFinding
    from smriti_scale.mongo.plan import IndexPlan
    from smriti_scale.mongo.shard_plan import ShardPlan
    from smriti_scale.mongo.shard_review import ShardKeyReview

MAX_INDEXES = 64
"""Per collection, the one on `_id` included (MongoDB's limit)."""

_ATTEMPTS = 3

Declared = Sequence[Index | ShardKey] | type


class Indexes:
    """What indexes an application wants, by collection; and the queries that it runs, for `lint` and `serves`.

    ```python
    INDEXES = Indexes({"posts": [Index("user_id", ("created_at", -1)), Index("expires_at", ttl=3600)]})
    ALL = INDEXES | other_module.INDEXES
    ```

    Args:
        collections: for each collection a list of `Index`, and a `ShardKey` if it is to be sharded; or a class with
            an attribute `indexes` (a dataclass, or a pydantic model with `indexes: ClassVar = [...]`).
        queries: for each collection the lists and queries the application runs.

    Raises:
        ConfigurationError: two declarations are the same or exclude each other, or there are more than 64.
    """

    __slots__ = ("_collections", "_queries", "_shard_keys")

    def __init__(
        self, collections: Mapping[str, Declared], *, queries: Mapping[str, Sequence[Query]] | None = None
    ) -> None:
        self._collections: dict[str, tuple[Index, ...]] = {}
        self._shard_keys: dict[str, ShardKey] = {}
        for collection, declared in collections.items():
            if not collection or collection.startswith("system.") or "$" in collection or "\0" in collection:
                raise ConfigurationError(f"{collection!r} cannot be a collection's name")
            found = list(_declarations_of(declared, collection=collection))
            keys = [one for one in found if isinstance(one, ShardKey)]
            if len(keys) > 1:
                raise ConfigurationError(f"{collection!r} declares {len(keys)} shard keys: {keys!r}")
            if keys:
                self._shard_keys[collection] = keys[0]
            self._collections[collection] = tuple(one for one in found if isinstance(one, Index))
            _check(collection, self._collections[collection])
        self._queries = {collection: tuple(given) for collection, given in (queries or {}).items()}

    @classmethod
    def of(cls, *models: type) -> Indexes:
        """From classes that name their collection: `collection = "posts"` beside `indexes = [...]`.

        Raises:
            ConfigurationError: a class lacks one of the two, or declarations clash.
        """
        merged = cls({})
        for model in models:
            collection = getattr(model, "collection", None)
            if not isinstance(collection, str):
                raise ConfigurationError(f'{model.__name__} does not say where it is stored: add collection = "…"')
            merged |= cls({collection: model})
        return merged

    def __or__(self, other: Indexes) -> Indexes:
        """Both sets of declarations; what is declared twice is an error, as is what excludes each other."""
        if not isinstance(other, Indexes):
            return NotImplemented
        names = dict.fromkeys([*self._collections, *other._collections])
        queries = dict.fromkeys([*self._queries, *other._queries])
        return Indexes(
            {name: [*self._declared(name), *other._declared(name)] for name in names},
            queries={name: [*self._queries.get(name, ()), *other._queries.get(name, ())] for name in queries},
        )

    @property
    def collections(self) -> Mapping[str, tuple[Index, ...]]:
        """The declared indexes by collection."""
        return MappingProxyType(self._collections)

    @property
    def queries(self) -> Mapping[str, tuple[Query, ...]]:
        """The declared queries by collection."""
        return MappingProxyType(self._queries)

    @property
    def shard_keys(self) -> Mapping[str, ShardKey]:
        """The declared shard keys by collection."""
        return MappingProxyType(self._shard_keys)

    def _declared(self, collection: str) -> list[Index | ShardKey]:
        key = self._shard_keys.get(collection)
        return [*self._collections.get(collection, ()), *([key] if key else [])]

    def __getitem__(self, collection: str) -> tuple[Index, ...]:
        return self._collections[collection]

    def __iter__(self) -> Iterator[str]:
        return iter(self._collections)

    def __len__(self) -> int:
        return sum(map(len, self._collections.values()))

    def __repr__(self) -> str:
        return f"Indexes({ {name: self._declared(name) for name in self._collections}!r})"

    def serves(
        self,
        collection: str,
        *,
        equality: Iterable[str] = (),
        sort: Iterable[SortField] = (),
        range: Iterable[str] = (),  # noqa: A002 - the field's own word
        collation: Mapping[str, Any] | None = None,
        exact: bool = False,
    ) -> Index | None:
        """The declared index that serves a list without a scan or a sort in memory, or None.

        Args:
            equality: fields compared for equality.
            sort: fields and directions, in order.
            range: fields compared otherwise.
            collation: what the list is read with.
            exact: the index must have exactly these fields (what `min()` and `max()` need).
        """
        query = Query(*equality, sort=tuple(sort), range=tuple(range), collation=collation)
        return serving(query, self._collections.get(collection, ()), exact=exact)

    async def plan(
        self,
        db: Database,
        *,
        hide: Iterable[str] = (),
        drop: Iterable[str] = (),
        drop_superseded: bool = False,
        drop_after: float | datetime.timedelta = 86400.0,
        size_gate: int = 10 * 2**30,
        force: bool = False,
    ) -> IndexPlan:
        """Compare the database with the declarations; change nothing.

        Args:
            db: a database of either driver.
            hide: indexes to hide though they are not declared, as `"posts.title_1"`.
            drop: indexes to drop, likewise; nothing else is ever dropped.
            drop_superseded: also drop what a rebuild replaced and hid at least `drop_after` ago.
            drop_after: seconds or `timedelta`.
            size_gate: bytes of data in a collection from which on no index is built without `force`.
            force: build above the size gate, drop what is in use.

        Raises:
            ConfigurationError: a name in `hide` or `drop` belongs to no declared collection.
        """
        from smriti_scale.mongo.apply import make_plan
        from smriti_scale.mongo.plan import Policy

        seconds = drop_after.total_seconds() if isinstance(drop_after, datetime.timedelta) else drop_after
        policy = Policy(
            hide=_by_collection(hide, self._collections),
            drop=_by_collection(drop, self._collections),
            drop_superseded=drop_superseded,
            drop_after=seconds,
            size_gate=size_gate,
            force=force,
        )
        return await make_plan(db, self, policy)

    async def check(self, db: Database) -> IndexPlan:
        """Plan, and raise if there is anything to do: for a start-up that must not change the database.

        Raises:
            IndexDrift: the database differs from the declarations; the text is the plan.
        """
        plan = await self.plan(db)
        if not plan.is_empty:
            raise IndexDrift(str(plan))
        return plan

    async def apply(self, db: Database, *, wait: float = 600.0, events: Events | None = None) -> IndexPlan:
        """Plan and apply in one call: for a start-up that may change the database. Returns the plan that was run.

        Args:
            wait: seconds to wait while another instance builds.
            events: where `IndexStepDone` goes.

        Raises:
            IndexingError: as `IndexPlan.apply` says, for each kind.
        """
        for attempt in range(_ATTEMPTS):
            plan = await self.plan(db)
            try:
                await plan.apply(wait=wait, events=events)
            except StalePlan:  # another release's instance was at work; nobody has read this plan, so make a new one
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                break
        return plan

    async def lint(self, db: Database | None = None) -> tuple[LintFinding, ...]:
        """What is wrong with the declarations themselves; with a database, also what nobody uses there.

        Args:
            db: without one, only the declarations are looked at.
        """
        from smriti_scale.mongo.lint import lint

        return await lint(self, db)

    async def plan_sharding(self, db: Database) -> ShardPlan:
        """The commands that bring a cluster to the declared shard keys; change nothing."""
        from smriti_scale.mongo.shard_plan import make_shard_plan

        return await make_shard_plan(db, self._shard_keys)

    async def review_sharding(self, db: Database, *, shards: int = 4, sample: int = 10_000) -> list[ShardKeyReview]:
        """Judge each declared shard key on the data there is, with the declared queries.

        Args:
            shards: how many to simulate.
            sample: documents of each collection to look at.

        Raises:
            IndexingError: a collection is empty, absent or a view.
        """
        from smriti_scale.mongo.shard_review import review_shard_key

        return [
            await review_shard_key(db, name, key, queries=self._queries.get(name, ()), shards=shards, sample=sample)
            for name, key in self._shard_keys.items()
        ]


def _declarations_of(declared: Declared, *, collection: str) -> Iterable[Index | ShardKey]:
    if isinstance(declared, type):
        inner = getattr(declared, "indexes", None)
        if inner is None:
            raise ConfigurationError(
                f"{declared.__name__} declares no indexes: add indexes = [...] (pydantic: indexes: ClassVar = [...])"
            )
        declared = inner
    if isinstance(declared, (str, Index)) or not isinstance(declared, Iterable):
        raise ConfigurationError(f"the indexes of {collection!r} must be a list, not {declared!r}")
    for one in declared:
        if not isinstance(one, (Index, ShardKey)):
            raise ConfigurationError(f"{one!r} in {collection!r} is no Index: write Index({one!r})")
        yield one


def _check(collection: str, declared: Sequence[Index]) -> None:
    if len(declared) >= MAX_INDEXES:
        raise ConfigurationError(
            f"{collection!r} declares {len(declared)} indexes; MongoDB allows {MAX_INDEXES}, the one on _id included"
        )
    for place, index in enumerate(declared):
        for other in declared[:place]:
            if index == other:
                raise ConfigurationError(f"{collection!r} declares {index!r} twice")
            if index.name == other.name:
                raise ConfigurationError(
                    f"{collection!r} declares two indexes named {index.name!r}: {other!r} and {index!r}; "
                    "give one of them name=…"
                )
            if index.is_text and other.is_text:
                raise ConfigurationError(
                    f"{collection!r} declares two text indexes, {other!r} and {index!r}; MongoDB allows one"
                )
            if index.signature() == other.signature():
                raise ConfigurationError(
                    f"{collection!r} declares {other!r} and {index!r}, which MongoDB holds for the same index"
                )


def _by_collection(names: Iterable[str], declared: Iterable[str]) -> dict[str, tuple[str, ...]]:
    if isinstance(names, str):
        names = [names]
    found: dict[str, tuple[str, ...]] = {}
    for name in names:
        # A collection's name may hold dots ("fs.files"), so the longest declared one that fits wins.
        fit = [collection for collection in declared if name.startswith(f"{collection}.")]
        if not fit:
            raise ConfigurationError(f"{name!r} is in no declared collection: write it as collection.index_name")
        collection = max(fit, key=len)
        index = name.removeprefix(f"{collection}.")
        if index == "_id_":
            raise ConfigurationError("the index on _id can be neither hidden nor dropped")
        found[collection] = (*found.get(collection, ()), index)
    return found
