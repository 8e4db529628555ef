"""What to do so that the database has the declared indexes: steps with reasons, printed as a diff. Pure but for apply.

`diff.py` finds the steps; `apply.py` runs them.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from smriti_scale.events import Events
from smriti_scale.mongo.catalog import CollectionState
from smriti_scale.mongo.index import Index

StepKind = Literal["create", "rebuild", "set_ttl", "make_unique", "unprepare", "hide", "unhide", "drop", "keep"]

_MARKS: dict[StepKind, str] = {
    "create": "+",
    "rebuild": "±",
    "set_ttl": "~",
    "make_unique": "~",
    "unprepare": "~",
    "hide": "~",
    "unhide": "~",
    "drop": "-",
    "keep": "=",
}
_VERBS: dict[StepKind, str] = {
    "create": "create",
    "rebuild": "rebuild",
    "set_ttl": "set TTL",
    "make_unique": "make unique",
    "unprepare": "allow duplicates",
    "hide": "hide",
    "unhide": "unhide",
    "drop": "drop",
    "keep": "keep",
}


@dataclass(frozen=True, slots=True)
class Policy:
    """What a plan may do beyond creating and changing. `hide` and `drop` hold index names by collection."""

    hide: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    drop: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    drop_superseded: bool = False
    drop_after: float = 86400.0
    size_gate: int = 10 * 2**30
    force: bool = False


@dataclass(frozen=True, slots=True)
class Estimate:
    """What building takes, roughly, on an idle server: seconds, and bytes of index."""

    seconds: float
    size: int


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do, or (`keep`) to leave alone, with the reason.

    Attributes:
        name: the index's name in the database, or the one it will get.
        index: what it is to become; for `hide`, `drop` and `keep`, what it is.
        replaces: for `rebuild`, the index that makes way; for `hide`, none.
        refused: why this step may not run; None if it may.
    """

    kind: StepKind
    collection: str
    name: str
    index: Index
    reason: str
    replaces: str | None = None
    refused: str | None = None
    estimate: Estimate | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """What the step does, to what: equal keys are the same step in two plans."""
        return (self.kind, self.collection, self.name)

    def to_dict(self) -> dict[str, Any]:
        """For `--json`: only names, numbers and texts."""
        return {
            "kind": self.kind,
            "collection": self.collection,
            "index": self.name,
            "declaration": repr(self.index),
            "reason": self.reason,
            "replaces": self.replaces,
            "refused": self.refused,
            "estimated_seconds": self.estimate and round(self.estimate.seconds, 1),
            "estimated_bytes": self.estimate and self.estimate.size,
        }


@dataclass(frozen=True, slots=True)
class StepDone:
    """A step that ran, and for how many seconds."""

    step: Step
    seconds: float


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a step is: `fraction` from 0 to 1, or None while the server says nothing; `phase` in words."""

    step: Step
    position: int
    total: int
    fraction: float | None
    phase: str


@dataclass(frozen=True, slots=True)
class IndexPlan:
    """The steps between a database and the declared indexes. `print(plan)` shows them as a diff."""

    database: str
    steps: tuple[Step, ...]
    collections: Mapping[str, CollectionState]
    run: Callable[..., Awaitable[tuple[StepDone, ...]]] | None = field(default=None, repr=False, compare=False)

    @property
    def changes(self) -> tuple[Step, ...]:
        """The steps that do something."""
        return tuple(step for step in self.steps if step.kind != "keep")

    @property
    def is_empty(self) -> bool:
        """Whether the database is as declared; what is merely kept does not count."""
        return not self.changes

    @property
    def refused(self) -> tuple[Step, ...]:
        """The steps that may not run."""
        return tuple(step for step in self.steps if step.refused)

    async def apply(
        self,
        *,
        progress: Callable[[Progress], None] | None = None,
        wait: float = 600.0,
        prepare_unique: bool = False,
        skip_refused: bool = False,
        events: Events | None = None,
    ) -> tuple[StepDone, ...]:
        """Run the steps. Looks at the database again first; safe to interrupt and to run again.

        Args:
            progress: called as steps begin, move and end.
            wait: seconds to wait while another instance applies.
            prepare_unique: where duplicates stand against `unique`, refuse new ones from now on, until a later
                `apply` finds none.
            skip_refused: run the other steps though some are refused.
            events: where `IndexStepDone` goes.

        Raises:
            IndexPlanRefused: a step may not run; nothing was done.
            StalePlan: the database now needs other steps than this plan has; nothing was done.
            BuilderBusy: another instance kept building for longer than `wait`.
            DuplicateKeys: documents stand against `unique`; the error lists them.
            IndexBuildFailed: the server refused; the text says what to do.
        """
        if self.run is None:
            raise TypeError("this plan was not made by Indexes.plan, so it knows no database")
        return await self.run(
            self,
            progress=progress,
            wait=wait,
            prepare_unique=prepare_unique,
            skip_refused=skip_refused,
            events=events,
        )

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "database": self.database,
            "in_sync": self.is_empty,
            "steps": [step.to_dict() for step in self.steps],
            "collections": {
                name: {
                    "kind": state.kind,
                    "documents": state.documents,
                    "data_bytes": state.data_bytes,
                    "indexes": {existing.index.name: existing.size for existing in state.indexes},
                }
                for name, state in self.collections.items()
            },
        }

    def to_json(self) -> str:
        """The plan for machines."""
        return json.dumps(self.to_dict(), indent=2)

    def __str__(self) -> str:
        lines = [f"Indexes of {self.database}"]
        for name, state in self.collections.items():
            steps = [step for step in self.steps if step.collection == name]
            if not steps:
                continue
            lines += ["", _heading(state)]
            width = max(len(_VERBS[step.kind]) for step in steps)
            for step in steps:
                lines.extend(_lines(step, state, verb_width=width))
        return "\n".join([*lines, "", self.summary()])

    def summary(self) -> str:
        """The plan in one line."""
        if self.is_empty:
            kept = len(self.steps)
            return "In sync: nothing to do" + (f" ({kept} kept)." if kept else ".")
        counts = [
            f"{count} to {_VERBS[kind]}"
            for kind in _MARKS
            if kind != "keep" and (count := sum(step.kind == kind for step in self.steps))
        ]
        refused = f"; {len(self.refused)} refused" if self.refused else ""
        return f"Plan: {', '.join(counts)}{refused}."


def _heading(state: CollectionState) -> str:
    if state.kind == "absent":
        return f"{state.name} (does not exist yet)"
    if state.kind == "view":
        return f"{state.name} (a view)"
    count = len(state.indexes) + 1
    return f"{state.name} ({state.documents:,} documents, {size_text(state.data_bytes)}, {count} of 64 indexes)"


def _lines(step: Step, state: CollectionState, *, verb_width: int) -> list[str]:
    size = existing.size if (existing := state.find(step.name)) else 0
    first = f"  {_MARKS[step.kind]} {_VERBS[step.kind]:<{verb_width}}  {step.name}"
    if size:
        first += f"  ({size_text(size)})"
    indent = " " * (verb_width + 6)
    lines = [first, f"{indent}{step.index!r}", f"{indent}{step.reason}"]
    if step.estimate:
        lines.append(f"{indent}about {duration_text(step.estimate.seconds)}, {size_text(step.estimate.size)}")
    if step.refused:
        lines.append(f"{indent}REFUSED: {step.refused}")
    return lines


def size_text(size: float) -> str:
    """`1.2 GB`: bytes for people."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def duration_text(seconds: float) -> str:
    """`2 min`: a rough duration for people."""
    if seconds < 1:
        return "1 s or less"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
