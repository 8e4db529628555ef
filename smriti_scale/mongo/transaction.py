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
_ABORT_TIMEOUT = 5.0
_NEARLY = 0.1
"""Seconds before the deadline at which a timeout counts as its own: the driver keeps a round trip in reserve."""

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
                return await _once(session, work, write_concern, lambda: deadline - clock.monotonic())
            except PyMongoError as error:
                over = clock.monotonic() >= deadline - _NEARLY
                if over and error.has_error_label("UnknownTransactionCommitResult"):
                    raise DatabaseUnavailable(
                        f"whether the transaction was committed was not known after {timeout:g} s: {error}"
                    ) from error
                if over and (error.timeout or error.has_error_label("TransientTransactionError")):
                    raise DatabaseUnavailable(
                        f"the transaction could not be finished within {timeout:g} s ({attempt + 1} tries): {error}"
                    ) from error
                if not error.has_error_label("TransientTransactionError"):
                    raise
            attempt += 1


async def _once(
    session: Any, work: Callable[[], Awaitable[T]], write_concern: WriteConcern, left: Callable[[], float]
) -> T:
    begun = session.start_transaction(read_preference=Primary(), write_concern=write_concern)
    if inspect.isawaitable(begun):
        await begun
    try:
        with pymongo.timeout(max(0.001, left())):
            result = await work()
    except BaseException:
        if session.in_transaction:
            # With time of its own: a transaction that nobody aborts holds its locks for a minute.
            with pymongo.timeout(_ABORT_TIMEOUT):
                await session.abort_transaction()
        raise
    while True:
        try:
            with pymongo.timeout(max(0.001, left())):
                await session.commit_transaction()
        except PyMongoError as error:
            # The server keeps the outcome of a commit, so to ask again is safe.
            if error.has_error_label("UnknownTransactionCommitResult") and left() > 0:
                continue
            raise
        return result
