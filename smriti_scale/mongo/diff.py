"""From declared indexes and a collection's state to the steps between them. Pure.

The rules, in order:

1. A declared index is matched to an existing one by what it is (fields, partial, sparse, collation, …), whatever its
   name. What then differs is changed in place: TTL and hidden by `collMod`, unique by `prepareUnique` and `collMod`.
2. Else to one of its name: that is an older form, so the new one is built beside it under a new name.
3. Else it is created.
4. What exists and is not declared is kept, unless it is named to be hidden or dropped, or a rebuild replaced it.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import replace

from smriti_scale.mongo import canonical
from smriti_scale.mongo.catalog import CollectionState, ExistingIndex, Record
from smriti_scale.mongo.index import TTL_OFF, Index
from smriti_scale.mongo.plan import Estimate, Policy, Step, size_text

_MAX_INDEXES = 64
# What a two-core server built in our own benchmark; only the order of magnitude is promised.
_DOCUMENTS_PER_SECOND = 150_000
_BYTES_PER_SECOND = 100_000_000
_BYTES_PER_KEY = 24


def collection_steps(
    declared: Sequence[Index], state: CollectionState, policy: Policy, *, now: datetime.datetime
) -> list[Step]:
    """The steps for one collection, in the order in which they run."""
    if state.kind == "view":
        refused = f"{state.name!r} is a view; declare the indexes on the collection it reads from"
        return [Step("create", state.name, index.name, index, "declared", refused=refused) for index in declared]
    dropped = policy.drop.get(state.name, ())
    standing = [existing for existing in state.indexes if existing.index.name not in dropped]
    matched = _match(declared, standing, state)
    steps: list[Step] = []
    for index in declared:
        existing, same = matched[index.name]
        steps.extend(_steps_of(index, existing, same=same, state=state, policy=policy))
    taken = {existing.index.name for existing, _ in matched.values() if existing is not None}
    for existing in state.indexes:
        if existing.index.name in dropped:
            reason = "named to be dropped"
            steps.append(_drop(state, existing, reason, policy=policy))
        elif existing.index.name not in taken:
            steps.append(_undeclared(state, existing, policy, now=now, matched=taken))
    steps.sort(key=_order)
    return list(_refuse(steps, state, policy))


def _match(
    declared: Sequence[Index], standing: Sequence[ExistingIndex], state: CollectionState
) -> dict[str, tuple[ExistingIndex | None, bool]]:
    """For each declared name the index it corresponds to, and whether that is the same but for collMod's options."""
    free = list(standing)
    matched: dict[str, tuple[ExistingIndex | None, bool]] = {}
    # An exact twin of a declaration is its own before a near twin may be taken for another's.
    for same_unique in (True, False):
        for index in declared:
            if index.name in matched:
                continue
            fit = [
                existing
                for existing in free
                if _as_created(index, state).shape() == existing.index.shape()
                and (existing.index.unique == index.unique or not same_unique)
            ]
            if fit:
                best = max(fit, key=lambda existing: (existing.index.name == index.name, not existing.index.hidden))
                free.remove(best)
                matched[index.name] = (best, True)
    for index in declared:
        if index.name not in matched:
            namesake = next((existing for existing in free if existing.index.name == index.name), None)
            if namesake is not None:
                free.remove(namesake)
            matched[index.name] = (namesake, False)
    return matched


def _as_created(index: Index, state: CollectionState) -> Index:
    """The index as the server would make it: without a collation of its own it takes the collection's."""
    if index.collation is None and state.collation is not None and not index.is_text:
        return index.replace(collation=state.collation)
    return index


def _steps_of(
    index: Index, existing: ExistingIndex | None, *, same: bool, state: CollectionState, policy: Policy
) -> Iterator[Step]:
    name = state.name
    if existing is None:
        yield Step("create", name, index.name, index, "declared, not in the database", estimate=_estimate(state))
        return
    current = existing.index
    if existing.building:
        yield Step("create", name, current.name, index, "is being built; applying waits for that build")
        return
    if not same or (current.unique and not index.unique):
        yield Step(
            "rebuild",
            name,
            _free_name(index.name, state),
            index,
            f"{_difference(current, index, state)}; built beside {current.name!r}, which is then hidden, not dropped",
            replaces=current.name,
            estimate=_estimate(state),
        )
        return
    if index.expires != current.expires or (index.expires and index.ttl != current.ttl):
        yield Step("set_ttl", name, current.name, index, f"TTL {_ttl(current)} → {_ttl(index)}, by collMod")
    if index.unique and not current.unique:
        how = "prepareUnique is already set; " if existing.prepared else ""
        yield Step("make_unique", name, current.name, index, f"{how}prepareUnique, look for duplicates, collMod")
    elif existing.prepared and not index.unique:
        yield Step("unprepare", name, current.name, index, "prepareUnique is set, but the index is not declared unique")
    if index.hidden != current.hidden:
        yield Step("hide" if index.hidden else "unhide", name, current.name, index, "declared so, by collMod")
    if index.name != current.name and not _is_rebuilt(current.name, of=index.name):
        yield Step(
            "keep",
            name,
            current.name,
            current,
            f"serves as {index.name!r}: MongoDB cannot rename an index. Name it in `drop` to build it anew",
        )


def _undeclared(
    state: CollectionState,
    existing: ExistingIndex,
    policy: Policy,
    *,
    now: datetime.datetime,
    matched: set[str],
) -> Step:
    index, name = existing.index, existing.index.name
    record = (state.records or {}).get(name)
    if record is not None and record.superseded_by in matched:
        return _superseded(state, existing, record, policy, now=now)
    if name in policy.hide.get(state.name, ()) and not index.hidden:
        return Step("hide", state.name, name, index, "named to be hidden; unhiding takes milliseconds")
    if index.hidden:
        reason = "not declared, hidden"
    elif record is not None:
        reason = "no longer declared; name it in `hide`, and later in `drop`, to be rid of it"
    else:
        reason = "not declared"
    return Step("keep", state.name, name, index, reason)


def _superseded(
    state: CollectionState, existing: ExistingIndex, record: Record, policy: Policy, *, now: datetime.datetime
) -> Step:
    index = existing.index
    if not index.hidden:
        reason = f"replaced by {record.superseded_by!r}; finishes a rebuild"
        return Step("hide", state.name, index.name, index, reason)
    age = (now - record.hidden_at).total_seconds() if record.hidden_at else 0.0
    reason = f"replaced by {record.superseded_by!r}, hidden for {age / 3600:.1f} h"
    if policy.drop_superseded and age >= policy.drop_after:
        return _drop(state, existing, reason, policy=policy)
    if index.unique:
        reason += "; still refuses duplicates until dropped"
    return Step("keep", state.name, index.name, index, f"{reason}; `drop_superseded` drops it")


def _drop(state: CollectionState, existing: ExistingIndex, reason: str, *, policy: Policy) -> Step:
    step = Step("drop", state.name, existing.index.name, existing.index, reason)
    if existing.building:
        return replace(step, refused="it is being built; wait, or kill that build first")
    if existing.usage is None:
        if policy.force:
            return step
        return replace(step, refused="not every node said whether it uses this index; bring all up, or use `force`")
    used = [usage for usage in existing.usage if usage.operations]
    since = min((usage.since for usage in existing.usage), default=None)
    if not used:
        return replace(step, reason=f"{reason}; unused on {len(existing.usage)} nodes since {since:%Y-%m-%d %H:%M} UTC")
    uses = ", ".join(f"{usage.operations:,} × on {usage.node} since {usage.since:%Y-%m-%d %H:%M}" for usage in used)
    if policy.force:
        return replace(step, reason=f"{reason}; in use: {uses}")
    return replace(step, refused=f"in use: {uses}. Hide it first and see who misses it, or use `force`")


def _refuse(steps: Sequence[Step], state: CollectionState, policy: Policy) -> Iterator[Step]:
    """Mark what the server would refuse, or what costs more than the policy allows."""
    standing = {existing.index.name: existing.index for existing in state.indexes}
    for step in steps:
        if step.kind == "drop" and not step.refused:
            standing.pop(step.name, None)
        existing = state.find(step.name)
        if step.kind not in ("create", "rebuild") or (existing is not None and existing.building):
            yield step
            continue
        refused = step.refused
        rival = next((other for other in standing.values() if _excludes(other, _as_created(step.index, state))), None)
        if rival is not None:
            what = "two text indexes" if rival.is_text else "both"
            refused = (
                f"MongoDB cannot hold {what}: {rival.name!r} stands in the way. "
                f"Name it in `drop` ({state.name}.{rival.name}); queries have no index until the new one is built"
            )
        elif len(standing) + 1 >= _MAX_INDEXES:
            refused = f"{state.name!r} would have more than {_MAX_INDEXES} indexes; drop one first"
        elif state.data_bytes > policy.size_gate and not policy.force:
            refused = (
                f"{state.name!r} holds {size_text(state.data_bytes)}, over the gate of {size_text(policy.size_gate)}; "
                "build in a quiet hour with `force`, or raise `size_gate`"
            )
        if refused is None:
            standing[step.name] = step.index
        yield replace(step, refused=refused)


def _excludes(one: Index, other: Index) -> bool:
    return (one.is_text and other.is_text) or one.signature() == other.signature()


def _order(step: Step) -> int:
    """In place first, since it is quick; drops that make room before builds; what hides, last."""
    if step.kind == "keep":
        return 5
    if step.kind in ("create", "rebuild"):
        return 2
    if step.kind == "make_unique":
        return 3
    if step.kind == "hide":
        return 4
    return 1 if step.kind == "drop" else 0


def _difference(current: Index, index: Index, state: CollectionState) -> str:
    wanted = _as_created(index, state)
    parts = []
    if current.keys != index.keys:
        parts.append("other fields")
    if canonical.predicate(current.partial) != canonical.predicate(index.partial):
        parts.append("other partial filter")
    if canonical.collation(current.collation) != canonical.collation(wanted.collation):
        parts.append("other collation")
    if current.sparse != index.sparse:
        parts.append("sparse" if index.sparse else "no longer sparse")
    if current.unique != index.unique:
        parts.append("unique" if index.unique else "no longer unique")
    if current.weights != index.weights or current.default_language != index.default_language:
        parts.append("other text options")
    if canonical.projection(current.wildcard_projection) != canonical.projection(index.wildcard_projection):
        parts.append("other wildcard projection")
    return ", ".join(parts) or "other options"


def _ttl(index: Index) -> str:
    return f"{index.ttl} s" if index.ttl is not None and index.ttl < TTL_OFF else "off"


def _free_name(name: str, state: CollectionState) -> str:
    taken = {existing.index.name for existing in state.indexes}
    number = 2
    while f"{name}_v{number}" in taken:
        number += 1
    return f"{name}_v{number}"


def _is_rebuilt(name: str, *, of: str) -> bool:
    prefix, _, number = name.rpartition("_v")
    return prefix == of and number.isdigit()


def _estimate(state: CollectionState) -> Estimate:
    seconds = state.documents / _DOCUMENTS_PER_SECOND + state.data_bytes / _BYTES_PER_SECOND
    return Estimate(seconds=seconds, size=state.documents * _BYTES_PER_KEY)
