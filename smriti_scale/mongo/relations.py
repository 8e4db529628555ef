"""Related documents without N+1: many handlers' questions in one `$in`, or a join that leaves the page as it was.

`BatchLoader` is for code that meets ids one at a time (a resolver, a serializer, `asyncio.gather` over a page); the
pattern is Facebook's DataLoader (https://github.com/graphql/dataloader). `lookup_one` and `lookup_many` are for an
aggregation: stages to put after `$limit`, so that the page is found by its index first and only its rows are joined.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from bson.regex import Regex

from smriti_scale.errors import ConfigurationError
from smriti_scale.mongo import canonical
from smriti_scale.mongo.drivers import rows

if TYPE_CHECKING:
    from smriti_scale.mongo.drivers import Collection

Found = TypeVar("Found")
Fields = Sequence[str] | Mapping[str, Any] | None


class BatchLoader(Generic[Found]):
    """Loads documents by a key, asking once for all that is asked in one tick of the event loop.

    ```python
    authors = BatchLoader(db.users)                       # one per request
    author = await authors.load(post["user_id"])          # the document, or None
    await asyncio.gather(*(render(post, authors) for post in posts))  # one query, whatever their number

    comments = BatchLoader.lists(db.comments, "post_id", sort=[("created_at", 1)])
    await comments.load(post["_id"])                      # a list, maybe empty
    ```

    Each key is asked for once in the loader's life, so make one per request: a longer life means stale documents.
    Callers of one key are given the same object; treat it as read-only.

    Args:
        collection: of either driver.
        key: the field to load by; dots reach into documents, and an array counts by its elements. Index it.
        filter: further conditions.
        fields: what to fetch: names, or a projection that includes. The key comes along.
        sort: order of the documents found; of several for one key, the first wins.
        decode: makes of a document what callers get.
        max_batch: keys in one query.
        window: seconds to wait for more keys; 0 is the end of this tick.

    Raises:
        ConfigurationError: `max_batch` is below 1, or `fields` leaves out the key.
    """

    def __init__(
        self,
        collection: Collection,
        key: str = "_id",
        *,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - MongoDB's word
        fields: Fields = None,
        sort: Sequence[tuple[str, int]] = (),
        decode: Callable[[dict[str, Any]], Any] | None = None,
        max_batch: int = 1000,
        window: float = 0.0,
    ) -> None:
        if max_batch < 1:
            raise ConfigurationError(f"max_batch must be at least 1, not {max_batch}")
        self._collection = collection
        self._key = key
        self._filter = dict(filter or {})
        self._projection = _projection(fields, key=key)
        self._sort = list(sort)
        self._decode = decode
        self._max_batch = max_batch
        self._window = window
        self._many = False
        self._asked: dict[Hashable, asyncio.Future[Any]] = {}
        self._waiting: dict[Hashable, Any] = {}
        self._queries: set[asyncio.Task[None]] = set()

    @classmethod
    def lists(cls, collection: Collection, key: str, **options: Any) -> BatchLoader[list[Any]]:
        """A loader that gives every document of a key as a list; arguments as the class's own."""
        loader: BatchLoader[list[Any]] = BatchLoader(collection, key, **options)
        loader._many = True
        return loader

    async def load(self, key: Any) -> Found:
        """What has this key: a document or None; of `lists`, a list. None is no key, so nothing is asked.

        Raises:
            TypeError: the key is an array or a pattern, which MongoDB would match by other rules.
            PyMongoError: the query failed; asking again tries again.
        """
        if key is None:
            return [] if self._many else None  # type: ignore[return-value]
        if isinstance(key, (list, tuple, re.Pattern, Regex)):
            raise TypeError(f"a {type(key).__name__} is no key to load by")
        identity = canonical.value(key)
        answer = self._asked.get(identity)
        if answer is None:
            loop = asyncio.get_running_loop()
            answer = self._asked[identity] = loop.create_future()
            answer.add_done_callback(_retrieve)
            if not self._waiting:
                # Handlers that were started together all run before what they schedule.
                if self._window:
                    loop.call_later(self._window, self._dispatch)
                else:
                    loop.call_soon(self._dispatch)
            self._waiting[identity] = key
        if answer.done():
            return answer.result()  # type: ignore[no-any-return]
        # One caller's cancellation is not the others'.
        found: Found = await asyncio.shield(answer)
        return found

    async def load_many(self, keys: Iterable[Any]) -> list[Found]:
        """`load` of each, in the order of the keys; one query for all (chunks of `max_batch`)."""
        return list(await asyncio.gather(*map(self.load, keys)))

    def prime(self, key: Any, found: Found) -> None:
        """Remember what is known already, so that it is not asked for."""
        answer = asyncio.get_running_loop().create_future()
        answer.set_result(found)
        self._asked[canonical.value(key)] = answer

    def clear(self, key: Any) -> None:
        """Forget a key, after a write: the next `load` asks again."""
        self._asked.pop(canonical.value(key), None)

    def _dispatch(self) -> None:
        waiting, self._waiting = list(self._waiting.items()), {}
        for start in range(0, len(waiting), self._max_batch):
            chunk = dict(waiting[start : start + self._max_batch])
            answers = {identity: self._asked[identity] for identity in chunk if identity in self._asked}
            query = asyncio.get_running_loop().create_task(self._query(list(chunk.values()), answers))
            self._queries.add(query)
            query.add_done_callback(self._queries.discard)

    async def _query(self, keys: list[Any], answers: Mapping[Hashable, asyncio.Future[Any]]) -> None:
        try:
            cursor: Any = self._collection.find(
                {"$and": [{self._key: {"$in": keys}}, self._filter]} if self._filter else {self._key: {"$in": keys}},
                self._projection,
                sort=self._sort or None,
            )
            found: dict[Hashable, list[Any]] = {}
            for document in await rows(cursor):
                item = self._decode(document) if self._decode else document
                for identity in {canonical.value(value) for value in _values(document, self._key.split("."))}:
                    found.setdefault(identity, []).append(item)
        except BaseException as error:
            for identity, answer in answers.items():
                if self._asked.get(identity) is answer:
                    del self._asked[identity]
                if not answer.done():
                    # A task that is being cancelled must not look like its callers' own cancellation.
                    failed = error if isinstance(error, Exception) else RuntimeError("the batch was cancelled")
                    answer.set_exception(failed)
            if not isinstance(error, Exception):
                raise
            return
        for identity, answer in answers.items():
            items = found.get(identity, [])
            if not answer.done():
                answer.set_result(items if self._many else next(iter(items), None))


def lookup_one(
    collection: str,
    *,
    local: str,
    foreign: str = "_id",
    into: str,
    fields: Fields = None,
) -> list[dict[str, Any]]:
    """Stages that put the one document of `collection` whose `foreign` equals this one's `local` in the field `into`.

    Put them after `$limit`. Unlike `$unwind`, they keep rows that have no match (`into` is then null) and never
    multiply a row.

    Args:
        fields: of the other document; names, or a projection.
    """
    # A pipeline inside $lookup is run for every row, which costs more than the join itself: none where none is needed.
    inner: list[dict[str, Any]] = [] if foreign == "_id" else [{"$limit": 1}]
    found: Any = {"$first": f"${into}"}
    plain = fields is not None and not isinstance(fields, (str, Mapping)) and not any("." in name for name in fields)
    if plain and not inner:
        kept = {name: f"$$found.{name}" for name in dict.fromkeys(["_id", *(fields or ())])}
        nothing = {"$eq": [{"$type": "$$found"}, "missing"]}
        found = {"$let": {"vars": {"found": found}, "in": {"$cond": [nothing, None, kept]}}}
    elif fields is not None:
        inner.append({"$project": _as_projection(fields)})
    return [
        _lookup(collection, local=local, foreign=foreign, into=into, pipeline=inner),
        {"$set": {into: _unless_null(local, {"$ifNull": [found, None]}, None, foreign=foreign)}},
    ]


def lookup_many(
    collection: str,
    *,
    local: str = "_id",
    foreign: str,
    into: str,
    filter: Mapping[str, Any] | None = None,  # noqa: A002 - MongoDB's word
    sort: Sequence[tuple[str, int]] = (),
    limit: int | None = None,
    fields: Fields = None,
) -> list[dict[str, Any]]:
    """Stages that put the documents whose `foreign` equals this one's `local` in the array `into`.

    Put them after `$limit`. With an index on `foreign` and then the sort fields, each row reads `limit` keys, however
    many documents match.

    Args:
        filter: further conditions on the other documents.
        sort: their order.
        limit: how many of them at most.
        fields: of them; names, or a projection.

    Raises:
        ConfigurationError: `limit` is below 1.
    """
    if limit is not None and limit < 1:
        raise ConfigurationError(f"limit must be at least 1, not {limit}")
    inner: list[dict[str, Any]] = []
    if filter:
        inner.append({"$match": dict(filter)})
    if sort:
        inner.append({"$sort": dict(sort)})
    if limit is not None:
        inner.append({"$limit": limit})
    if fields is not None:
        inner.append({"$project": _as_projection(fields)})
    stages = [_lookup(collection, local=local, foreign=foreign, into=into, pipeline=inner)]
    if local != "_id":
        stages.append({"$set": {into: _unless_null(local, f"${into}", [], foreign=foreign)}})
    return stages


def _lookup(collection: str, *, local: str, foreign: str, into: str, pipeline: list[dict[str, Any]]) -> dict[str, Any]:
    # localField and foreignField beside a pipeline (5.0+) let the planner use an index; `let` with `$expr` may not.
    stage: dict[str, Any] = {"from": collection, "localField": local, "foreignField": foreign, "as": into}
    if pipeline:
        stage["pipeline"] = pipeline
    return {"$lookup": stage}


def _unless_null(local: str, found: Any, nothing: Any, *, foreign: str) -> Any:
    # To $lookup a missing local field equals a missing foreign one: without this, orphans adopt each other.
    if foreign == "_id":
        return found
    return {"$cond": [{"$eq": [{"$ifNull": [f"${local}", None]}, None]}, nothing, found]}


def _retrieve(answer: asyncio.Future[Any]) -> None:
    """Take note of an error that every caller was cancelled before seeing."""
    if not answer.cancelled():
        answer.exception()


def _values(document: Any, path: Sequence[str]) -> Iterator[Any]:
    if isinstance(document, list):
        for element in document:
            yield from _values(element, path)
    elif not path:
        yield document
    elif isinstance(document, Mapping) and path[0] in document:
        yield from _values(document[path[0]], path[1:])


def _as_projection(fields: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(fields, str):
        raise ConfigurationError(f"fields must be a list of names, not the string {fields!r}")
    return dict(fields) if isinstance(fields, Mapping) else dict.fromkeys(fields, 1)


def _projection(fields: Fields, *, key: str) -> dict[str, Any] | None:
    if fields is None:
        return None
    projection = _as_projection(fields)
    if key in projection and not projection[key]:
        raise ConfigurationError(f"fields leave out {key!r}, by which documents are told apart")
    covered = any(key == path or key.startswith(f"{path}.") for path, chosen in projection.items() if chosen)
    if any(projection.values()) and not covered and key != "_id":
        # MongoDB refuses a path beside one that lies within it, so the wider one gives way to none.
        projection = {path: chosen for path, chosen in projection.items() if not path.startswith(f"{key}.")}
        projection[key] = 1
    return projection
