"""The right to build, held by one instance at a time; by MongoDB's clock, so that no machine's own matters.

A lease is one document with an owner and an end. It is taken by an update that replaces it only when its end has
passed, kept by renewing it, and lost when its owner dies: then the next may take it after `ttl` seconds. (Gray and
Cheriton, "Leases", 1989.) It guards against doing work twice, not against harm: each step of a plan is safe to repeat.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError, PyMongoError

from smriti_scale.clock import SYSTEM_CLOCK, Clock
from smriti_scale.errors import BuilderBusy

if TYPE_CHECKING:
    from smriti_scale.mongo.drivers import Collection

_POLL = 0.5


class Lease:
    """`async with Lease(collection, …):` holds the lease named `name`, waiting for it up to `wait` seconds.

    Args:
        collection: where the lease document is; written with the collection's write concern.
        ttl: seconds after which a dead owner's lease passes on.
        waiting: called with the present owner, once it is known that one must wait.

    Raises:
        BuilderBusy: not to be had within `wait`.
    """

    def __init__(
        self,
        collection: Collection,
        *,
        name: str = "lease",
        wait: float = 600.0,
        ttl: float = 30.0,
        clock: Clock = SYSTEM_CLOCK,
        waiting: Callable[[str], None] | None = None,
    ) -> None:
        self._collection = collection
        self._name = name
        self._wait = wait
        self._ttl = ttl
        self._clock = clock
        self._waiting = waiting
        self._token = secrets.token_hex(8)
        self._renewal: asyncio.Task[None] | None = None
        self._safe_until = 0.0

    async def __aenter__(self) -> Self:
        deadline = self._clock.monotonic() + self._wait
        told = False
        while not await self._take():
            holder = await self._collection.find_one({"_id": self._name})
            owner = str(holder.get("owner", "?")) if holder else "another instance"
            if self._waiting and not told:
                self._waiting(owner)
                told = True
            if self._clock.monotonic() >= deadline:
                raise BuilderBusy(
                    f"{owner} has been building indexes for longer than {self._wait:g} s; wait for it and run again"
                )
            await self._clock.sleep(_POLL)
        self._renewal = asyncio.create_task(self._keep(), name="smriti-scale-index-lease")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._renewal:
            self._renewal.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._renewal
        # Not given back (the server is away), it ends by itself.
        with contextlib.suppress(PyMongoError):
            await self._collection.delete_one({"_id": self._name, "token": self._token})

    def check(self) -> None:
        """Call before each step.

        Raises:
            BuilderBusy: the lease could not be renewed in time, so another instance may be building.
        """
        if self._clock.monotonic() >= self._safe_until:
            raise BuilderBusy("the builder's lease ran out before the server confirmed it again; run again")

    async def _take(self) -> bool:
        asked_at = self._clock.monotonic()
        # An upsert's filter may not compare with the server's clock, so the update itself decides who holds it.
        held = {"$gt": ["$until", "$$NOW"]}
        try:
            lease = await self._collection.find_one_and_update(
                {"_id": self._name},
                [{"$replaceWith": {"$cond": [held, "$$ROOT", self._mine()]}}],
                upsert=True,
                return_document=ReturnDocument.AFTER,
            )
        except DuplicateKeyError:  # two upserts at once: the other one's went in
            return False
        if lease is None or lease["token"] != self._token:
            return False
        self._safe_until = asked_at + self._ttl
        return True

    def _mine(self) -> dict[str, Any]:
        owner = f"{socket.gethostname()} (process {os.getpid()})"
        until = {"$add": ["$$NOW", int(self._ttl * 1000)]}
        return {"_id": self._name, "token": self._token, "owner": {"$literal": owner}, "until": until}

    async def _keep(self) -> None:
        while True:
            await self._clock.sleep(self._ttl / 3)
            asked_at = self._clock.monotonic()
            with contextlib.suppress(PyMongoError):  # a failover: try again until the time is up
                renewed = await self._collection.update_one(
                    {"_id": self._name, "token": self._token}, [{"$replaceWith": self._mine()}]
                )
                if not renewed.matched_count:
                    self._safe_until = 0.0
                    return
                self._safe_until = asked_at + self._ttl
