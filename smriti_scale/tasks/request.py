"""What the worker's main process does around each delivery: count, time, bury.

Celery builds a request for each message and tells it how the pool fared. It is the one place that sees every end of a
task, also those the task's own process does not live to see.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionWithTraceback  # type: ignore[attr-defined] # the stubs lack it
from billiard.exceptions import SoftTimeLimitExceeded, Terminated, TimeLimitExceeded, WorkerLostError
from celery import bootsteps
from celery.exceptions import Ignore, Reject, Retry
from celery.worker.request import Request
from celery.worker.strategy import default

from smriti_scale.events import TaskDead, TaskFinished
from smriti_scale.tasks import dead, keys
from smriti_scale.tasks.task import HEADER

if TYPE_CHECKING:
    from smriti_scale.tasks.app import ScaleCelery

    class _Request:
        def __getattr__(self, name: str) -> Any: ...
        def on_accepted(self, pid: int, time_accepted: float) -> None: ...
        def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None: ...
        def on_timeout(self, soft: bool, timeout: float) -> None: ...
        def acknowledge(self) -> None: ...
        def reject(self, requeue: bool = False) -> None: ...

else:
    _Request = Request

_log = logging.getLogger("smriti_scale.tasks")
_DELIVERIES_TTL = 86_400


class ScaleRequest(_Request):
    """One delivery of one task."""

    outcome = "succeeded"
    _buried = False

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """A process begins. Starts after a redelivery are counted, since it may be the task that kills them."""
        if self._message.headers.get("redelivered"):
            key = self._channel.key(keys.deliveries_key(self.id))
            client = self._channel.raw()
            client.incr(key)
            client.expire(key, _DELIVERIES_TTL)
        super().on_accepted(pid, time_accepted)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        """The body raised, or its process died."""
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        self.outcome = outcome_of(error, requeues_lost=bool(self.task.reject_on_worker_lost))
        traceback = str(exc_info.traceback or "")
        if self.outcome == "failed" and not self._bury(reason_of(error), described(error), traceback):
            return
        if isinstance(error, MemoryError):
            self.acknowledge()  # Celery would raise it again here, in the main process, and leave the message hanging
            return
        super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """A time limit passed; after the hard one the process is killed."""
        if not soft:
            self.outcome = "failed"
            if not self._bury("timed_out", described(TimeLimitExceeded(timeout)), ""):
                return
        super().on_timeout(soft, timeout)

    def acknowledge(self) -> None:
        """Done with this delivery, one way or the other."""
        if not self.acknowledged:
            self._emit()
        super().acknowledge()

    def reject(self, requeue: bool = False) -> None:
        """Given back, or refused."""
        if not self.acknowledged:
            self.outcome = "requeued" if requeue else self.outcome
            self._emit()
        super().reject(requeue=requeue)

    @property
    def _channel(self) -> Any:
        return self._message.channel

    def _bury(self, reason: str, error: str, traceback: str) -> bool:
        if not self._buried:
            self._buried = bury_delivery(self._app, self._message, reason=reason, error=error, traceback=traceback)
        return self._buried

    def _emit(self) -> None:
        events = self._app.scale_events
        if not events:
            return
        now, started = time.time(), self.time_start
        carried = self._message.headers.get(HEADER)
        published = carried.get("published_at") if isinstance(carried, dict) else None
        events.emit(
            TaskFinished(
                task=self.name,
                queue=queue_of(self._message),
                outcome=self.outcome,
                waited=max(0.0, started - published) if started and isinstance(published, float) else 0.0,
                ran=max(0.0, now - started) if started else 0.0,
                retries=int(self._message.headers.get("retries") or 0),
            )
        )


def outcome_of(error: BaseException, *, requeues_lost: bool) -> str:
    """What becomes of a delivery whose body or process ended with `error`."""
    if isinstance(error, Retry):
        return "retried"
    if isinstance(error, Ignore):
        return "deferred"
    if isinstance(error, Reject):
        return "requeued" if getattr(error, "requeue", False) else "failed"
    if isinstance(error, Terminated):
        return "requeued"
    if isinstance(error, (WorkerLostError, SystemExit, KeyboardInterrupt)):
        return "requeued" if requeues_lost else "failed"
    return "failed"


def reason_of(error: BaseException) -> str:
    """The reason of a dead letter, from what ended the task."""
    return "timed_out" if isinstance(error, (TimeLimitExceeded, SoftTimeLimitExceeded)) else "failed"


def described(error: BaseException) -> str:
    """An error as a dead letter tells it."""
    told = f"ran longer than {error.args[0]:g} s" if isinstance(error, TimeLimitExceeded) else str(error)
    return f"{type(error).__name__}: {told}"


def queue_of(message: Any) -> str:
    """The queue a message came from: here a queue's routing key is its name."""
    return str((message.delivery_info or {}).get("routing_key") or "")


def bury_delivery(app: ScaleCelery, message: Any, *, reason: str, error: str, traceback: str = "") -> bool:
    """Make a dead letter of a delivery. False when Redis did not take it: the message will be delivered again."""
    queue = queue_of(message)
    try:
        dead.bury(
            message.channel,
            message._raw,
            queue=queue,
            reason=reason,
            error=error,
            traceback=traceback,
            deliveries=_starts(message) if message.headers.get("redelivered") else 1,
            bound=app.policy.max_dead,
        )
    except Exception:  # noqa: BLE001 - Redis is in trouble: let the lease end, so that the task comes again
        _log.exception("a dead letter could not be kept; the task will be delivered again")
        message.channel.qos.let_go(message.delivery_tag)
        return False
    _log.error("task %s is dead (%s): %s", message.headers.get("task"), reason, error.partition("\n")[0][:200])
    if app.scale_events:
        app.scale_events.emit(TaskDead(task=str(message.headers.get("task") or ""), queue=queue, reason=reason))
    return True


def _starts(message: Any) -> int:
    """How often the task was begun so far."""
    counted = message.channel.raw().get(message.channel.key(keys.deliveries_key(str(message.headers.get("id")))))
    return 1 + int(counted or 0)


def strategy(task: Any, app: ScaleCelery, consumer: Any, **options: Any) -> Callable[..., Any]:
    """Celery's way with a message, after a look at how often the task has taken its worker down."""
    handle = default(task, app, consumer, **options)

    def receive(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **more: Any) -> Any:
        if message.headers.get("redelivered"):
            starts = _starts(message)
            if starts >= app.policy.max_deliveries:
                error = f"begun {starts} times, and its worker died or stopped each time"
                if bury_delivery(app, message, reason="lost", error=error):
                    message.ack_log_error(_log, consumer.connection_errors)
                return None
        return handle(message, body, ack, reject, callbacks, **more)

    return receive


class LeaseStep(bootsteps.StartStopStep):
    """Renews what the worker holds while its event loop turns, and keeps what it cannot run from being dropped."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._timer: Any = None

    def start(self, parent: Any) -> None:
        """Begin with a new connection."""
        channel = parent.task_consumer.channel
        # In the solo pool tasks run on the very loop that would renew: there the visibility timeout must do.
        channel.leased = channel.lease is not None and "solo" not in type(parent.pool).__module__
        if channel.leased:
            self._timer = parent.timer.call_repeatedly(channel.lease / 4, self._touch, (parent,))
        self._bury_first(parent)

    def stop(self, parent: Any) -> None:
        """End with the connection."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @staticmethod
    def _touch(consumer: Any) -> None:
        try:
            consumer.task_consumer.channel.qos.touch()
        except Exception as error:  # noqa: BLE001 - the consumer notices a lost connection by itself
            _log.warning("cannot renew the tasks in hand: %r", error)

    @staticmethod
    def _bury_first(consumer: Any) -> None:
        app: ScaleCelery = consumer.app
        kind = type(consumer)

        def on_unknown_task(body: Any, message: Any, error: Exception) -> None:
            if bury_delivery(app, message, reason="unknown", error="no such task in this worker"):
                kind.on_unknown_task(consumer, body, message, error)

        def on_invalid_task(body: Any, message: Any, error: Exception) -> None:
            if bury_delivery(app, message, reason="unreadable", error=described(error)):
                kind.on_invalid_task(consumer, body, message, error)

        def on_unknown_message(body: Any, message: Any) -> None:
            if bury_delivery(app, message, reason="unreadable", error="no task message"):
                kind.on_unknown_message(consumer, body, message)

        def on_decode_error(message: Any, error: Exception) -> None:
            if bury_delivery(app, message, reason="unreadable", error=described(error)):
                kind.on_decode_error(consumer, message, error)

        consumer.on_unknown_task = on_unknown_task
        consumer.on_invalid_task = on_invalid_task
        consumer.on_unknown_message = on_unknown_message
        consumer.on_decode_error = on_decode_error
