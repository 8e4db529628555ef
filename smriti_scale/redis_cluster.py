"""Commands to a Redis Cluster, by its client: it knows the slots, follows moves and pipelines by node."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from redis.asyncio import RedisCluster
from redis.exceptions import ConnectionError as RedisConnectionError

from smriti_scale.cancelling import cancel
from smriti_scale.errors import DeadlineExceeded
from smriti_scale.redis_pipe import Arg

_CONCURRENT = 32  # below `RedisLink`'s 50 connections a node, which reads share


class ClusterPipe:
    """A `Transport` over a cluster. All reads of one turn of the event loop go out as one MGET a node.

    Args:
        client: the cluster's client; the caller closes it.
        timeout: deadline of every command, in seconds.
    """

    def __init__(self, client: RedisCluster, *, timeout: float) -> None:
        self._client = client
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._reads: list[tuple[Sequence[str], asyncio.Future[Any]]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        # The client refuses what its pools cannot take at once: more than this many commands wait for their turn here.
        self._slots = asyncio.Semaphore(_CONCURRENT)

    def send(self, *args: Arg, timeout: float | None = None, again: bool = False) -> asyncio.Future[Any]:
        del again  # the client itself asks again, where a slot has moved to
        future: asyncio.Future[Any] = self._loop.create_future()
        self._spawn(self._into(future, partial(self._client.execute_command, *args), timeout or self._timeout))
        return future

    def mget(self, keys: Sequence[str]) -> asyncio.Future[list[bytes | None]]:
        future: asyncio.Future[list[bytes | None]] = self._loop.create_future()
        if not self._reads:
            self._loop.call_soon(self._flush)
        self._reads.append((keys, future))
        return future

    async def connect(self, *, timeout: float) -> None:
        async with asyncio.timeout(timeout):
            await self._client.initialize()
            await self._client.execute_command("PING", target_nodes=RedisCluster.RANDOM)

    def reset(self, error: BaseException) -> None:
        del error  # each command fails by its own deadline; the client drops the connections that broke

    async def aclose(self) -> None:
        await cancel(list(self._tasks))

    def _flush(self) -> None:
        reads, self._reads = self._reads, []
        places: dict[str, int] = {}
        wanted = [([places.setdefault(key, len(places)) for key in keys], future) for keys, future in reads]
        self._spawn(self._read(list(places), wanted))

    async def _read(self, keys: list[str], wanted: list[tuple[list[int], asyncio.Future[Any]]]) -> None:
        answer: asyncio.Future[list[bytes | None]] = self._loop.create_future()
        await self._into(answer, partial(self._client.mget_nonatomic, keys), self._timeout)
        error = answer.exception()
        for places, future in wanted:
            if future.done():
                continue
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result([answer.result()[place] for place in places])

    async def _into(self, future: asyncio.Future[Any], call: Callable[[], Awaitable[Any]], timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout), self._slots:
                result = await call()
        except TimeoutError:
            failure: BaseException = DeadlineExceeded("redis", timeout=timeout)
        except AttributeError as error:
            # The client has closed this command's connection, to look at the topology anew: it has no writer then.
            failure = RedisConnectionError("the cluster's connections are being closed")
            failure.__cause__ = error
        except asyncio.CancelledError:
            future.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - handed on to whoever awaits the future
            failure = error
        else:
            if not future.done():
                future.set_result(result)
            return
        if not future.done():
            future.set_exception(failure)
            future.exception()  # a caller that was cancelled will not ask

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
