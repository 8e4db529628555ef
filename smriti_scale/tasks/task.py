"""The task class: async bodies, retries for them as well, and the caller's context in the worker.

Retries follow Celery's own names (`autoretry_for`, `retry_backoff`, …). They are done here and not by Celery's
wrapper, since that calls the body without awaiting it. Waits grow exponentially with full jitter
(Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

import inspect
import random
import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import sentry_sdk
from celery.app.task import Context, Task
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded

from smriti_scale import context
from smriti_scale.errors import AlreadyRunning, PermanentFailure

if TYPE_CHECKING:
    from smriti_scale.tasks.app import ScaleCelery

    _Task = Task[Any, Any]
else:
    _Task = Task

HEADER = "smriti_scale"
"""The message header that carries `context.capture()` and the moment of publishing."""

current_request: ContextVar[Context | None] = ContextVar("smriti_scale.task_request", default=None)
"""The request of the running task; unlike Celery's own stack it also holds on the worker's event loop."""

current_task: ContextVar[ScaleTask | None] = ContextVar("smriti_scale.task", default=None)


class ScaleTask(_Task):
    """The class of all tasks of an app made by `make_celery`."""

    abstract = True
    _orig_run = None  # its presence tells Celery that retries are seen to
    Request = "smriti_scale.tasks.request:ScaleRequest"
    Strategy = "smriti_scale.tasks.request:strategy"
    autoretry_for: ClassVar[tuple[type[BaseException], ...]] = (Exception,)
    dont_autoretry_for: ClassVar[tuple[type[BaseException], ...]] = (PermanentFailure, SoftTimeLimitExceeded)
    max_retries: int | None = None  # the policy's; Celery's own default, 3, could not be told from a task's choice
    retry_backoff: float = 0  # 0: the policy's
    retry_backoff_max: float = 0
    retry_jitter: bool = True

    @property
    def scale(self) -> ScaleCelery:
        """The app, as what it is."""
        app: Any = self.app
        return app  # type: ignore[no-any-return]

    @property
    def state(self) -> Any:
        """What the app's `lifespan` yielded in this process: the clients a body works with."""
        return self.scale.worker_loop.state

    def _get_request(self) -> Context:
        found = current_request.get()
        if found is not None and current_task.get() is self:
            return found
        top: Context | None = self.request_stack.top
        return top if top is not None else Context()

    if not TYPE_CHECKING:
        request = property(_get_request)

    @property
    def retry_limit(self) -> int:
        """How often this task is tried again: its own `max_retries`, else the policy's."""
        return self.scale.policy.max_retries if self.max_retries is None else self.max_retries

    @property
    def is_async(self) -> bool:
        """Whether the body is a coroutine function."""
        return inspect.iscoroutinefunction(self.run)

    def apply_async(self, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any) -> Any:
        """Celery's, with the caller's context in the headers."""
        options["headers"] = with_context(options.get("headers"))
        return super().apply_async(args, kwargs, *rest, **options)

    def apply(self, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any) -> Any:
        """Celery's, with the caller's context in the headers."""
        options["headers"] = with_context(options.get("headers"))
        return super().apply(args, kwargs, *rest, **options)

    def retry(self, *args: Any, **options: Any) -> Any:
        """Celery's, within this task's limit."""
        if options.get("max_retries") is None:
            options["max_retries"] = self.retry_limit
        return super().retry(*args, **options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the body: for Celery's tracer in a worker; a direct call by anyone else is just the function."""
        request = self.request
        if request.called_directly:
            return self.run(*args, **kwargs)
        tokens = current_request.set(request), current_task.set(self)
        try:
            with context.restored(carried_by(request)):
                if self.is_async:
                    return self.scale.worker_loop.run(self.run(*args, **kwargs))
                return self.run(*args, **kwargs)
        except (Ignore, Reject, Retry):
            raise
        except AlreadyRunning as busy:
            self.run_later(request, busy.retry_after)
        except self.dont_autoretry_for:
            raise
        except self.autoretry_for as error:
            raise self._retried(request, error) from error
        finally:
            current_request.reset(tokens[0])
            current_task.reset(tokens[1])

    def backoff(self, retries: int) -> float:
        """Seconds to wait before retry number `retries` + 1."""
        policy = self.scale.policy
        first = float(self.retry_backoff) or policy.retry_backoff
        longest = float(self.retry_backoff_max) or policy.retry_backoff_max
        bound = min(longest, first * 2.0 ** min(retries, 40))
        return random.uniform(0, bound) if self.retry_jitter else bound

    def run_later(self, request: Context, seconds: float) -> NoReturn:
        """Put the message back for later, as the same try: it found its key taken, which is no failure."""
        self.signature_from_request(
            request, countdown=seconds + random.uniform(0.05, 0.5), retries=request.retries
        ).apply_async()
        raise Ignore

    def _retried(self, request: Context, error: BaseException) -> BaseException:
        if request.retries >= self.retry_limit or not isinstance(error, Exception):
            return error
        retry: BaseException = self.retry(exc=error, countdown=self.backoff(request.retries), throw=False)
        return retry


def with_context(headers: Mapping[str, Any] | None) -> dict[str, Any]:
    """`headers`, with what travels from the caller to the task; what is there already stays."""
    merged: dict[str, Any] = dict(headers or {})
    merged.setdefault(HEADER, {**context.capture(), "published_at": time.time()})
    if "sentry-trace" not in merged and sentry_sdk.get_client().is_active():
        for name, value in (("sentry-trace", sentry_sdk.get_traceparent()), ("baggage", sentry_sdk.get_baggage())):
            if value:
                # Celery shows the worker only the inner mapping as `request.headers`, where Sentry looks.
                merged.setdefault(name, value)
                merged.setdefault("headers", {}).setdefault(name, value)
        if "headers" in merged:
            merged["headers"].setdefault(HEADER, merged[HEADER])
    return merged


def carried_by(request: Context) -> dict[str, str]:
    """The caller's context out of a request's headers; nothing from a header that is not of our form."""
    found = request.get(HEADER, None) or (request.headers or {}).get(HEADER)
    if not isinstance(found, Mapping):
        return {}
    return {name: value for name, value in found.items() if isinstance(name, str) and isinstance(value, str)}
