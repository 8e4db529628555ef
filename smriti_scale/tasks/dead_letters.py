"""Dead letters, as an operator sees them: list, replay, purge."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import orjson

from smriti_scale.errors import ConfigurationError
from smriti_scale.redis_link import RedisLink, RedisScript
from smriti_scale.tasks import keys

if TYPE_CHECKING:
    from smriti_scale.tasks.app import ScaleCelery

_REPLAY = RedisScript(files("smriti_scale.tasks").joinpath("replay.lua").read_text())
_PAGE = 200


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A task that will not be tried again by itself.

    Attributes:
        id: the task's id.
        task: the task's name.
        queue: where it came from, and where a replay puts it.
        reason: `failed`, `timed_out`, `lost`, `unknown` or `unreadable`; see the event `TaskDead`.
        error: what was raised last.
        traceback: and where.
        retries: how often it was tried again.
        deliveries: how often it was begun after its worker had died, and once before.
        published_at: when it was published; None for a foreign message.
        died_at: when it was given up.
        message: the whole message; None when it cannot be read.
    """

    id: str
    task: str
    queue: str
    reason: str
    error: str
    traceback: str
    retries: int
    deliveries: int
    published_at: datetime | None
    died_at: datetime
    message: Mapping[str, Any] | None


class DeadLetters:
    """The dead letters of an app's broker: `app.dead_letters`."""

    def __init__(self, app: ScaleCelery) -> None:
        self._link = RedisLink(app.redis_url)
        self._prefix = app.key_prefix
        self._hash, self._index = self._key(keys.DEAD), self._key(keys.DEAD_INDEX)

    async def count(self) -> int:
        """How many there are."""
        return int(await self._link.client.zcard(self._index))

    async def newest(self, limit: int = 50, *, offset: int = 0) -> list[DeadLetter]:
        """The newest first, at most `limit`."""
        ids = await self._link.client.zrange(self._index, offset, offset + limit - 1, desc=True)
        return await self._read(ids)

    async def get(self, letter_id: str) -> DeadLetter | None:
        """One of them, or None."""
        found = await self._read([letter_id])
        return found[0] if found else None

    async def each(
        self, *, task: str | None = None, reason: str | None = None, before: float | None = None
    ) -> AsyncIterator[DeadLetter]:
        """All that match, the oldest first.

        Args:
            task: only of the task with this name.
            reason: only with this reason.
            before: only those that died before this moment (seconds since the epoch).
        """
        limit = "+inf" if before is None else before
        ids = await self._link.client.zrange(self._index, "-inf", limit, byscore=True)
        for start in range(0, len(ids), _PAGE):
            for letter in await self._read(ids[start : start + _PAGE]):
                if task in (None, letter.task) and reason in (None, letter.reason):
                    yield letter

    async def replay(self, letter: DeadLetter) -> bool:
        """Put it back into its queue as if it had just been published; False when someone else was quicker.

        Raises:
            ConfigurationError: its message cannot be read, so it cannot be replayed.
        """
        if letter.message is None:
            raise ConfigurationError(f"dead letter {letter.id} cannot be read, so it cannot be replayed; purge it")
        message = revived(letter.message)
        priority = int(message["properties"].get("priority") or 0)
        moved = await _REPLAY.run(
            self._link.client,
            [
                self._hash,
                self._index,
                self._key(keys.list_key(letter.queue, priority)),
                self._key(keys.bell_key(letter.queue)),
                self._key(keys.deliveries_key(letter.id)),
            ],
            [letter.id, orjson.dumps(message)],
        )
        return bool(moved)

    async def purge(self, letter: DeadLetter) -> bool:
        """Drop it for good; False when it was gone."""
        async with self._link.client.pipeline(transaction=True) as pipe:
            pipe.hdel(self._hash, letter.id)
            pipe.zrem(self._index, letter.id)
            dropped, _ = await pipe.execute()
        return bool(dropped)

    async def aclose(self) -> None:
        """Close the running loop's connection."""
        await self._link.aclose()

    def _key(self, name: str) -> str:
        return f"{self._prefix}{name}"

    async def _read(self, ids: list[Any]) -> list[DeadLetter]:
        if not ids:
            return []
        records = await self._link.client.hmget(self._hash, ids)
        return [letter_of(orjson.loads(record)) for record in records if record is not None]


def letter_of(record: Mapping[str, Any]) -> DeadLetter:
    """A record as the worker wrote it (`dead.bury`)."""
    published = record["published_at"]
    return DeadLetter(
        id=record["id"],
        task=record["task"],
        queue=record["queue"],
        reason=record["reason"],
        error=record["error"],
        traceback=record["traceback"],
        retries=record["retries"],
        deliveries=record["deliveries"],
        published_at=None if published is None else datetime.fromtimestamp(published, UTC),
        died_at=datetime.fromtimestamp(record["died_at"], UTC),
        message=record["message"],
    )


def revived(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message as new: no retries, no delay, no expiry, a delivery tag of its own; the same id and arguments."""
    headers = {name: value for name, value in message["headers"].items() if name != "redelivered"}
    headers |= {"retries": 0, "eta": None, "expires": None}
    if isinstance(headers.get("smriti_scale"), dict):
        headers["smriti_scale"] = {**headers["smriti_scale"], "published_at": time.time()}
    properties = dict(message["properties"])
    properties["delivery_tag"] = str(uuid.uuid4())
    properties["delivery_info"] = {
        name: value for name, value in (properties.get("delivery_info") or {}).items() if name != "redelivered"
    }
    return {**message, "headers": headers, "properties": properties}
