"""Scores a shard key on a collection's real data: cardinality, frequency, growth, hot shards, indexes, queries.

What is looked at is MongoDB's own list (https://www.mongodb.com/docs/manual/core/sharding-choose-a-shard-key/); the
measures are this module's. From 7.0 on the server's `analyzeShardKey` gives the first three for the whole collection.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from bson import ObjectId
from pymongo.errors import OperationFailure

from smriti_scale.errors import ConfigurationError, IndexingError
from smriti_scale.mongo import canonical
from smriti_scale.mongo.catalog import CollectionState, read_catalog
from smriti_scale.mongo.drivers import rows
from smriti_scale.mongo.index import Index
from smriti_scale.mongo.queries import Query
from smriti_scale.mongo.sharding import Reach, ShardKey

if TYPE_CHECKING:
    from smriti_scale.mongo.drivers import Database

Level = Literal["good", "warning", "bad"]
_ANALYZE_WIRE_VERSION = 21  # MongoDB 7.0
_RECENT = 0.1
_PENALTY: dict[Level, int] = {"good": 0, "warning": 8, "bad": 35}


@dataclass(frozen=True, slots=True)
class Finding:
    """One judgement: `good`, `warning` or `bad`, and why."""

    level: Level
    text: str


@dataclass(frozen=True, slots=True)
class Distribution:
    """How the values of a key lie, in a sample.

    Attributes:
        sampled: documents looked at.
        distinct: values among them.
        largest_share: of the most frequent value.
        missing_share: of documents that lack a field of the key (they count as null).
        arrays: whether a field is an array somewhere, which a shard key cannot be.
        growth: rank correlation of the key with the order of insertion, −1 to 1 (Spearman's ρ).
        fullest_shard: share of the documents on the fullest of the simulated shards.
        hottest_shard: share of the newest tenth of the documents that went to one shard, with chunks as the older
            nine tenths had shaped them.
        source: `sample`, or `analyzeShardKey` where the server itself gave the first three and the growth.
    """

    sampled: int
    distinct: int
    largest_share: float
    missing_share: float
    arrays: bool
    growth: float
    fullest_shard: float
    hottest_shard: float
    source: str = "sample"


@dataclass(frozen=True, slots=True)
class ShardKeyReview:
    """A shard key judged on a collection. `print(review)` for people, `to_dict()` for machines.

    Attributes:
        score: 0 to 100; 100 has no finding against it.
        reach: for each declared query how many shards it goes to.
    """

    collection: str
    key: ShardKey
    shards: int
    documents: int
    distribution: Distribution
    supporting: Index | None
    findings: tuple[Finding, ...]
    reach: Mapping[str, Reach] = field(default_factory=dict)

    @property
    def score(self) -> int:
        return max(0, 100 - sum(_PENALTY[finding.level] for finding in self.findings))

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        seen = self.distribution
        return {
            "collection": self.collection,
            "key": repr(self.key),
            "score": self.score,
            "shards": self.shards,
            "documents": self.documents,
            "distribution": {name: getattr(seen, name) for name in Distribution.__slots__},
            "supporting_index": self.supporting and self.supporting.name,
            "findings": [{"level": found.level, "text": found.text} for found in self.findings],
            "reach": dict(self.reach),
        }

    def __str__(self) -> str:
        seen = self.distribution
        marks = {"good": "✓", "warning": "!", "bad": "✗"}
        lines = [
            f"{self.collection}: {self.key!r}: {self.score} of 100",
            f"  {seen.sampled:,} of {self.documents:,} documents ({seen.source}), {self.shards} shards simulated",
            *(f"  {marks[found.level]} {found.text}" for found in self.findings),
            *(f"    {name}: {reach}" for name, reach in self.reach.items()),
        ]
        return "\n".join(lines)


async def review_shard_key(
    db: Database,
    collection: str,
    key: ShardKey,
    *,
    queries: Sequence[Query] = (),
    shards: int = 4,
    sample: int = 10_000,
) -> ShardKeyReview:
    """Judge a shard key on the data there is; reads a sample, changes nothing.

    Args:
        queries: what the application asks of this collection.
        shards: how many to simulate.
        sample: documents to look at.

    Raises:
        ConfigurationError: fewer than two shards.
        IndexingError: the collection is empty, absent or a view, so there is nothing to judge by.
    """
    if shards < 2:
        raise ConfigurationError(f"shards must be at least 2, not {shards}")
    state = (await read_catalog(db, [collection]))[collection]
    if state.kind == "view" or not state.documents:
        what = "is a view" if state.kind == "view" else "holds no documents"
        raise IndexingError(
            f"{collection!r} {what}: a shard key is judged by data; load some that is like production's"
        )
    distribution = measured(await _sample(db, collection, key, size=sample), key, shards=shards)
    distribution = await _analyzed(db, collection, key, distribution)
    supporting = next((one.index for one in state.indexes if key.supported_by(one.index)), None)
    reach = {query.name: key.reach(query) for query in queries}
    findings = judged(key, distribution, state, supporting=supporting, reach=reach, shards=shards)
    return ShardKeyReview(
        collection, key, shards, state.documents, distribution, supporting, tuple(findings), reach=reach
    )


async def _sample(db: Database, collection: str, key: ShardKey, *, size: int) -> list[dict[str, Any]]:
    """`{"id": _id, "k": [values], "at": place in order of insertion}`, sorted by the key as MongoDB sorts."""
    # A missing field is left out of an array of paths, so each value goes under a name of its own.
    fields = {f"k{place}": f"${path}" for place, path in enumerate(key.fields)}
    pipeline: list[dict[str, Any]] = [
        {"$sample": {"size": size}},
        {"$project": fields},
        {"$sort": dict.fromkeys(fields, 1) | {"_id": 1}},
    ]
    documents = await rows(db[collection].aggregate(pipeline, allowDiskUse=True))
    ids = [document["_id"] for document in documents]
    if all(isinstance(one, ObjectId) for one in ids):  # these begin with the time of their making
        order = sorted(range(len(ids)), key=lambda place: ids[place])
    else:
        order = await _natural_order(db, collection, ids)
    for at, place in enumerate(order):
        documents[place]["at"] = at
    return documents


async def _natural_order(db: Database, collection: str, ids: Sequence[Any]) -> list[int]:
    """The places of the sampled ids in the order in which the collection's file holds them."""
    place_of = {canonical.value(one): place for place, one in enumerate(ids)}
    cursor: Any = db[collection].find({"_id": {"$in": list(ids)}}, {"_id": 1}).hint([("$natural", 1)])
    found = [place_of.pop(canonical.value(document["_id"]), None) for document in await rows(cursor)]
    return [place for place in found if place is not None] + list(place_of.values())


def measured(documents: Sequence[Mapping[str, Any]], key: ShardKey, *, shards: int) -> Distribution:
    """The distribution in a sample that is sorted by key and knows each document's place of insertion (`at`)."""
    names = [f"k{place}" for place in range(len(key.fields))]
    values: list[Hashable] = [tuple(canonical.value(one.get(name)) for name in names) for one in documents]
    counts = Counter(values)
    total = len(documents)
    ranks = _ranks(values)
    inserted = [float(one["at"]) for one in documents]
    positions = [_hashed(one, key, names) for one in documents] if key.keys[0][1] == "hashed" else ranks
    new = int(total * (1 - _RECENT))
    old = [position for position, at in zip(positions, inserted, strict=True) if at < new]
    recent = [position for position, at in zip(positions, inserted, strict=True) if at >= new]
    bounds = _bounds(old or positions, shards=shards)
    return Distribution(
        sampled=total,
        distinct=len(counts),
        largest_share=max(counts.values()) / total,
        missing_share=sum(any(name not in one for name in names) for one in documents) / total,
        arrays=any(isinstance(one.get(name), list) for one in documents for name in names),
        growth=_correlation(ranks, inserted),
        fullest_shard=_fullest(positions, _bounds(positions, shards=shards)),
        hottest_shard=_fullest(recent, bounds) if recent else 1 / shards,
    )


def _ranks(values: Sequence[Hashable]) -> list[float]:
    """The rank of each of the sorted values; equal ones share the mean of theirs."""
    ranks: list[float] = []
    start = 0
    for place in range(1, len(values) + 1):
        if place == len(values) or values[place] != values[start]:
            ranks.extend([(start + place - 1) / 2] * (place - start))
            start = place
    return ranks


def _correlation(left: Sequence[float], right: Sequence[float]) -> float:
    mean_left, mean_right = sum(left) / len(left), sum(right) / len(right)
    covariance = sum((one - mean_left) * (other - mean_right) for one, other in zip(left, right, strict=True))
    spread = sum((one - mean_left) ** 2 for one in left) * sum((one - mean_right) ** 2 for one in right)
    return float(covariance / spread**0.5) if spread else 0.0


def _hashed(document: Mapping[str, Any], key: ShardKey, names: Sequence[str]) -> float:
    """A uniform stand-in for MongoDB's hash: what counts is that equal values meet and others spread."""
    hashed = [document.get(name) for name, (_, kind) in zip(names, key.keys, strict=True) if kind == "hashed"]
    digest = hashlib.blake2b(repr(canonical.value(hashed)).encode(), digest_size=8).digest()
    return float(int.from_bytes(digest, "big"))


def _bounds(positions: Sequence[float], *, shards: int) -> list[float]:
    """Where each shard but the first begins, so that all hold as equal a share as whole values allow."""
    ordered = sorted(positions)
    return [ordered[len(ordered) * shard // shards] for shard in range(1, shards)]


def _fullest(positions: Sequence[float], bounds: Sequence[float]) -> float:
    counts = Counter(sum(position >= bound for bound in bounds) for position in positions)
    return max(counts.values()) / len(positions)


async def _analyzed(db: Database, collection: str, key: ShardKey, sampled: Distribution) -> Distribution:
    """The same with `analyzeShardKey`'s figures, where the server has it and a supporting index lets it count."""
    hello = await db.client.admin.command("hello")
    if hello["maxWireVersion"] < _ANALYZE_WIRE_VERSION:
        return sampled
    command = {"analyzeShardKey": f"{db.name}.{collection}", "key": key.to_server(), "readWriteDistribution": False}
    try:
        told = (await db.client.admin.command(command)).get("keyCharacteristics") or {}
    except OperationFailure:  # not allowed, or no supporting index
        return sampled
    documents = told.get("numDocsSampled") or told.get("numDocsTotal") or 0
    if not documents:
        return sampled
    common = told.get("mostCommonValues") or [{"frequency": 1}]
    growth = told.get("monotonicity", {}).get("recordIdCorrelationCoefficient", sampled.growth)
    return Distribution(
        sampled=documents,
        distinct=told["numDistinctValues"],
        largest_share=common[0]["frequency"] / documents,
        missing_share=sampled.missing_share,
        arrays=sampled.arrays,
        growth=growth,
        fullest_shard=sampled.fullest_shard,
        hottest_shard=sampled.hottest_shard,
        source="analyzeShardKey",
    )


def judged(
    key: ShardKey,
    seen: Distribution,
    state: CollectionState,
    *,
    supporting: Index | None,
    reach: Mapping[str, Reach],
    shards: int,
) -> list[Finding]:
    """What the figures mean."""
    found: list[Finding] = []

    def say(level: Level, text: str) -> None:
        found.append(Finding(level, text))

    if seen.arrays:
        say("bad", "a field of the key holds arrays, which MongoDB does not allow in a shard key")
    values = f"{seen.distinct:,} values in {seen.sampled:,} documents"
    if seen.distinct < shards:
        say("bad", f"cardinality: {values}: fewer than shards, so some stay empty")
    elif seen.distinct < 100 * shards and seen.distinct < seen.sampled / 10:
        say("warning", f"cardinality: {values}: few, so chunks cannot be split for long")
    else:
        say("good", f"cardinality: {values}")
    share = f"frequency: the most frequent value has {seen.largest_share:.1%} of the documents"
    if seen.largest_share > 1 / shards:
        say("bad", f"{share}, more than one shard's part; a value cannot be split")
    elif seen.largest_share > 0.01 and seen.distinct > 1 and seen.largest_share > 0.1 / shards:
        say("warning", f"{share}: its chunk grows and cannot be split")
    else:
        say("good", share)
    growth = f"growth: correlation with insertion {seen.growth:+.2f}"
    if key.keys[0][1] == "hashed":
        say("good", f"{growth}, spread by the hash")
    elif abs(seen.growth) > 0.9:
        say(
            "bad", f"{growth}: every insert goes to one end, thus to one shard; hash the key or put another field first"
        )
    elif abs(seen.growth) > 0.5:
        say("warning", f"{growth}: inserts lean to one end")
    else:
        say("good", growth)
    hot = f"hot shard: the newest tenth puts {seen.hottest_shard:.0%} on one of {shards}, {1 / shards:.0%} is even"
    worst = max(seen.hottest_shard, seen.fullest_shard)
    say("bad" if worst > 0.8 else "warning" if worst > 2 / shards else "good", hot)
    if seen.missing_share:
        say(
            "warning", f"{seen.missing_share:.1%} of the documents lack a field of the key; all of them share one chunk"
        )
    if supporting:
        say("good", f"supporting index: {supporting.name}")
    else:
        say("warning", f"no supporting index: declare {key.index()!r} first")
    for existing in state.indexes:
        if existing.index.unique and not key.allows_unique(existing.index):
            say("bad", f"the unique index {existing.index.name!r} does not begin with the key: MongoDB refuses both")
    scattered = [name for name, to in reach.items() if to == "all shards"]
    if scattered:
        level: Level = "bad" if len(scattered) == len(reach) else "warning"
        say(level, f"{len(scattered)} of {len(reach)} declared queries ask every shard")
    elif reach:
        say("good", f"all {len(reach)} declared queries are targeted")
    return found
