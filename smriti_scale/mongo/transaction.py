"""A transaction with retries, by either driver, whose commands find the session by the context.

Source: "Convenient API for Transactions" in the MongoDB driver specifications: run all of it again on
`TransientTransactionError`, only the commit on `UnknownTransactionCommitResult`, with jittered backoff. The drivers'
own versions go on for 120 s whatever the caller's deadline.
"""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from contextvars import ContextVar
from typing import Any, TypeVar

import pymongo
from pymongo import AsyncMongoClient
from pymongo.errors import PyMongoError
from pymongo.read_preferences import Primary
from pymongo.write_concern import WriteConcern

from smriti_scale.clock import Clock
from smriti_scale.errors import ConfigurationError, DatabaseUnavailable
from smriti_scale.mongo.causal_scope import CausalScope, advance

T = TypeVar("T")

_BACKOFF_FIRST = 0.005
_BACKOFF_MAX = 0.5

IN_TRANSACTION: ContextVar[bool] = ContextVar("smriti_scale.mongo.in_transaction", default=False)
"""Set inside `MongoClients.transaction`."""


async def run_transaction(
    client: Any,
    work: Callable[[], Awaitable[T]],
    *,
    scope: CausalScope,
    write_concern: WriteConcern,
    timeout: float,
    clock: Clock,
) -> T:
    """See `MongoClients.transaction`."""
    if IN_TRANSACTION.get():
        raise ConfigurationError("a transaction is under way already; call the inner function directly")
    async with AsyncExitStack() as stack:
        if isinstance(client, AsyncMongoClient):
            session: Any = await stack.enter_async_context(client.start_session())
            await stack.enter_async_context(session.bind(end_session=False))
        else:
            session = await stack.enter_async_context(await client.start_session())
            stack.enter_context(session.delegate.bind(end_session=False))
        advance(session, scope)
        stack.callback(IN_TRANSACTION.reset, IN_TRANSACTION.set(True))
        deadline = clock.monotonic() + timeout
        attempt = 0
        while True:
            if attempt:
                pause = random.random() * min(_BACKOFF_FIRST * 1.5**attempt, _BACKOFF_MAX)
                await asyncio.sleep(min(pause, max(0.0, deadline - clock.monotonic())))
            try:
                with pymongo.timeout(max(0.001, deadline - clock.monotonic())):
                    return await _once(session, work, write_concern, lambda: clock.monotonic() < deadline)
            except PyMongoError as error:
                if not error.has_error_label("TransientTransactionError"):
                    raise
                if clock.monotonic() >= deadline:
                    raise DatabaseUnavailable(
                        f"the transaction could not be finished within {timeout:g} s ({attempt + 1} tries): {error}"
                    ) from error
            attempt += 1


async def _once(
    session: Any, work: Callable[[], Awaitable[T]], write_concern: WriteConcern, in_time: Callable[[], bool]
) -> T:
    begun = session.start_transaction(read_preference=Primary(), write_concern=write_concern)
    if inspect.isawaitable(begun):
        await begun
    try:
        result = await work()
    except BaseException:
        if session.in_transaction:
            await session.abort_transaction()
        raise
    while True:
        try:
            await session.commit_transaction()
        except PyMongoError as error:
            # The server keeps the outcome of a commit, so to ask again is safe.
            if error.has_error_label("UnknownTransactionCommitResult") and in_time():
                continue
            raise
        return result
