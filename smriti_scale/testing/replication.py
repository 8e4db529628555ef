"""Replication lag on demand, by mongod's fail points.

Source: https://github.com/mongodb/mongo/wiki/The-%22failCommand%22-Fail-Point and `rsSyncApplyStop`, with which a
secondary stops applying what it has fetched.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from smriti_scale.errors import LocalServerError
from smriti_scale.local import LocalMongo, Member

if TYPE_CHECKING:
    from pymongo.asynchronous.database import AsyncDatabase

    Admin = AsyncDatabase[dict[str, Any]]


class _Follower(NamedTuple):
    """A secondary and a way to command it."""

    member: Member
    admin: Admin


_COMMAND_NOT_FOUND = 59
_STOP = "rsSyncApplyStop"


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
    mode: object = "alwaysOn" if times is None else {"times": times}
    async with _admin(member) as admin:
        await _configure(member, admin, name, {"mode": mode, "data": dict(data or {})})
        try:
            yield
        finally:
            await _configure(member, admin, name, {"mode": "off"})


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
    async with AsyncExitStack() as clients:
        primary = await clients.enter_async_context(_admin(await server.primary()))
        followers = [_Follower(member, await clients.enter_async_context(_admin(member))) for member in lagging]
        over = asyncio.Event()
        try:
            await _hold(primary, followers)
            bursts = asyncio.ensure_future(_bursts(primary, followers, seconds, over))
            try:
                yield lagging
            finally:
                over.set()  # and no cancellation, which a driver may keep to itself
                await bursts
        finally:
            await _release(followers)


async def _bursts(primary: Admin, followers: Sequence[_Follower], seconds: float | None, over: asyncio.Event) -> None:
    """Let the followers catch up with where the primary was, again and again, until it is over."""
    while True:
        with suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), seconds)
        if over.is_set():
            return
        target = await _position(primary)
        await _release(followers)
        while not over.is_set() and await _behind(followers, target):  # noqa: ASYNC110 - another process applies
            await asyncio.sleep(0.005)
        await _hold(primary, followers)


async def _hold(primary: Admin, followers: Sequence[_Follower]) -> None:
    """Stop the followers, and wait until they stand still: each still takes one batch that it was waiting for."""
    entered = [await _configure(*follower, _STOP, {"mode": "alwaysOn"}) for follower in followers]
    await primary.command("appendOplogNote", data={"smriti_scale": "lag"}, writeConcern={"w": 1})
    for follower, times in zip(followers, entered, strict=True):
        await follower.admin.command("waitForFailPoint", _STOP, timesEntered=times + 1, maxTimeMS=30_000)


async def _release(followers: Sequence[_Follower]) -> None:
    for follower in followers:
        await _configure(*follower, _STOP, {"mode": "off"})


async def _behind(followers: Sequence[_Follower], target: Any) -> bool:
    return any([await _position(follower.admin) < target for follower in followers])


async def _position(node: Admin) -> Any:
    """The time of the last write that the node has applied."""
    return (await node.command("hello"))["lastWrite"]["opTime"]["ts"]


async def _configure(member: Member, admin: Admin, name: str, options: Mapping[str, Any]) -> int:
    """Set a fail point. Returns how often it has been entered so far."""
    from pymongo.errors import OperationFailure

    try:
        return int((await admin.command({"configureFailPoint": name, **options}))["count"])
    except OperationFailure as error:
        if error.code == _COMMAND_NOT_FOUND:
            raise LocalServerError(
                f"{member} allows no fail points: start it with LocalMongo(test_commands=True)"
            ) from error
        raise


@asynccontextmanager
async def _admin(member: Member) -> AsyncIterator[Admin]:
    from pymongo import AsyncMongoClient

    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(member.uri, serverSelectionTimeoutMS=5000)
    try:
        yield client.admin
    finally:
        await client.close()
