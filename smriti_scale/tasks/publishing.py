"""Publishing from async code, without ever blocking the event loop.

`task.delay()` blocks the loop for as long as the broker takes. Here a message whose kind is known (`wire.py`) is made
in some microseconds and goes out by a pipelined connection of the loop's own; a crowd's go together, and a few are made
in each turn, so that other requests are served in between. What only Celery can publish (the first of a kind, a delay,
an expiry), and what the connection failed to deliver, is handed to a thread, which does it Celery's way.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import contextvars
import logging
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

from smriti_scale.breaker import CircuitBreaker
from smriti_scale.clock import SYSTEM_CLOCK, Clock
from smriti_scale.errors import ConfigurationError, DeadlineExceeded, NotSerializable, PublishFailed
from smriti_scale.events import TaskPublished, TaskPublishFailed
from smriti_scale.redis_failures import REDIS_ERRORS
from smriti_scale.redis_link import RedisLink
from smriti_scale.redis_pipe import Pipe
from smriti_scale.tasks.ids import new_id
from smriti_scale.tasks.keys import bell_key, list_key
from smriti_scale.tasks.policy import PRIORITIES, Priority

if TYPE_CHECKING:
    from celery import Task

    from smriti_scale.tasks.app import ScaleCelery

_MAX_WAITING = 10_000
_BATCH = 64
_A_TURN = 8
"""Messages made in one turn of an event loop: a quarter of a millisecond."""
_log = logging.getLogger("smriti_scale.tasks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """How a task is delivered.

    Args:
        queue: in place of the queue the task is routed to.
        priority: `high` goes before `normal`, and that before `low`, within a worker's queues.
        countdown: seconds until it may start.
        expires: seconds after which it is not started any more.
        task_id: the id, also the idempotency key of tasks that declare none; by default a new one.
        after_response: wait until the response to the current request has been sent, and send nothing if it was an
            error (status 400 or above); needs `PublishAfterResponseMiddleware`.
        timeout: seconds to wait for the broker.
    """

    queue: str | None = None
    priority: Priority | None = None
    countdown: float | None = None
    expires: float | None = None
    task_id: str | None = None
    after_response: bool = False
    timeout: float = 5.0

    def __post_init__(self) -> None:
        if self.priority is not None and self.priority not in PRIORITIES:
            raise ConfigurationError(f"priority must be one of {', '.join(PRIORITIES)}, not {self.priority!r}")
        if self.timeout <= 0:
            raise ConfigurationError(f"timeout must be positive, not {self.timeout}")

    def options(self) -> dict[str, Any]:
        """As Celery's `apply_async` names them."""
        if self is DEFAULT:
            return {}
        found = {
            "queue": self.queue,
            "priority": None if self.priority is None else PRIORITIES[self.priority],
            "countdown": self.countdown,
            "expires": self.expires,
            "task_id": self.task_id,
        }
        return {name: value for name, value in found.items() if value is not None}


DEFAULT = Delivery()

after_response: contextvars.ContextVar[list[Callable[[], Any]] | None] = contextvars.ContextVar(
    "smriti_scale.after_response", default=None
)
"""What `PublishAfterResponseMiddleware` will call once the response has been sent."""


async def publish(task: Task[Any, Any], /, *args: Any, delivery: Delivery = DEFAULT, **kwargs: Any) -> str:
    """Hand a task to the broker without blocking the event loop; return when the broker has it.

    Request id, causal position and trace of the caller travel along, and are in place again while the task runs.

    Args:
        task: a task of an app made by `make_celery`.
        *args: the task's arguments: JSON values.
        delivery: queue, priority, delay, deadline.
        **kwargs: the task's keyword arguments.

    Returns:
        The task's id. With `after_response` it is returned at once.

    Raises:
        NotSerializable: an argument is not JSON.
        TypeError: the arguments do not fit the task's signature.
        PublishFailed: the broker is unreachable or refused.
        DeadlineExceeded: no answer from the broker in `delivery.timeout` seconds; the task may have been sent.
        ConfigurationError: `after_response` without the middleware.
    """
    app: ScaleCelery = task.app  # type: ignore[assignment]
    options = delivery.options()
    task_id: str = options.setdefault("task_id", new_id())
    if delivery.after_response:
        waiting = after_response.get()
        if waiting is None:
            raise ConfigurationError(
                "after_response needs app.add_middleware(PublishAfterResponseMiddleware), and a request being served"
            )
        context = contextvars.copy_context()

        def later() -> Any:
            return asyncio.get_running_loop().create_task(
                _send(app, task, args, kwargs, options, delivery.timeout), context=context
            )

        waiting.append(later)
        return task_id
    await _send(app, task, args, kwargs, options, delivery.timeout)
    return task_id


async def _send(
    app: ScaleCelery, task: Task[Any, Any], args: Any, kwargs: Any, options: dict[str, Any], timeout: float
) -> None:
    if app.eager:
        from smriti_scale.tasks.eager import run_eagerly

        await run_eagerly(task, args, kwargs, options)
        return
    await app.publisher.send(task, args, kwargs, options, timeout)


@dataclass(slots=True, eq=False)
class _Job:
    task: Task[Any, Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: dict[str, Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[None]
    context: contextvars.Context
    asked_at: float
    begun: bool = False
    error: BaseException | None = None


class _Turns:
    """Spreads the making of messages over turns of one event loop, in the order in which they were asked for."""

    __slots__ = ("_loop", "_made", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = ref(loop)
        self._made = 0
        self._waiting: collections.deque[asyncio.Future[None]] = collections.deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self) -> asyncio.Future[None] | None:
        """None where it is one's turn; else what to wait for."""
        self._made += 1
        loop = self._loop()
        if self._made == 2 and loop is not None:  # a lone one pays nothing
            loop.call_soon(self._next)
        if (self._made <= _A_TURN and not self._waiting) or loop is None:
            return None
        future: asyncio.Future[None] = loop.create_future()
        self._waiting.append(future)
        return future

    def _next(self) -> None:
        self._made = 0
        while self._waiting and self._made < _A_TURN:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                self._made += 1
        loop = self._loop()
        if self._made and loop is not None:
            self._made = max(2, self._made)  # this turn's are given away, and the next is seen to
            loop.call_soon(self._next)


class Publisher:
    """Publishes for one app: on each event loop by a connection of its own, and by one thread what Celery has to do.

    The thread starts with the first task, and anew in a forked child.
    """

    def __init__(self, app: ScaleCelery, *, clock: Clock = SYSTEM_CLOCK) -> None:
        from smriti_scale.tasks.wire import Wire

        self._app = app
        self._clock = clock
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._wire = Wire()
        self._link = RedisLink(app.redis_url)
        self._pipes: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[Pipe, _Turns]] = WeakKeyDictionary()
        self._lines: dict[tuple[asyncio.AbstractEventLoop, float], collections.deque[tuple[float, _Job]]] = {}
        self._breaker = CircuitBreaker("the task broker", reset_after=0.5, reset_max=10.0, events=app.scale_events)

    async def send(
        self,
        task: Task[Any, Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: dict[str, Any],
        timeout: float,
    ) -> None:
        """Publish; see `publish` for what it raises."""
        asked_at = self._clock.monotonic()
        loop = asyncio.get_running_loop()
        if self._wire.knows(task, options):
            pipe, turns = self._pipes.get(loop) or self._opened(loop)
            if self._jobs.qsize() + pipe.unsent // 2 + len(turns) >= _MAX_WAITING:
                raise _too_many(task)
            if not self._breaker.allows():
                raise _refused(task)
            turn = turns.take()
            if turn is not None:
                await turn
            if await self._sent(pipe, task, args, kwargs, options, timeout):
                self._breaker.succeeded()
                if events := self._app.scale_events:
                    events.emit(TaskPublished(task=task.name, seconds=self._clock.monotonic() - asked_at))
                return
            timeout = max(0.1, timeout - (self._clock.monotonic() - asked_at))
        elif not self._breaker.allows():
            raise _refused(task)
        if self._thread is None or self._pid != os.getpid() or not self._thread.is_alive():
            self._start()
        if self._jobs.qsize() >= _MAX_WAITING:
            raise _too_many(task)
        future: asyncio.Future[None] = loop.create_future()
        job = _Job(task, args, kwargs, options, loop, future, contextvars.copy_context(), asked_at)
        self._jobs.put(job)
        self._watch(job, timeout)
        await future

    async def aclose(self) -> None:
        """Publish what waits, then end the thread and close the running loop's connection."""
        pipe, turns = self._pipes.pop(asyncio.get_running_loop(), (None, ()))
        if pipe is not None:
            while turns:  # noqa: ASYNC110 - each turn of the loop lets some of them go
                await asyncio.sleep(0)
            await pipe.drain(timeout=10.0)
            await pipe.aclose()
        await self._link.aclose()
        thread = self._thread
        if thread is not None and self._pid == os.getpid():
            self._jobs.put(None)
            await asyncio.to_thread(thread.join, 10.0)

    def _opened(self, loop: asyncio.AbstractEventLoop) -> tuple[Pipe, _Turns]:
        made = self._pipes[loop] = (Pipe(self._link.connection, timeout=DEFAULT.timeout, in_batches=True), _Turns(loop))
        return made

    async def _sent(
        self,
        pipe: Pipe,
        task: Task[Any, Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: dict[str, Any],
        timeout: float,
    ) -> bool:
        """Put a message of a known kind into its queue; False where that has to be tried by the thread.

        With kombu's retries, and under the same ids: part of what failed may have been sent.
        """
        try:
            made = self._wire.prepare(task, args, kwargs, options)
        except Exception as error:
            raise self._failed(task, _translated(error, task.name)) from error
        prefix = self._app.key_prefix
        ring = ("LPUSH", f"{prefix}{bell_key(made.queue)}", "1")
        key = f"{prefix}{list_key(made.queue, made.priority)}"
        try:
            await pipe.send_together(("LPUSH", key, made.message), ring, timeout=timeout)
        except DeadlineExceeded:
            late = DeadlineExceeded(f"publishing {task.name}", timeout=timeout)
            late.add_note("it may have been sent")
            self._breaker.failed(late)
            raise self._failed(task, late) from None
        except REDIS_ERRORS as error:
            _log.info("publishing %s failed, now by Celery's connection: %r", task.name, error)
            return False
        return True

    def _failed(self, task: Task[Any, Any], error: Exception) -> Exception:
        if events := self._app.scale_events:
            events.emit(TaskPublishFailed(task=task.name, error=type(error).__name__))
        return error

    def _start(self) -> None:
        with self._lock:
            if self._thread is not None and self._pid == os.getpid() and self._thread.is_alive():
                return
            self._pid = os.getpid()
            self._jobs = queue.SimpleQueue()
            self._thread = threading.Thread(
                target=self._serve, args=(self._jobs,), name="smriti-scale-publisher", daemon=True
            )
            self._thread.start()

    def _serve(self, jobs: queue.SimpleQueue[_Job | None]) -> None:
        while (job := jobs.get()) is not None:
            batch = [job]
            ended = False
            while len(batch) < _BATCH and not jobs.empty():
                if (following := jobs.get()) is None:
                    ended = True
                    break
                batch.append(following)
            # Those whose caller has gone (cancelled, or told that nothing was sent) are left out.
            self._publish([one for one in batch if not one.future.done()])
            if ended:
                return

    def _publish(self, batch: list[_Job]) -> None:
        """Publish in order, Celery's way. Once the broker is found to be away, the others need not wait in line."""
        try:
            away = False
            for job in batch:
                job.begun = not away
                if away:
                    job.error = PublishFailed(f"the broker did not take {job.task.name}: it is away")
                    continue
                self._publish_one(job)
                away = isinstance(job.error, PublishFailed)
        finally:
            self._hand_back(batch)

    def _publish_one(self, job: _Job) -> None:
        try:
            self._wire.publish_and_learn(job.task, job.args, job.kwargs, job.options, job.context)
        except Exception as error:  # noqa: BLE001 - whatever it was, the caller gets it
            job.error = _translated(error, job.task.name)

    def _hand_back(self, jobs: list[_Job]) -> None:
        for loop in {job.loop for job in jobs}:
            # A loop that has been closed since has nobody left who waits.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._settle, [job for job in jobs if job.loop is loop])

    def _settle(self, jobs: list[_Job]) -> None:
        events = self._app.scale_events
        for job in jobs:
            if job.error is None:
                self._breaker.succeeded()
                if events:
                    events.emit(TaskPublished(task=job.task.name, seconds=self._clock.monotonic() - job.asked_at))
            else:
                if isinstance(job.error, PublishFailed):
                    self._breaker.failed(job.error)
                if events:
                    events.emit(TaskPublishFailed(task=job.task.name, error=type(job.error).__name__))
            if not job.future.done():
                if job.error is None:
                    job.future.set_result(None)
                else:
                    job.future.set_exception(job.error)
            job.args, job.kwargs, job.options = (), {}, {}  # the line of deadlines keeps the job for a while

    def _watch(self, job: _Job, timeout: float) -> None:
        """See to the deadline. Jobs with one timeout fall due in line, so one timer does for all of them."""
        line = self._lines.get((job.loop, timeout))
        if line is None:
            line = self._lines[job.loop, timeout] = collections.deque()
            job.loop.call_later(timeout, self._expire, job.loop, timeout)
        line.append((job.loop.time() + timeout, job))

    def _expire(self, loop: asyncio.AbstractEventLoop, timeout: float) -> None:
        line = self._lines[loop, timeout]
        now = loop.time()
        while line and (line[0][0] <= now or line[0][1].future.done()):
            job = line.popleft()[1]
            if not job.future.done():
                late = DeadlineExceeded(f"publishing {job.task.name}", timeout=timeout)
                late.add_note("it may have been sent" if job.begun else "it was not sent")
                self._breaker.failed(late)
                job.future.set_exception(late)
        if line:
            loop.call_at(line[0][0], self._expire, loop, timeout)
        else:
            del self._lines[loop, timeout]


def _refused(task: Task[Any, Any]) -> PublishFailed:
    return PublishFailed(f"the broker failed moments ago; {task.name} was not sent")


def _too_many(task: Task[Any, Any]) -> PublishFailed:
    return PublishFailed(f"{_MAX_WAITING:,} tasks wait to be published; {task.name} was not sent")


def _translated(error: Exception, name: str) -> Exception:
    from kombu.exceptions import EncodeError, OperationalError

    if isinstance(error, EncodeError):
        found: Exception = NotSerializable(f"the arguments of {name} are not JSON ({error}): pass ids and plain values")
    elif isinstance(error, (OperationalError, OSError)):
        found = PublishFailed(f"the broker did not take {name}: {error}")
    else:
        return error
    found.__cause__ = error
    return found
