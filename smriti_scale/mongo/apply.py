"""Runs an index plan: one instance at a time, step by step, each safe to repeat."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from bson.codec_options import CodecOptions
from pymongo.errors import ConnectionFailure, OperationFailure
from pymongo.read_preferences import Primary
from pymongo.write_concern import WriteConcern

from smriti_scale.clock import SYSTEM_CLOCK
from smriti_scale.errors import DuplicateKeys, IndexBuildFailed, IndexPlanRefused, StalePlan
from smriti_scale.events import Events, IndexStepDone
from smriti_scale.mongo.build import build, wait_until_built_everywhere
from smriti_scale.mongo.catalog import BOOKKEEPING, INDEX_NOT_FOUND, CollectionState, read_catalog
from smriti_scale.mongo.diff import collection_steps
from smriti_scale.mongo.duplicates import find_duplicates
from smriti_scale.mongo.index import TTL_OFF
from smriti_scale.mongo.lease import Lease
from smriti_scale.mongo.plan import IndexPlan, Policy, Progress, Step, StepDone
from smriti_scale.mongo.server_errors import CANNOT_CONVERT_TO_UNIQUE, explained

if TYPE_CHECKING:
    from smriti_scale.mongo.drivers import Database
    from smriti_scale.mongo.indexes import Indexes

_MAJORITY = WriteConcern(w="majority", wtimeout=60_000)


async def make_plan(db: Database, indexes: Indexes, policy: Policy) -> IndexPlan:
    """Read the database and find the steps to the declarations."""
    # An application's codec options (raw documents, custom types) are of no use to a reader of metadata.
    db = db.with_options(codec_options=CodecOptions(tz_aware=True), read_preference=Primary(), write_concern=_MAJORITY)
    dropping = set(indexes) if policy.drop_superseded else set(policy.drop)
    states = await read_catalog(db, indexes, usage_of=dropping)
    now = (await db.command("hello"))["localTime"].replace(tzinfo=datetime.UTC)
    steps: list[Step] = []
    for name, state in states.items():
        steps.extend(collection_steps(indexes[name], state, policy, now=now))
    return IndexPlan(db.name, tuple(steps), states, run=partial(_run, db, indexes, policy))


async def _run(
    db: Database,
    indexes: Indexes,
    policy: Policy,
    plan: IndexPlan,
    *,
    progress: Callable[[Progress], None] | None,
    wait: float,
    prepare_unique: bool,
    skip_refused: bool,
    events: Events | None,
) -> tuple[StepDone, ...]:
    if plan.is_empty:
        return ()
    _refuse(plan, skip_refused=skip_refused)

    def waiting(owner: str) -> None:
        if progress:
            progress(Progress(plan.changes[0], 0, len(plan.changes), None, f"waiting: {owner} is building"))

    async with Lease(db[BOOKKEEPING], wait=wait, waiting=waiting) as lease:
        fresh = await make_plan(db, indexes, policy)
        planned = {key for step in plan.changes for key in _foreseen(step)}
        unforeseen = [step for step in fresh.changes if step.key not in planned]
        if unforeseen:
            steps = ", ".join(f"{step.kind} {step.collection}.{step.name}" for step in unforeseen)
            raise StalePlan(f"the database changed since the plan was made: it now also needs {steps}. Plan again")
        _refuse(fresh, skip_refused=skip_refused)
        todo = [step for step in fresh.changes if not step.refused]
        applier = _Applier(db, fresh, todo, lease, progress, prepare_unique, events)
        return await applier.run()


def _foreseen(step: Step) -> list[tuple[str, str, str]]:
    """What a step is, and what remains of it when another instance was interrupted in the middle of it."""
    keys = [step.key]
    if step.replaces is not None:
        keys += [("create", step.collection, step.name), ("hide", step.collection, step.replaces)]
    return keys


def _refuse(plan: IndexPlan, *, skip_refused: bool) -> None:
    if plan.refused and not skip_refused:
        raise IndexPlanRefused(
            "nothing was changed, since not every step may run:\n"
            + "\n".join(f"  {step.kind} {step.collection}.{step.name}: {step.refused}" for step in plan.refused)
        )


@dataclass(slots=True)
class _Applier:
    db: Database
    plan: IndexPlan
    todo: Sequence[Step]
    lease: Lease
    progress: Callable[[Progress], None] | None
    prepare_unique: bool
    events: Events | None

    async def run(self) -> tuple[StepDone, ...]:
        done: list[StepDone] = []
        place = 0
        while place < len(self.todo):
            self.lease.check()
            batch = self._batch(place)
            started = SYSTEM_CLOCK.monotonic()
            self._tell(place, None, "starting")
            try:
                await self._execute(batch, place)
            except OperationFailure as error:
                await self._raise(error, batch)
            except ConnectionFailure as error:
                raise IndexBuildFailed(
                    f"{batch[0].kind} {batch[0].collection}.{batch[0].name}: the connection broke ({error}). A build "
                    "goes on without it; apply again to join it and do the rest",
                    code=None,
                ) from error
            seconds = SYSTEM_CLOCK.monotonic() - started
            for step in batch:
                done.append(StepDone(step, seconds))
                if self.events:
                    self.events.emit(IndexStepDone(step.kind, step.collection, step.name, seconds))
            place += len(batch)
            self._tell(place - 1, 1.0, "done")
        return tuple(done)

    def _batch(self, place: int) -> list[Step]:
        """The step, with the builds after it that one scan of the collection can serve."""
        first = self.todo[place]
        batch = [first]
        # A unique build that meets a duplicate aborts the whole command, so it goes alone.
        if first.kind in ("create", "rebuild") and not first.index.unique:
            for step in self.todo[place + 1 :]:
                if step.kind not in ("create", "rebuild") or step.index.unique or step.collection != first.collection:
                    break
                batch.append(step)
        return batch

    def _tell(self, place: int, fraction: float | None, phase: str) -> None:
        if self.progress:
            self.progress(Progress(self.todo[place], place + 1, len(self.todo), fraction, phase))

    async def _execute(self, batch: Sequence[Step], place: int) -> None:
        step = batch[0]
        match step.kind:
            case "create" | "rebuild":
                await self._build(batch, place)
            case "set_ttl":
                await self._modify(step, expireAfterSeconds=TTL_OFF if step.index.ttl is None else step.index.ttl)
            case "unprepare":
                await self._modify(step, prepareUnique=False)
            case "make_unique":
                await self._make_unique(step)
            case "unhide":
                await self._modify(step, hidden=False)
                await self._record(step.collection, step.name, superseded_by=None)
            case "hide":
                await self._hide(step.collection, step.name)
            case "drop":
                await self._drop(step)

    def _state(self, collection: str) -> CollectionState:
        return self.plan.collections[collection]

    async def _modify(self, step: Step, **options: Any) -> None:
        await self.db.command({"collMod": step.collection, "index": {"name": step.name, **options}})

    async def _build(self, batch: Sequence[Step], place: int) -> None:
        collection = batch[0].collection
        for step in batch:
            # Written before the build, so that whoever takes over after a kill knows what replaces what.
            if step.replaces is not None:
                await self._record(collection, step.replaces, superseded_by=step.name)
            await self._record(collection, step.name, superseded_by=None)
        specs = [step.index.to_server(name=step.name) for step in batch]
        await build(self.db, collection, specs, progress=partial(self._tell, place))
        for step in batch:
            if step.replaces is not None:
                self._tell(place, 1.0, "checking every node")
                await self._hide(collection, step.replaces)

    async def _hide(self, collection: str, name: str) -> None:
        existing = self._state(collection).find(name)
        options: dict[str, Any] = {"hidden": True}
        record = await self.db[BOOKKEEPING].find_one({"_id": f"{collection}/{name}"})
        successor = record.get("superseded_by") if record else None
        if successor:
            await wait_until_built_everywhere(self.db, collection, [successor])
        if successor and existing is not None and existing.index.expires:
            # A hidden TTL index goes on deleting; its successor decides now.
            options["expireAfterSeconds"] = TTL_OFF
        await self.db.command({"collMod": collection, "index": {"name": name, **options}})
        if successor:
            await self._record(collection, name, superseded_by=successor, hidden=True)

    async def _make_unique(self, step: Step) -> None:
        existing = self._state(step.collection).find(step.name)
        was_prepared = existing is not None and existing.prepared
        if not was_prepared:
            await self._modify(step, prepareUnique=True)
        try:
            await self._modify(step, unique=True)
        except OperationFailure as error:
            if error.code != CANNOT_CONVERT_TO_UNIQUE:
                raise
            prepared = was_prepared or self.prepare_unique
            if not prepared:
                await self._modify(step, prepareUnique=False)
            await self._raise_duplicates(step, prepared=prepared)

    async def _drop(self, step: Step) -> None:
        try:
            await self.db.command({"dropIndexes": step.collection, "index": step.name})
        except OperationFailure as error:
            if error.code != INDEX_NOT_FOUND:
                raise
        await self.db[BOOKKEEPING].delete_one({"_id": f"{step.collection}/{step.name}"})

    async def _record(self, collection: str, name: str, *, superseded_by: str | None, hidden: bool = False) -> None:
        # Names are literals, since an index's may begin with a dollar; the time is the server's.
        known = {"collection": collection, "index": name, "superseded_by": superseded_by}
        values: dict[str, Any] = {field: {"$literal": value} for field, value in known.items()}
        values["hidden_at"] = "$$NOW" if hidden else None
        await self.db[BOOKKEEPING].update_one({"_id": f"{collection}/{name}"}, [{"$set": values}], upsert=True)

    async def _raise(self, error: OperationFailure, batch: Sequence[Step]) -> None:
        if error.code == 11000:
            await self._raise_duplicates(batch[0], prepared=False)
        raise explained(error, batch[0]) from error

    async def _raise_duplicates(self, step: Step, *, prepared: bool) -> None:
        groups, total = await find_duplicates(self.db, step.collection, step.index)
        raise DuplicateKeys(
            f"{self.db.name}.{step.collection}", step.name, groups=groups, total=total, prepared=prepared
        )
