"""`@idempotent`: work that is delivered at least once takes effect once.

A run first takes a lease on its key. While it works the lease is renewed; if its process dies, the lease ends within
seconds and another run may begin. A run that succeeds marks the key done, with its result, for `ttl` seconds: until
then every further delivery returns that result without running. A run that fails frees the key.

Between an effect and the mark lies a moment in which a process can die. `MongoIdempotency` closes it: writes made in
`claim().transaction()` and the mark are committed together.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
import string
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ParamSpec, Protocol, TypeVar, cast

import orjson

from smriti_scale.errors import AlreadyRunning, ConfigurationError, LeaseLost

P = ParamSpec("P")
R = TypeVar("R")

_log = logging.getLogger("smriti_scale.tasks")
_MAX_RESULT = 64 * 1024


@dataclass(frozen=True, slots=True)
class Granted:
    """The lease is ours."""


@dataclass(frozen=True, slots=True)
class Done:
    """A run has taken effect before; `result` is what it returned, as JSON."""

    result: bytes


@dataclass(frozen=True, slots=True)
class Busy:
    """Another run holds the lease for `remaining` more seconds."""

    remaining: float


class IdempotencyStore(Protocol):
    """Where keys, leases and marks are kept. `owner` names one run."""

    async def begin(self, key: str, owner: str, *, lease: float) -> Granted | Done | Busy:
        """Take the lease if it is free or ended."""
        ...

    async def renew(self, key: str, owner: str, *, lease: float) -> bool:
        """Prolong the lease; False when it is another's now."""
        ...

    async def finish(self, key: str, owner: str, result: bytes, *, ttl: float) -> bool:
        """Mark the key done; False when the lease is another's now."""
        ...

    async def release(self, key: str, owner: str) -> None:
        """Free the key after a failure."""
        ...

    def transaction(self, claim: Claim) -> AbstractAsyncContextManager[Any]:
        """Commit the effect and the mark together, where the store can."""
        ...


@dataclass(slots=True, eq=False)
class Claim:
    """The hold that the running body has on its key.

    Attributes:
        key: the idempotency key.
        owner: names this run; another run of the same key has another.
        lost: set when the lease was found to be another's.
        finished: set once the mark is committed.
    """

    store: IdempotencyStore
    key: str
    owner: str
    ttl: float
    lost: bool = False
    finished: bool = False

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        """`async with claim().transaction() as session:` commits the writes made with `session` and the mark together.

        Raises:
            LeaseLost: at the end of the block, when another run took over; nothing is written then.
            ConfigurationError: the store cannot do this (Redis).
        """
        return self.store.transaction(self)


_claim: ContextVar[Claim | None] = ContextVar("smriti_scale.claim", default=None)


def claim() -> Claim:
    """The claim of the idempotent body that runs now.

    Raises:
        ConfigurationError: none does.
    """
    found = _claim.get()
    if found is None:
        raise ConfigurationError("claim() is for the body of an @idempotent function")
    return found


def idempotent(
    key: str | Callable[..., str] | None = None,
    ttl: float = 86_400.0,
    *,
    lease: float = 10.0,
    store: IdempotencyStore | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function take effect once for each key, however often it is called.

    ```python
    @app.task
    @idempotent("document:{post_id}", ttl=86400)
    async def process_document(post_id: str) -> None: ...
    ```

    Args:
        key: a template over the function's arguments, or a function of them. Without one the task's id is the key,
            so that redelivery does nothing but a new `publish` is new work.
        ttl: seconds for which the effect is remembered; longer than a task can come back.
        lease: seconds after which a run that shows no life is given up. It is renewed while the body runs.
        store: `RedisIdempotency` or `MongoIdempotency`; by default the broker's Redis of the task that runs.

    Raises (when called):
        AlreadyRunning: another run holds the lease. A task is put back for later without costing it a retry.
        LeaseLost: the lease was taken over meanwhile; the body was cancelled.
        ConfigurationError: no key or no store, and no task is running.
    """
    if ttl <= 0 or lease <= 0:
        raise ConfigurationError(f"ttl and lease must be positive, not {ttl} and {lease}")
    if isinstance(key, str):
        _check_template(key)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        name_of = _key_maker(key, function)

        async def run(call: Callable[[], Awaitable[Any]], arguments: Mapping[str, Any]) -> Any:
            return await _once(call, name_of(arguments), store or _store_of_task(), ttl=ttl, lease=lease)

        signature = inspect.signature(function)

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def once(*args: P.args, **kwargs: P.kwargs) -> Any:
                return await run(lambda: function(*args, **kwargs), _bound(signature, args, kwargs))

            return cast("Callable[P, R]", once)

        @functools.wraps(function)
        def once_in_thread(*args: P.args, **kwargs: P.kwargs) -> R:
            async def call() -> R:
                return await asyncio.to_thread(function, *args, **kwargs)

            body = run(call, _bound(signature, args, kwargs))
            return cast("R", _run_from_thread(body))

        return once_in_thread

    return decorate


async def _once(
    call: Callable[[], Awaitable[Any]], key: str, store: IdempotencyStore, *, ttl: float, lease: float
) -> Any:
    owner = uuid.uuid4().hex
    state = await store.begin(key, owner, lease=lease)
    if isinstance(state, Done):
        return orjson.loads(state.result)
    if isinstance(state, Busy):
        raise AlreadyRunning(key, retry_after=state.remaining)
    held = Claim(store, key, owner, ttl)
    token = _claim.set(held)
    try:
        async with _renewed(held, lease):
            result = await call()
    except BaseException:
        if not held.finished:
            with contextlib.suppress(Exception):  # the lease ends by itself; the first error is what matters
                await asyncio.shield(store.release(key, owner))
        raise
    finally:
        _claim.reset(token)
    if not held.finished and not await store.finish(key, owner, encoded(result, key), ttl=ttl):
        raise LeaseLost(key)
    return result


@contextlib.asynccontextmanager
async def _renewed(held: Claim, lease: float) -> AsyncIterator[None]:
    """Renew the lease during the block; cancel the block when the lease is lost."""
    body = cast("asyncio.Task[Any]", asyncio.current_task())

    async def renew() -> None:
        while not held.finished:
            await asyncio.sleep(lease / 3)
            try:
                mine = await asyncio.wait_for(held.store.renew(held.key, held.owner, lease=lease), lease / 2)
            except Exception as error:  # noqa: BLE001 - the store is out of reach: the next round may succeed
                _log.warning("cannot renew the lease on %r: %r", held.key, error)
                continue
            if not mine and not held.finished:
                held.lost = True
                body.cancel()
                return

    renewal = asyncio.create_task(renew())
    try:
        yield
    except asyncio.CancelledError:
        if held.lost:
            body.uncancel()
            raise LeaseLost(held.key) from None
        raise
    finally:
        renewal.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await renewal


def encoded(result: Any, key: str) -> bytes:
    """A result as JSON. One that is no JSON, or is long, is remembered as null: the mark matters more."""
    try:
        found = orjson.dumps(result)
    except TypeError:
        _log.warning("the result of %r is no JSON; later deliveries return None", key)
        return b"null"
    return found if len(found) <= _MAX_RESULT else b"null"


def _check_template(key: str) -> None:
    fields = [field for _, field, _, _ in string.Formatter().parse(key) if field is not None]
    if not fields:
        raise ConfigurationError(f"the key {key!r} names no argument: every call would be the same work")
    if any(not field.isidentifier() for field in fields):
        raise ConfigurationError(f"the key {key!r} may hold argument names only, such as {{post_id}}")


def _key_maker(
    key: str | Callable[..., str] | None, function: Callable[..., Any]
) -> Callable[[Mapping[str, Any]], str]:
    name = f"{function.__module__}.{function.__qualname__}"
    parameters = inspect.signature(function).parameters
    if isinstance(key, str):
        fields = [field for _, field, _, _ in string.Formatter().parse(key) if field]
        if unknown := [field for field in fields if field not in parameters]:
            raise ConfigurationError(f"the key {key!r} names {unknown[0]!r}, which is no argument of {name}")
        # Each value is written with its type, so that 1 and "1", or parts that meet, cannot share a key.
        return lambda arguments: key.format_map({field: _unmistakable(arguments[field]) for field in fields})
    if key is not None:
        return lambda arguments: key(**arguments)

    def of_task(_: Mapping[str, Any]) -> str:
        from smriti_scale.tasks.task import current_request

        request = current_request.get()
        if request is None or not request.id:
            raise ConfigurationError(f"{name} declares no idempotency key, and no task is running whose id could be it")
        return f"task:{request.id}"

    return of_task


def _unmistakable(value: Any) -> str:
    if isinstance(value, str):
        return value.replace("%", "%25").replace(":", "%3A")
    if value is None or isinstance(value, (bool, int)):
        return f"%{value}"
    raise ConfigurationError(f"an idempotency key takes str, int, bool or None, not {type(value).__name__}")


def _bound(signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


def _store_of_task() -> IdempotencyStore:
    from smriti_scale.tasks.task import current_task

    task = current_task.get()
    if task is None:
        raise ConfigurationError("outside a task @idempotent needs store=RedisIdempotency(…) or MongoIdempotency(…)")
    return task.scale.idempotency


def _run_from_thread(body: Coroutine[Any, Any, Any]) -> Any:
    from smriti_scale.tasks.task import current_task

    task = current_task.get()
    if task is None:
        body.close()
        raise ConfigurationError("a function that is not async can be @idempotent only as a task")
    return task.scale.worker_loop.run(body)
