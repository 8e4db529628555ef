"""The outbox: tasks that are published if, and only if, the write they belong to is committed.

The task is written to a collection in the same transaction as the data. A relay reads the collection and hands the
tasks to the broker: at least once, under the id fixed at the write, so that `@idempotent` makes it once.
(Richardson, *Microservices Patterns*, ch. 3: transactional outbox.)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson
from bson import ObjectId

from smriti_scale.clock import SYSTEM_CLOCK, Clock
from smriti_scale.errors import ConfigurationError, NotSerializable
from smriti_scale.events import OutboxMeasured
from smriti_scale.tasks.publishing import DEFAULT, Delivery
from smriti_scale.tasks.task import with_context

if TYPE_CHECKING:
    from celery import Task

    from smriti_scale.tasks.app import ScaleCelery

_log = logging.getLogger("smriti_scale.tasks")
_FIRST_LOOK = 0.01
_LONGEST_PAUSE = 300.0
_PARALLEL = 32


class Outbox:
    """Tasks waiting in MongoDB to be handed to the broker.

    ```python
    outbox = Outbox(db.outbox, app)
    async with client.start_session() as session, await session.start_transaction():
        await db.posts.insert_one(post, session=session)
        await outbox.publish_on_commit(process_document, post_id, session=session)
    ```

    Args:
        collection: of Motor or PyMongo Async, in the deployment of the data.
        app: the app whose tasks are published.
        poll: seconds between looks for tasks of other processes; one's own are noticed at once.
        lease: seconds after which a relay that took a batch and died loses it to another.
        batch: tasks taken at a time.
        clock: the source of time.
    """

    def __init__(
        self,
        collection: Any,
        app: ScaleCelery,
        *,
        poll: float = 1.0,
        lease: float = 30.0,
        batch: int = 100,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if poll <= 0 or lease <= 0 or batch < 1:
            raise ConfigurationError(f"poll and lease must be positive and batch at least 1: {poll}, {lease}, {batch}")
        self._collection = collection
        self._app = app
        self._poll = poll
        self._lease = timedelta(seconds=lease)
        self._batch = batch
        self._clock = clock
        self._nudged = asyncio.Event()

    async def ensure_indexes(self) -> None:
        """The index the relay reads by: (`due_at`, `_id`)."""
        await self._collection.create_index([("due_at", 1), ("_id", 1)], name="outbox_due")

    async def publish_on_commit(
        self, task: Task[Any, Any], /, *args: Any, session: Any, delivery: Delivery = DEFAULT, **kwargs: Any
    ) -> str:
        """Write a task in the session's transaction; the relay publishes it when that is committed.

        Args:
            task: a task of the app.
            *args: its arguments: JSON values.
            session: a session with a transaction under way, the one that writes the data.
            delivery: as for `publish`.
            **kwargs: its keyword arguments.

        Returns:
            The task's id.

        Raises:
            ConfigurationError: the session has no transaction under way: then nothing would tie task and write.
            NotSerializable: an argument is not JSON; found here, before the commit.
        """
        if not session.in_transaction:
            raise ConfigurationError("publish_on_commit needs a session with a transaction under way")
        if delivery.after_response:
            raise ConfigurationError("after_response is for publish(): the outbox waits for the commit")
        try:
            call = orjson.dumps([args, kwargs])
        except TypeError as error:
            raise NotSerializable(f"the arguments of {task.name} are not JSON ({error})") from error
        options = delivery.options()
        task_id: str = options.setdefault("task_id", str(ObjectId()))
        await self._collection.insert_one(
            {
                "_id": task_id,
                "task": task.name,
                "call": call.decode(),
                "options": options,
                "headers": with_context(None),
                "created_at": self._now(),
                "due_at": self._now(),
                "attempts": 0,
            },
            session=session,
        )
        self._nudged.set()
        return task_id

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The relay, for as long as the block lasts: part of the app's lifespan."""
        relay = asyncio.create_task(self.run())
        try:
            yield
        finally:
            relay.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await relay

    async def run(self) -> None:
        """Relay until cancelled. Any number of processes may; each task is taken by one at a time."""
        pause = _FIRST_LOOK
        while True:
            try:
                handed_on = await self.relay_once()
            except Exception as error:  # noqa: BLE001 - MongoDB or the broker is away: both come back
                _log.warning("the outbox cannot be relayed now: %r", error)
                handed_on = 0
            # A task of this process is visible only when its transaction is committed, moments after the nudge:
            # look soon, then ever less often.
            pause = _FIRST_LOOK if handed_on else min(self._poll, pause * 2)
            if handed_on < self._batch:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._nudged.wait()
                        pause = _FIRST_LOOK
                self._nudged.clear()

    async def relay_once(self) -> int:
        """Take one batch of what is due and hand it to the broker; how many got there."""
        taken = await self._take()
        if not taken:
            return 0
        gate = asyncio.Semaphore(_PARALLEL)

        async def hand_on(entry: dict[str, Any]) -> Exception | None:
            async with gate:
                try:
                    args, kwargs = orjson.loads(entry["call"])
                    task = self._app.tasks[entry["task"]]
                    options = {**entry["options"], "headers": entry["headers"]}
                    await self._app.publisher.send(task, tuple(args), kwargs, options, DEFAULT.timeout)
                except Exception as error:  # noqa: BLE001 - the entry stays, with the error beside it
                    return error
                return None

        errors = await asyncio.gather(*(hand_on(entry) for entry in taken))
        sent = [entry["_id"] for entry, error in zip(taken, errors, strict=True) if error is None]
        if sent:
            await self._collection.delete_many({"_id": {"$in": sent}})
        for entry, error in zip(taken, errors, strict=True):
            if error is not None:
                await self._put_off(entry, error)
        return len(sent)

    async def measure(self) -> tuple[int, float]:
        """How many tasks wait, and for how many seconds the oldest. The event `OutboxMeasured` tells the same."""
        pending = await self._collection.count_documents({})
        oldest = await self._collection.find_one({}, sort=[("created_at", 1)], projection=["created_at"])
        age = 0.0 if oldest is None else max(0.0, (self._now() - _aware(oldest["created_at"])).total_seconds())
        if events := self._app.scale_events:
            events.emit(OutboxMeasured(pending=pending, age=age))
        return pending, age

    async def _take(self) -> list[dict[str, Any]]:
        now = self._now()
        due = {"due_at": {"$lte": now}}
        ids = [
            entry["_id"]
            for entry in await self._collection.find(due, projection=["_id"])
            .sort([("due_at", 1), ("_id", 1)])
            .limit(self._batch)
            .to_list(None)
        ]
        if not ids:
            return []
        token = uuid.uuid4().hex
        await self._collection.update_many(
            {"_id": {"$in": ids}, **due}, {"$set": {"due_at": now + self._lease, "taken_by": token}}
        )
        taken: list[dict[str, Any]] = (
            await self._collection.find({"_id": {"$in": ids}, "taken_by": token}).sort([("_id", 1)]).to_list(None)
        )
        return taken

    async def _put_off(self, entry: dict[str, Any], error: Exception) -> None:
        attempts = entry["attempts"] + 1
        pause = timedelta(seconds=min(_LONGEST_PAUSE, self._poll * 2.0 ** min(attempts, 20)))
        _log.warning("task %s waits in the outbox (attempt %d): %r", entry["task"], attempts, error)
        await self._collection.update_one(
            {"_id": entry["_id"], "taken_by": entry["taken_by"]},
            {"$set": {"due_at": self._now() + pause, "attempts": attempts, "last_error": repr(error)[:500]}},
        )

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.time(), UTC)


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
