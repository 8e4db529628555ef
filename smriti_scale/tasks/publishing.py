"""Publishing from async code: a thread talks to the broker, the event loop only hands over and is told.

`task.delay()` blocks the loop for as long as the broker takes. Here the loop spends some tens of microseconds: it puts
the call into a queue and awaits a future; results come back in batches, one wake-up for many. Making and sending
messages on the loop by a pipelined connection was tried: it costs the loop no less for one, and three times as much for
many at once, most of it system calls.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from smriti_scale.breaker import CircuitBreaker
from smriti_scale.errors import ConfigurationError, DeadlineExceeded, NotSerializable, PublishFailed
from smriti_scale.events import TaskPublished, TaskPublishFailed
from smriti_scale.tasks.ids import new_id
from smriti_scale.tasks.mailbox import Mailbox
from smriti_scale.tasks.policy import PRIORITIES, Priority

if TYPE_CHECKING:
    from celery import Task

    from smriti_scale.tasks.app import ScaleCelery
    from smriti_scale.tasks.wire import Kind, Line

_MAX_WAITING = 10_000
_BATCH = 64
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
    task = _real(task)
    app: ScaleCelery = task.app  # type: ignore[assignment]
    options = {} if delivery is DEFAULT else delivery.options()
    if delivery.after_response:
        waiting = after_response.get()
        if waiting is None:
            raise ConfigurationError(
                "after_response needs app.add_middleware(PublishAfterResponseMiddleware), and a request being served"
            )
        task_id: str = options.setdefault("task_id", new_id())
        context = contextvars.copy_context()

        def later() -> Any:
            return asyncio.get_running_loop().create_task(
                _send(app, task, args, kwargs, options, delivery.timeout), context=context
            )

        waiting.append(later)
        return task_id
    if app.eager:
        return await _send(app, task, args, kwargs, options, delivery.timeout)
    return await app.publisher.send(task, args, kwargs, options, delivery.timeout)


def _real(task: Task[Any, Any]) -> Task[Any, Any]:
    """The task itself where Celery's lazy stand-in for it is given, whose every attribute takes a microsecond."""
    resolve: Callable[[Any], Task[Any, Any]] | None = getattr(type(task), "_get_current_object", None)
    return task if resolve is None else resolve(task)


async def _send(
    app: ScaleCelery, task: Task[Any, Any], args: Any, kwargs: Any, options: dict[str, Any], timeout: float
) -> str:
    if not app.eager:
        return await app.publisher.send(task, args, kwargs, options, timeout)
    from smriti_scale.tasks.eager import run_eagerly

    task_id: str = options.setdefault("task_id", new_id())
    await run_eagerly(task, args, kwargs, options)
    return task_id


@dataclass(slots=True, eq=False)
class _Job:
    task: Task[Any, Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: dict[str, Any]
    home: _Home
    future: asyncio.Future[str]
    context: contextvars.Context
    asked_at: float
    begun: bool = False
    error: BaseException | None = None
    kind: Kind | None = None
    message: bytes = b""


class _Home:
    """A loop that publishes: where its jobs come back to, and their deadlines."""

    __slots__ = ("lines", "mailbox")

    def __init__(self, mailbox: Mailbox[list[_Job]]) -> None:
        self.mailbox = mailbox
        self.lines: dict[float, collections.deque[tuple[float, _Job]]] = {}
        """By timeout: those that have the same one come to their deadlines in the order of asking."""


class Publisher:
    """One thread that publishes for one app; starts with the first task, and anew in a forked child."""

    forks = 0
    """Forks between the first process and this one: what was started before the last of them is not here."""

    def __init__(self, app: ScaleCelery) -> None:
        from smriti_scale.tasks.wire import Wire

        self._app = app
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._serving = False
        """Whether the thread runs; asking the thread itself costs as much as all else that `send` looks at."""
        self._started_after = 0
        self._wire = Wire()
        self._broker: Line
        self._homes: dict[asyncio.AbstractEventLoop, _Home] = {}
        self._last: tuple[asyncio.AbstractEventLoop, _Home] | None = None
        """The loop that published last, as a rule the only one."""
        self._breaker = CircuitBreaker("the task broker", reset_after=0.5, reset_max=10.0, events=app.scale_events)

    def send(
        self,
        task: Task[Any, Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: dict[str, Any],
        timeout: float,
    ) -> asyncio.Future[str]:
        """Publish; the future holds the task's id. See `publish` for what it raises.

        A plain function, and no id is made here: what runs here is what publishing costs the loop.
        """
        if not self._serving or self._started_after != Publisher.forks:
            self._start()
        jobs = self._jobs
        if jobs.qsize() >= _MAX_WAITING:
            raise PublishFailed(f"{_MAX_WAITING:,} tasks wait to be published; {task.name} was not sent")
        if not self._breaker.allows():
            raise PublishFailed(f"the broker failed moments ago; {task.name} was not sent")
        loop = asyncio.get_running_loop()
        last = self._last
        home = last[1] if last is not None and last[0] is loop else self._home_of(loop)
        now = time.monotonic()
        future: asyncio.Future[str] = loop.create_future()
        job = _Job(task, args, kwargs, options, home, future, contextvars.copy_context(), now)
        line = home.lines.get(timeout)
        if line is None:
            line = home.lines[timeout] = collections.deque()
            loop.call_later(timeout, self._expire, loop, home, timeout)
        line.append((now + timeout, job))
        jobs.put(job)
        return future

    def _home_of(self, loop: asyncio.AbstractEventLoop) -> _Home:
        home = self._homes.get(loop)
        if home is None:
            for other in list(self._homes):  # a copy: loops of other threads may be added meanwhile
                if other.is_closed():
                    self._homes.pop(other, None)
            home = self._homes[loop] = _Home(Mailbox(loop, self._settle))
        self._last = loop, home
        return home

    async def aclose(self) -> None:
        """Publish what waits, then end the thread."""
        thread = self._thread
        if thread is not None and self._started_after == Publisher.forks:
            self._jobs.put(None)
            await asyncio.to_thread(thread.join, 10.0)
        home = self._homes.pop(asyncio.get_running_loop(), None)
        self._last = None
        if home is not None:
            home.mailbox.close()

    def _start(self) -> None:
        with self._lock:
            if self._serving and self._started_after == Publisher.forks:
                return
            self._jobs = queue.SimpleQueue()
            self._thread = threading.Thread(
                target=self._serve, args=(self._jobs,), name="smriti-scale-publisher", daemon=True
            )
            self._thread.start()
            self._started_after, self._serving = Publisher.forks, True

    def _serve(self, jobs: queue.SimpleQueue[_Job | None]) -> None:
        from smriti_scale.tasks.wire import Line

        self._broker = Line(self._app)
        try:
            self._work(jobs)
        finally:
            if self._jobs is jobs:
                self._serving = False
            self._broker.close()

    def _work(self, jobs: queue.SimpleQueue[_Job | None]) -> None:
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
        """Publish in order: together what a remembered message can be made for, Celery's way what is new."""
        waiting: list[_Job] = []
        try:
            for job in batch:
                job.begun = True
                job.options.setdefault("task_id", new_id())
                try:
                    job.kind = self._wire.kind_of(job.task, job.options)
                    if job.kind is not None:
                        job.message = job.context.run(self._wire.prepare, job.kind, job.args, job.kwargs, job.options)
                except Exception as error:  # noqa: BLE001 - whatever it was, the caller gets it
                    job.error = _translated(error, job.task.name)
                    continue
                if job.kind is not None:
                    waiting.append(job)
                    if len(batch) > 1:
                        time.sleep(0)  # lets the loop have the interpreter: it would wait 5 ms for it otherwise
                    continue
                self._send_together(waiting)
                waiting = []
                self._publish_one(job)
            self._send_together(waiting)
        finally:
            self._hand_back(batch)

    def _send_together(self, waiting: list[_Job]) -> None:
        """In one round trip; when that fails, one by one, with kombu's retries and under the same ids."""
        if not waiting:
            return
        try:
            self._broker.send([(job.kind, job.message) for job in waiting if job.kind is not None])
        except Exception as error:  # noqa: BLE001 - part of it may have been sent; the ids stay the same
            _log.info("publishing %d tasks together failed, now one by one: %r", len(waiting), error)
            for at, job in enumerate(waiting):
                self._publish_one(job)
                if isinstance(job.error, PublishFailed):  # the broker is away: the others would only wait in line
                    for other in waiting[at + 1 :]:
                        other.error = PublishFailed(f"the broker did not take {other.task.name}: it is away")
                    return

    def _publish_one(self, job: _Job) -> None:
        try:
            self._wire.publish_and_learn(job.task, job.args, job.kwargs, job.options, job.context)
        except Exception as error:  # noqa: BLE001 - whatever it was, the caller gets it
            job.error = _translated(error, job.task.name)

    def _hand_back(self, jobs: list[_Job]) -> None:
        for home in {job.home for job in jobs}:
            home.mailbox.post([job for job in jobs if job.home is home])

    def _settle(self, jobs: list[_Job]) -> None:
        events = self._app.scale_events
        for job in jobs:
            if job.error is None:
                self._breaker.succeeded()
                if events:
                    events.emit(TaskPublished(task=job.task.name, seconds=time.monotonic() - job.asked_at))
            else:
                if isinstance(job.error, PublishFailed):
                    self._breaker.failed(job.error)
                if events:
                    events.emit(TaskPublishFailed(task=job.task.name, error=type(job.error).__name__))
            if not job.future.done():
                if job.error is None:
                    job.future.set_result(job.options["task_id"])
                else:
                    job.future.set_exception(job.error)
            job.args, job.kwargs, job.options, job.message = (), {}, {}, b""  # the line of deadlines keeps the job

    def _expire(self, loop: asyncio.AbstractEventLoop, home: _Home, timeout: float) -> None:
        line = home.lines[timeout]
        now = time.monotonic()
        while line and (line[0][0] <= now or line[0][1].future.done()):
            job = line.popleft()[1]
            if not job.future.done():
                late = DeadlineExceeded(f"publishing {job.task.name}", timeout=timeout)
                late.add_note("it may have been sent" if job.begun else "it was not sent")
                self._breaker.failed(late)
                job.future.set_exception(late)
        if line:
            loop.call_later(line[0][0] - now, self._expire, loop, home, timeout)
        else:
            del home.lines[timeout]


def _forked() -> None:
    Publisher.forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


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
