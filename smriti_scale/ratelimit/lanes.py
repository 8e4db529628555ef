"""Calls of one script over few connections: alone they go straight out, in a crowd they travel together.

While a lane is free, a call is one EVALSHA on a pooled connection. When all lanes are busy, calls queue, and whoever
comes back takes the whole queue along, written and read in one go. So a burst needs neither a connection for each
request nor a round trip for each, and a quiet service pays nothing for that.

On one server, commands are written to the pool's connections directly: of what a redis-py command costs on the client,
that is less than half.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import ConnectionError as RedisConnectionError, NoScriptError, ResponseError

from smriti_scale.redis_link import RedisLink, RedisScript

LANES = 4
BATCH = 256
CLUSTER_CALLS = 4
"""Calls of one batch that are under way at once on a cluster: lanes × this stays below the pool's 50."""

Argument: TypeAlias = str | int | float
_Call: TypeAlias = tuple[Sequence[str], Sequence[Argument], "asyncio.Future[Any]"]


class _Traffic:
    """The calls of one event loop."""

    __slots__ = ("busy", "flushes", "queue")

    def __init__(self) -> None:
        self.busy = 0
        self.queue: list[_Call] = []
        self.flushes: set[asyncio.Task[None]] = set()


class Lanes:
    """Runs a script.

    Args:
        link: the Redis.
        script: the script.
        timeout: seconds until a pipeline is given up; its callers have deadlines of their own.
    """

    def __init__(self, link: RedisLink, script: RedisScript, *, timeout: float) -> None:
        self._link = link
        self._script = script
        self._timeout = timeout
        self._traffic: WeakKeyDictionary[asyncio.AbstractEventLoop, _Traffic] = WeakKeyDictionary()

    async def run(self, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """The script's answer."""
        loop = asyncio.get_running_loop()
        traffic = self._traffic.get(loop)
        if traffic is None:
            traffic = self._traffic[loop] = _Traffic()
        if traffic.busy < LANES:
            traffic.busy += 1
            try:
                client = self._link.client
                if isinstance(client, RedisCluster):
                    return await self._script.run(client, keys, arguments)
                (result,) = await self._exchange(client, [(keys, arguments)])
                if isinstance(result, Exception):
                    raise result
                return result
            finally:
                traffic.busy -= 1
                if traffic.queue:
                    self._depart(traffic)
        answer: asyncio.Future[Any] = loop.create_future()
        traffic.queue.append((keys, arguments, answer))
        return await answer

    def _depart(self, traffic: _Traffic) -> None:
        batch = [call for call in traffic.queue[:BATCH] if not call[2].done()]
        del traffic.queue[:BATCH]
        if not batch:
            return
        traffic.busy += 1
        task = asyncio.get_running_loop().create_task(self._travel(traffic, batch))
        traffic.flushes.add(task)
        task.add_done_callback(traffic.flushes.discard)

    async def _travel(self, traffic: _Traffic, batch: list[_Call]) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                answers = await self._together(batch)
        except BaseException as error:
            # The callers learn of it, each in its own request; a cancelled loop cancels them itself.
            failure = error if isinstance(error, Exception) else ConnectionError("the event loop is closing")
            answers = [failure] * len(batch)
            if not isinstance(error, Exception):
                raise
        finally:
            traffic.busy -= 1
            for (_, _, future), answer in zip(batch, answers, strict=True):
                if future.done():
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)
            if traffic.queue:
                self._depart(traffic)

    async def _together(self, batch: list[_Call]) -> list[Any]:
        client = self._link.client
        if isinstance(client, RedisCluster):
            # Its keys are on many nodes, and each call takes a connection, of which there are not many.
            places = asyncio.Semaphore(CLUSTER_CALLS)

            async def run(keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
                async with places:
                    return await self._script.run(client, keys, arguments)

            runs = (run(keys, arguments) for keys, arguments, _ in batch)
            return list(await asyncio.gather(*runs, return_exceptions=True))
        return await self._exchange(client, [(keys, arguments) for keys, arguments, _ in batch])

    async def _exchange(self, client: Redis, calls: Sequence[tuple[Sequence[str], Sequence[Argument]]]) -> list[Any]:
        """Write all calls, then read all answers; errors that the server answers are answers here."""
        sha = self._script.sha
        commands = [("EVALSHA", sha, len(keys), *keys, *arguments) for keys, arguments in calls]
        try:
            answers = await _written_and_read(client, commands)
        except RedisConnectionError:
            # A pooled connection that the server has closed meanwhile: once more, on another.
            answers = await _written_and_read(client, commands)
        for index, answer in enumerate(answers):
            if isinstance(answer, NoScriptError):
                keys, arguments = calls[index]
                answers[index] = await self._script.run(client, keys, arguments)
        return answers


async def _written_and_read(client: Redis, commands: Sequence[tuple[str | int | float, ...]]) -> list[Any]:
    pool: Any = client.connection_pool
    connection = await pool.get_connection()
    answers: list[Any] = []
    try:
        await connection.send_packed_command(connection.pack_commands(commands))
        for _ in commands:
            try:
                answers.append(await connection.read_response())
            except ResponseError as error:
                answers.append(error)
    except BaseException:
        # Answers may still be on their way; nobody else may read them.
        await connection.disconnect(nowait=True)
        raise
    finally:
        await pool.release(connection)
    return answers
