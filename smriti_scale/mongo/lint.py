"""What is wrong with indexes though they can be built: redundant, unused, missing, too many, unsafe when sharded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from smriti_scale.mongo import canonical
from smriti_scale.mongo.catalog import CollectionState, ExistingIndex, read_catalog
from smriti_scale.mongo.index import Index
from smriti_scale.mongo.queries import Query, serving
from smriti_scale.mongo.sharding import ShardKey

if TYPE_CHECKING:
    from smriti_scale.mongo.drivers import Database
    from smriti_scale.mongo.indexes import Indexes

Rule = Literal["redundant", "unused", "missing", "order", "too-many", "unsafe-unique", "unsupported-shard-key"]

MANY = 20
"""More indexes than this on one collection make each write do too much; MongoDB's own limit is 64."""


@dataclass(frozen=True, slots=True)
class LintFinding:
    """One finding: the rule, where, and a sentence with what to do."""

    rule: Rule
    collection: str
    index: str | None
    text: str

    def __str__(self) -> str:
        where = f"{self.collection}.{self.index}" if self.index else self.collection
        return f"{where}: {self.rule}: {self.text}"


async def lint(indexes: Indexes, db: Database | None) -> tuple[LintFinding, ...]:
    """See `Indexes.lint`."""
    collections = list(dict.fromkeys([*indexes, *indexes.queries]))
    states = await read_catalog(db, collections, usage_of=collections) if db is not None else {}
    found: list[LintFinding] = []
    for collection in collections:
        declared = indexes.collections.get(collection, ())
        state = states.get(collection)
        present = [one.index for one in state.indexes] if state else []
        names = {index.name for index in declared}
        known = [*declared, *(index for index in present if index.name not in names)]
        found.extend(redundant(collection, known))
        found.extend(unserved(collection, known, indexes.queries.get(collection, ())))
        found.extend(_of_shard_key(collection, known, indexes.shard_keys.get(collection)))
        if len(known) + 1 > MANY:
            text = f"{len(known) + 1} indexes: each write updates all of them; {MANY} is much"
            found.append(LintFinding("too-many", collection, None, text))
        if state:
            found.extend(unused(state))
    return tuple(found)


def redundant(collection: str, indexes: Sequence[Index]) -> Iterator[LintFinding]:
    """Indexes that are the beginning of another one and do nothing besides."""
    for index in indexes:
        if index.unique or index.sparse or index.hidden or index.partial is not None or index.ttl is not None:
            continue
        longer = next((other for other in indexes if other is not index and _covers(other, index)), None)
        if longer is not None:
            text = f"{longer.name!r} begins with the same fields and serves all that this one does; leave this one out"
            yield LintFinding("redundant", collection, index.name, text)


def _covers(longer: Index, index: Index) -> bool:
    if len(longer.keys) <= len(index.keys) or longer.hidden or longer.sparse or longer.partial is not None:
        return False
    if any(kind not in (1, -1) for _, kind in (*longer.keys, *index.keys)) or index.is_wildcard or longer.is_wildcard:
        return False
    if canonical.collation(longer.collation) != canonical.collation(index.collation):
        return False
    head = longer.keys[: len(index.keys)]
    turned = tuple((path, -kind) for path, kind in index.keys if isinstance(kind, int))
    return head in (index.keys, turned)


def unserved(collection: str, indexes: Sequence[Index], queries: Sequence[Query]) -> Iterator[LintFinding]:
    """Queries that no index serves by equality, sort, range."""
    for query in queries:
        if query.equality == ("_id",) or serving(query, indexes) is not None:
            continue
        best = query.best_index()
        shuffled = next((index for index in indexes if sorted(index.fields) == sorted(best.fields)), None)
        if shuffled is not None:
            text = f"{query.name!r} wants equality, then sort, then range: {best!r} in place of {shuffled!r}"
            yield LintFinding("order", collection, shuffled.name, text)
        else:
            yield LintFinding("missing", collection, None, f"nothing serves {query.name!r}: declare {best!r}")


def unused(state: CollectionState) -> Iterator[LintFinding]:
    """Indexes that no node has used since it began to count, and that enforce nothing."""
    for existing in state.indexes:
        index, usage = existing.index, existing.usage
        if not usage or index.unique or index.expires or index.hidden or _was_used(existing):
            continue
        since = max(one.since for one in usage)
        text = (
            f"no node of {len(usage)} has used it, the youngest count began {since:%Y-%m-%d %H:%M} UTC; "
            "if that covers a full month, hide it, and later drop it"
        )
        yield LintFinding("unused", state.name, index.name, text)


def _was_used(existing: ExistingIndex) -> bool:
    return any(one.operations for one in existing.usage or ())


def _of_shard_key(collection: str, indexes: Sequence[Index], key: ShardKey | None) -> Iterator[LintFinding]:
    if key is None:
        return
    for index in indexes:
        if index.unique and not key.allows_unique(index):
            text = f"unique across shards only if it begins with the whole shard key {key!r}, unhashed"
            yield LintFinding("unsafe-unique", collection, index.name, text)
    if not any(key.supported_by(index) for index in indexes):
        yield LintFinding("unsupported-shard-key", collection, None, f"{key!r} needs {key.index()!r}")
