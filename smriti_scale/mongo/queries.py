"""What a query or a list needs from an index, and which index gives it: equality, then sort, then range. Pure.

The order is MongoDB's "ESR" guideline
(https://www.mongodb.com/docs/manual/tutorial/equality-sort-range-guideline/): fields compared for equality narrow the
scan to one run of the index, the sort fields after them come out in order, and only what remains is filtered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from smriti_scale.errors import ConfigurationError
from smriti_scale.mongo import canonical
from smriti_scale.mongo.index import Index

SortField = tuple[str, Literal[1, -1]]


@dataclass(frozen=True, slots=True, init=False)
class Query:
    """A list or query that the application runs, by its fields: what it compares, how it sorts.

    Args:
        equality: fields compared for equality (`{"user_id": x}`); short `$in` lists count too.
        sort: fields and directions, in order.
        range: fields compared by `$gt`, `$lt`, `$ne`, a prefix pattern and the like.
        collation: what the query is sent with; strings compare by it.
        name: for reports; by default the fields.
    """

    equality: tuple[str, ...]
    sort: tuple[SortField, ...] = ()
    range: tuple[str, ...] = ()
    collation: Mapping[str, Any] | None = field(default=None, hash=False)
    name: str = ""

    def __init__(
        self,
        *equality: str,
        sort: Sequence[SortField] = (),
        range: Sequence[str] = (),  # noqa: A002 - the field's own word
        collation: Mapping[str, Any] | None = None,
        name: str = "",
    ) -> None:
        if not (equality or sort or range):
            raise ConfigurationError("a Query without fields reads everything; no index can serve it")
        for path, way in sort:
            if way not in (1, -1):
                raise ConfigurationError(f"sort direction of {path!r} must be 1 or -1, not {way!r}")
        object.__setattr__(self, "equality", tuple(dict.fromkeys(equality)))
        # What is compared for equality is constant, so sorting by it changes nothing.
        object.__setattr__(self, "sort", tuple((path, way) for path, way in sort if path not in equality))
        sorted_by = {path for path, _ in self.sort}
        object.__setattr__(
            self, "range", tuple(path for path in dict.fromkeys(range) if path not in sorted_by | set(equality))
        )
        object.__setattr__(self, "collation", collation)
        object.__setattr__(self, "name", name or _describe(self))

    def best_index(self) -> Index:
        """The index that serves this query by the equality–sort–range order."""
        fields: list[Any] = [*self.equality, *(pair if pair[1] == -1 else pair[0] for pair in self.sort), *self.range]
        return Index(*fields, collation=self.collation)

    def served_by(self, index: Index, *, exact: bool = False) -> bool:
        """Whether the index narrows to the equality fields and gives the sort, without a scan or a sort in memory.

        Args:
            index: a candidate. Partial, sparse, hidden, text and (but for one equality) hashed and wildcard indexes
                cannot be relied on for every value, so they do not serve.
            exact: also require that the index has exactly these fields, so that `min()` and `max()` work on it.
        """
        if index.hidden or index.sparse or index.partial is not None or index.is_text:
            return False
        if canonical.collation(index.collation) != canonical.collation(self.collation):
            return False
        if index.is_hashed or index.is_wildcard:
            return not exact and self._served_by_point(index)
        if any(kind not in (1, -1) for _, kind in index.keys):
            return False
        head, tail = index.keys[: len(self.equality)], index.keys[len(self.equality) :]
        if sorted(path for path, _ in head) != sorted(self.equality):
            return False
        if exact and len(index.keys) != len(self.equality) + len(self.sort):
            return False
        if not _gives_sort(tail, self.sort):
            return False
        rest = {path for path, _ in tail[len(self.sort) :]}
        # Without a sort before it, the first range field must bound the scan; after a sort, it must at least be in
        # the index so that no document is fetched only to be thrown away.
        if self.range and not self.sort:
            return bool(tail) and tail[0][0] in self.range
        return set(self.range) <= rest

    def _served_by_point(self, index: Index) -> bool:
        if len(self.equality) != 1 or self.sort or self.range or len(index.keys) > 1:
            return False
        path = index.fields[0]
        if index.is_hashed:
            return path == self.equality[0]
        below = path.removesuffix("$**")
        return index.wildcard_projection is None and self.equality[0].startswith(below)


def serving(query: Query, indexes: Iterable[Index], *, exact: bool = False) -> Index | None:
    """The shortest of the indexes that serves the query, or None."""
    fit = [index for index in indexes if query.served_by(index, exact=exact)]
    return min(fit, key=lambda index: len(index.keys), default=None)


def _gives_sort(keys: Sequence[tuple[str, Any]], sort: Sequence[SortField]) -> bool:
    if len(keys) < len(sort):
        return False
    pairs = list(zip(keys, sort, strict=False))
    if any(key[0] != wanted[0] for key, wanted in pairs):
        return False
    # An index is read forwards or backwards: all directions as wanted, or all turned round.
    return len({key[1] == wanted[1] for key, wanted in pairs}) <= 1


def _describe(query: Query) -> str:
    parts = []
    if query.equality:
        parts.append(", ".join(query.equality))
    if query.range:
        parts.append(f"range {', '.join(query.range)}")
    if query.sort:
        parts.append("sort " + ", ".join(f"{path} {way}" for path, way in query.sort))
    return "; ".join(parts)
