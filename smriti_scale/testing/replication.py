"""Replication lag on demand, by mongod's fail points.

Source: https://github.com/mongodb/mongo/wiki/The-%22failCommand%22-Fail-Point and `rsSyncApplyStop`, with which a
secondary stops applying what it has fetched.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from smriti_scale.errors import LocalServerError
from smriti_scale.local import LocalMongo, Member

_COMMAND_NOT_FOUND = 59


@asynccontextmanager
async def fail_point(
    member: Member, name: str, *, data: Mapping[str, Any] | None = None, times: int | None = None
) -> AsyncIterator[None]:
    """Switch on a fail point of one node while the context lasts.

    Args:
        member: the node.
        name: for instance `"failCommand"` or `"rsSyncApplyStop"`.
        data: its parameters, for instance `{"failCommands": ["find"], "errorCode": 91}`.
        times: fire so often; None means always.

    Raises:
        LocalServerError: the server was started without `test_commands=True`.
    """
    from pymongo import AsyncMongoClient
    from pymongo.errors import OperationFailure

    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(member.uri, serverSelectionTimeoutMS=5000)
    mode: object = "alwaysOn" if times is None else {"times": times}
    try:
        try:
            await client.admin.command("configureFailPoint", name, mode=mode, data=dict(data or {}))
        except OperationFailure as error:
            if error.code == _COMMAND_NOT_FOUND:
                raise LocalServerError(
                    f"{member} allows no fail points: start it with LocalMongo(test_commands=True)"
                ) from error
            raise
        try:
            yield
        finally:
            await client.admin.command("configureFailPoint", name, mode="off")
    finally:
        await client.close()


@asynccontextmanager
async def replication_lag(
    server: LocalMongo, seconds: float | None = None, *, members: Sequence[Member] | None = None
) -> AsyncIterator[list[Member]]:
    """Let secondaries fall behind while the context lasts. Use a server of your own: everyone on it is affected.

    With all secondaries stopped, a write with majority concern waits until the end: give it a `wtimeout`.

    Args:
        server: a replica set started with `test_commands=True`.
        seconds: the secondaries apply in bursts, each so long after the last: they lag by up to so much. None: they
            apply nothing at all.
        members: the secondaries that lag; all of them when None.

    Returns:
        The secondaries that lag.

    Raises:
        LocalServerError: the server allows no fail points.
    """
    lagging = list(members) if members is not None else await server.secondaries()

    @asynccontextmanager
    async def stopped() -> AsyncIterator[None]:
        async with AsyncExitStack() as points:
            for member in lagging:
                await points.enter_async_context(fail_point(member, "rsSyncApplyStop"))
            yield

    if seconds is None:
        async with stopped():
            yield lagging
        return

    begun = asyncio.Event()

    async def bursts(length: float) -> None:
        while True:
            async with stopped():
                begun.set()
                await asyncio.sleep(length)

    task = asyncio.ensure_future(bursts(seconds))
    try:
        waiter = asyncio.ensure_future(begun.wait())
        await asyncio.wait([task, waiter], return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()
        if task.done():
            await task
        yield lagging
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
