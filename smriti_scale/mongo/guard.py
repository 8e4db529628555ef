"""The query guard: listens to commands, explains what it saw, and names what scans, sorts in memory or repeats.

In tests and development it watches a block or a request and raises or warns; in production it reports slow commands
as events, by shape, without values and without asking the server anything.
"""

from __future__ import annotations

import logging
import random
import threading
import warnings
from collections.abc import Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from pymongo.errors import PyMongoError
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from smriti_scale.clock import SYSTEM_CLOCK, Clock
from smriti_scale.errors import ConfigurationError, QueryProblems
from smriti_scale.events import Events, SlowQuery
from smriti_scale.mongo.catalog import BOOKKEEPING
from smriti_scale.mongo.explain import Explained, explained
from smriti_scale.mongo.index import Index
from smriti_scale.mongo.shape import OBSERVED, READS, Shape, shape_of

if TYPE_CHECKING:
    from smriti_scale.mongo.drivers import Database

Action: TypeAlias = Literal["raise", "warn", "report"]

_log = logging.getLogger("smriti_scale.mongo.guard")
_OTHERS = ("system.", "smriti_scale.")
"""Collections that are nobody's queries: the server's own, and the probe by which reads wait for a position."""
_EXPLAIN_MS = 10_000
_MOST_RUNNING = 1_000
"""Commands that are remembered until they end. Older PyMongo Async does not tell of a cancelled one's end."""
# What a driver adds to a command, and `explain` does not take.
_ENVELOPE = frozenset(
    {
        "lsid", "$clusterTime", "$db", "$readPreference", "txnNumber", "autocommit", "startTransaction",
        "readConcern", "writeConcern", "maxTimeMS", "apiVersion", "apiStrict", "apiDeprecationErrors", "comment",
    }
)  # fmt: skip


class QueryWarning(UserWarning):
    """What the guard found, where it was told to warn."""


@dataclass(frozen=True, slots=True)
class QueryProblem:
    """One finding.

    Attributes:
        kind: `scan` (COLLSCAN), `sort` (in memory), `ratio` (examined far more than returned) or `repeated` (N+1).
        shape: the query without its values.
        detail: figures.
        wants: the indexes that would serve.
    """

    kind: Literal["scan", "sort", "ratio", "repeated"]
    database: str
    collection: str
    shape: str
    detail: str
    wants: tuple[Index, ...] = ()
    remedy: str = ""

    def __str__(self) -> str:
        lines = [f"{self.kind}: {self.shape}", f"    {self.detail}"]
        if self.wants:
            lines.append(f"    would serve: {', '.join(map(repr, self.wants))}")
        if self.remedy:
            lines.append(f"    {self.remedy}")
        return "\n".join(lines)


@dataclass(slots=True)
class Seen:
    shape: Shape
    database: str
    command: Mapping[str, Any]
    count: int = 1


@dataclass(slots=True)
class Watched:
    """What one block or request has sent. Motor's commands report from several threads."""

    seen: dict[tuple[str, str], Seen] = field(default_factory=dict)
    requests: set[int] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, shape: Shape, event: CommandStartedEvent) -> None:
        database, command = event.database_name, event.command
        with self.lock:
            if event.request_id in self.requests:  # heard twice: by the client's listener and pytest's
                return
            self.requests.add(event.request_id)
            known = self.seen.get((database, shape.text))
            if known is None:
                self.seen[database, shape.text] = Seen(shape, database, command)
            else:
                known.count += 1


watched_now: ContextVar[tuple[QueryGuard, Watched] | None] = ContextVar("smriti_scale.mongo.guard", default=None)


class QueryGuard(CommandListener):
    """A command listener that knows bad queries. Give it to the client: `event_listeners=[guard]`.

    ```python
    guard = QueryGuard()
    client = AsyncMongoClient(uri, event_listeners=[guard])
    async with guard.watch(client.smriti):      # raises QueryProblems at the end of the block
        await feed(client.smriti, "42")
    ```

    Args:
        max_ratio: keys or documents examined for each returned, from which on a query is a problem.
        min_examined: below so many examined, no ratio is a problem (small collections).
        max_repeats: how often one shape of read may be sent in a watched block or request.
        ignore: collections to leave out.
        slow_ms: milliseconds from which on a command is reported as `SlowQuery`, with or without a watched block;
            None for never.
        sample: share of the slow commands that are reported, 0 to 1.
        max_reports: `SlowQuery` events in a second at most, so that a slow server is not flooded with reports.
        events: where `SlowQuery` and `RepeatedQuery` go.

    Raises:
        ConfigurationError: a limit that cannot be.
    """

    def __init__(
        self,
        *,
        max_ratio: float = 10.0,
        min_examined: int = 100,
        max_repeats: int = 5,
        ignore: tuple[str, ...] = (),
        slow_ms: float | None = None,
        sample: float = 1.0,
        max_reports: int = 10,
        events: Events | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if max_ratio < 1 or max_repeats < 1:
            raise ConfigurationError(f"max_ratio and max_repeats must be at least 1, not {max_ratio} and {max_repeats}")
        if not 0 <= sample <= 1:
            raise ConfigurationError(f"sample is a share from 0 to 1, not {sample}")
        self.max_ratio = max_ratio
        self.min_examined = min_examined
        self.max_repeats = max_repeats
        self.ignore = frozenset({*ignore, BOOKKEEPING})
        self.slow_ms = slow_ms
        self.events = events
        self._sample = sample
        self._max_reports = max_reports
        self._now = clock.monotonic
        self._second = 0.0
        self._reports = 0
        self._running: dict[int, CommandStartedEvent] = {}

    def watch(self, db: Database, *, action: Action = "raise") -> Watch:
        """Watch the queries of a block: `async with guard.watch(db): …`. The tasks it starts count too.

        Args:
            db: any database handle of the server that the queries go to; explains are sent by it.
            action: `raise` or `warn` at the end of the block, or only `report` (`.problems` of the block).
        """
        return Watch(self, db, action=action)

    def started(self, event: CommandStartedEvent) -> None:
        """Called by the driver."""
        if event.command_name not in OBSERVED:
            return
        current = watched_now.get()
        if current is not None and current[0] is self:
            self._note(current[1], event)
        if self.slow_ms is not None:
            if len(self._running) >= _MOST_RUNNING:
                self._running.clear()  # nearly all were cancelled; those that do run are not judged
            self._running[event.request_id] = event

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """Called by the driver."""
        started = self._running.pop(event.request_id, None)
        if started is None or self.slow_ms is None or event.duration_micros < self.slow_ms * 1000:
            return
        self._slow(started, event.duration_micros / 1000, event.reply)

    def failed(self, event: CommandFailedEvent) -> None:
        """Called by the driver."""
        started = self._running.pop(event.request_id, None)
        if started is not None and self.slow_ms is not None and event.duration_micros >= self.slow_ms * 1000:
            self._slow(started, event.duration_micros / 1000, {})

    def _note(self, watched: Watched, event: CommandStartedEvent) -> None:
        shape = shape_of(event.command)
        if shape is None or shape.collection in self.ignore or shape.collection.startswith(_OTHERS):
            return
        watched.add(shape, event)

    def _slow(self, started: CommandStartedEvent, milliseconds: float, reply: Mapping[str, Any]) -> None:
        if not self.events or (self._sample < 1 and random.random() >= self._sample):
            return
        now = self._now()
        if now - self._second >= 1.0:
            self._second, self._reports = now, 0
        if self._reports >= self._max_reports:
            return
        shape = shape_of(started.command)
        if shape is None or shape.collection in self.ignore:
            return
        self._reports += 1
        cursor = reply.get("cursor")
        self.events.emit(
            SlowQuery(
                database=started.database_name,
                collection=shape.collection,
                shape=shape.text,
                milliseconds=milliseconds,
                returned=len(cursor["firstBatch"]) if isinstance(cursor, Mapping) and "firstBatch" in cursor else None,
                wants=", ".join(map(repr, shape.wants)),
            )
        )

    async def examine(self, db: Database | None, watched: Watched) -> list[QueryProblem]:
        """What is wrong with what was sent; without a database no plan is looked at."""
        problems: list[QueryProblem] = []
        for seen in list(watched.seen.values()):
            if db is not None:
                problems.extend(self._plan_problems(seen, await _explain(db, seen)))
        return problems + [self._repeated(seen) for seen in self.repeated(watched)]

    def repeated(self, watched: Watched) -> list[Seen]:
        """The reads that were sent more often than is allowed."""
        return [
            seen for seen in watched.seen.values() if seen.count > self.max_repeats and seen.shape.operation in READS
        ]

    def _plan_problems(self, seen: Seen, facts: Explained | None) -> list[QueryProblem]:
        if facts is None:
            return []
        shape = seen.shape
        examined = (
            f"{' ← '.join(facts.stages)}; {facts.keys:,} keys and {facts.documents:,} documents examined, "
            f"{facts.returned:,} returned"
        )

        def problem(kind: Literal["scan", "sort", "ratio"]) -> QueryProblem:
            return QueryProblem(kind, seen.database, shape.collection, shape.text, examined, wants=shape.wants)

        # Without filter and sort, the first documents of a collection are as near as those of an index.
        reads_the_head = shape.limited and not shape.filtered and not shape.sorted
        found = []
        if facts.scans and not reads_the_head:
            found.append(problem("scan"))
        if facts.sorts:
            found.append(problem("sort"))
        if (
            not found
            and not shape.groups
            and max(facts.keys, facts.documents) >= self.min_examined
            and facts.ratio > self.max_ratio
        ):
            found.append(problem("ratio"))
        return found

    def _repeated(self, seen: Seen) -> QueryProblem:
        remedy = "ask once: by `$in`, or `lookup_one`/`lookup_many` in the query before"
        if seen.shape.point is not None:
            remedy = f"ask once: BatchLoader(db.{seen.shape.collection}, {seen.shape.point!r})"
        return QueryProblem(
            "repeated",
            seen.database,
            seen.shape.collection,
            seen.shape.text,
            f"sent {seen.count} times, {self.max_repeats} are allowed (N+1)",
            remedy=remedy,
        )


class WatchedCommands(CommandListener):
    """Hands what is sent on to whichever guard watches at that moment: for `pymongo.monitoring.register`."""

    def started(self, event: CommandStartedEvent) -> None:
        current = watched_now.get()
        if current is not None and event.command_name in OBSERVED:
            current[0]._note(current[1], event)

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """Nothing to do."""

    def failed(self, event: CommandFailedEvent) -> None:
        """Nothing to do."""


async def _explain(db: Database, seen: Seen) -> Explained | None:
    command = {key: value for key, value in seen.command.items() if key not in _ENVELOPE}
    for statements in ("updates", "deletes"):
        if statements in command:
            command[statements] = list(command[statements])[:1]
    there = db.client[seen.database]
    token = watched_now.set(None)
    try:
        answer = await there.command({"explain": command, "verbosity": "executionStats", "maxTimeMS": _EXPLAIN_MS})
    except PyMongoError as error:
        _log.info("explain failed", extra={"shape": seen.shape.text, "error": type(error).__name__})
        return None
    finally:
        watched_now.reset(token)
    return explained(answer)


class Watch:
    """A watched block; see `QueryGuard.watch`.

    Attributes:
        problems: what was found, once the block has ended.
    """

    def __init__(self, guard: QueryGuard, db: Database, *, action: Action) -> None:
        self.problems: list[QueryProblem] = []
        self._guard = guard
        self._db = db
        self._action = action
        self._watched = Watched()
        self._token: Token[tuple[QueryGuard, Watched] | None] | None = None

    async def __aenter__(self) -> Self:
        self._token = watched_now.set((self._guard, self._watched))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            watched_now.reset(self._token)
        if error is not None:  # the block's own failure is the news
            return
        self.problems = await self._guard.examine(self._db, self._watched)
        act_on(self.problems, self._action)


def act_on(problems: list[QueryProblem], action: Action) -> None:
    if not problems or action == "report":
        return
    text = "\n".join(map(str, problems))
    if action == "raise":
        raise QueryProblems(f"{len(problems)} query problem(s):\n{text}")
    warnings.warn(text, QueryWarning, stacklevel=3)
