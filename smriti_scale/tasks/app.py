"""The Celery app that `make_celery` returns."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from celery import Celery, signals

from smriti_scale.events import Events
from smriti_scale.tasks.dead_letters import DeadLetters
from smriti_scale.tasks.idempotency import IdempotencyStore
from smriti_scale.tasks.idempotency_redis import RedisIdempotency
from smriti_scale.tasks.loops import Lifespan, WorkerLoop
from smriti_scale.tasks.policy import Broker, TaskPolicy
from smriti_scale.tasks.queues import QueueMonitor
from smriti_scale.tasks.task import ScaleTask

if TYPE_CHECKING:
    from smriti_scale.tasks.publishing import Publisher

    _Celery = Celery[Any]
else:
    _Celery = Celery


class ScaleCelery(_Celery):
    """Celery, with what the parts of this room need to know of each other.

    Attributes:
        policy: the numbers the app was made with.
        eager: whether tasks run where they are published.
        events: where the room's events go, in this process.
        worker_loop: the event loop on which async bodies run in a worker.
        redis_url: the broker's URL, in the form of `redis_link`.
        key_prefix: what the broker's keys begin with.
    """

    def __init__(
        self,
        name: str,
        *,
        policy: TaskPolicy,
        broker: Broker,
        redis_url: str,
        key_prefix: str,
        lifespan: Lifespan | None,
        events: Events | None,
        include: tuple[str, ...],
        settings: dict[str, Any],
    ) -> None:
        super().__init__(
            name, broker=broker.url, include=include, task_cls=ScaleTask, set_as_current=False, changes=settings
        )
        self.policy = policy
        # Read at every publish; looking it up in Celery's configuration takes longer than all the rest.
        self.eager = bool(settings["task_always_eager"])
        self.scale_events = events
        self.redis_url = redis_url
        self.key_prefix = key_prefix
        self.worker_loop = WorkerLoop(lifespan)
        self._publisher: Publisher | None = None
        self._idempotency: IdempotencyStore | None = None
        self.steps["consumer"].add("smriti_scale.tasks.request:LeaseStep")
        self._close_loop_with_the_process()

    if not TYPE_CHECKING:  # the stubs' overloads say it better

        def task(self, *args: Any, **opts: Any) -> Any:
            """Celery's decorator, for tasks of this app alone: Celery would give them to every app of the process."""
            opts.setdefault("shared", False)
            return super().task(*args, **opts)

    @property
    def publisher(self) -> Publisher:
        """Hands tasks to the broker off the event loop."""
        if self._publisher is None:
            from smriti_scale.tasks.publishing import Publisher

            self._publisher = Publisher(self)
        return self._publisher

    @property
    def idempotency(self) -> IdempotencyStore:
        """Where `@idempotent` tasks keep their keys unless they name a store: the broker's Redis."""
        if self._idempotency is None:
            self._idempotency = RedisIdempotency(self.redis_url, prefix=f"{self.key_prefix}{self.main}:once:")
        return self._idempotency

    @idempotency.setter
    def idempotency(self, store: IdempotencyStore) -> None:
        self._idempotency = store

    @cached_property
    def dead_letters(self) -> DeadLetters:
        """Tasks that will not be tried again, until someone decides."""
        return DeadLetters(self)

    @cached_property
    def queue_monitor(self) -> QueueMonitor:
        """Depth and age of the queues."""
        return QueueMonitor(self)

    def opened(self) -> AbstractAsyncContextManager[Any]:
        """`async with app.opened() as state:` enters the tasks' lifespan on the running loop, as eager tests need."""
        return self.worker_loop.opened()

    async def aclose(self) -> None:
        """Send what waits to be published and let go of the broker: for the end of the web app's lifespan."""
        if self._publisher is not None:
            await self._publisher.aclose()
        for made in ("dead_letters", "queue_monitor"):
            if made in self.__dict__:
                await self.__dict__[made].aclose()
        if isinstance(self._idempotency, RedisIdempotency):
            await self._idempotency.aclose()

    def _close_loop_with_the_process(self) -> None:
        def close(**_: Any) -> None:
            self.worker_loop.close()

        # The signals hold receivers weakly; the app keeps this one, and drops it with itself.
        self._close_loop = close
        signals.worker_process_shutdown.connect(close)
        signals.worker_shutdown.connect(close)
