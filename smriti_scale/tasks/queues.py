"""How the queues fare: depth, the age of the oldest task, what is in workers' hands, what is dead."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from smriti_scale.clock import SYSTEM_CLOCK, Clock
from smriti_scale.events import QueueMeasured, TasksMeasured
from smriti_scale.redis_link import RedisLink
from smriti_scale.tasks import keys

if TYPE_CHECKING:
    from smriti_scale.tasks.app import ScaleCelery

_log = logging.getLogger("smriti_scale.tasks")
_DEADLINE = 5.0


@dataclass(frozen=True, slots=True)
class QueueState:
    """One queue: `depth` tasks wait, the oldest for `age` seconds."""

    name: str
    depth: int
    age: float


@dataclass(frozen=True, slots=True)
class BrokerState:
    """All queues; `running` tasks are in workers' hands (delayed ones included), `dead` are dead letters."""

    queues: tuple[QueueState, ...]
    running: int
    dead: int


class QueueMonitor:
    """Looks at the broker, once or again and again: `app.queue_monitor`.

    Args:
        app: whose queues.
        interval: seconds between looks, in `run`.
        clock: the source of time.
    """

    def __init__(self, app: ScaleCelery, *, interval: float = 15.0, clock: Clock = SYSTEM_CLOCK) -> None:
        self._app = app
        self._interval = interval
        self._clock = clock
        self._link = RedisLink(app.redis_url)

    async def measure(self) -> BrokerState:
        """One look, in one round trip. Events tell the same.

        Raises:
            TimeoutError: Redis did not answer within 5 s.
        """
        names = list(self._app.amqp.queues)
        async with asyncio.timeout(_DEADLINE), self._link.client.pipeline(transaction=False) as pipe:
            for name in names:
                for key in keys.list_keys(name):
                    pipe.llen(self._key(key))
                    pipe.lindex(self._key(key), -1)
            pipe.zcard(self._key(keys.UNACKED_INDEX))
            pipe.zcard(self._key(keys.DEAD_INDEX))
            answers = await pipe.execute()
        dead, running = answers.pop(), answers.pop()
        now = self._clock.time()
        each = 2 * len(keys.STEPS)
        queues = tuple(
            QueueState(
                name=name,
                depth=sum(answers[start : start + each : 2]),
                age=max(age_of(oldest, now) for oldest in answers[start + 1 : start + each : 2]),
            )
            for start, name in zip(range(0, len(answers), each), names, strict=True)
        )
        if events := self._app.scale_events:
            for queue in queues:
                events.emit(QueueMeasured(queue=queue.name, depth=queue.depth, age=queue.age))
            events.emit(TasksMeasured(running=running, dead=dead))
        return BrokerState(queues=queues, running=running, dead=dead)

    async def run(self) -> None:
        """Look again and again, until cancelled. A broker that does not answer is logged and asked again."""
        while True:
            try:
                await self.measure()
            except Exception as error:  # noqa: BLE001 - a look that failed must not end the looking
                _log.warning("cannot measure the task queues: %r", error)
            await self._clock.sleep(self._interval)

    async def aclose(self) -> None:
        """Close the running loop's connection."""
        await self._link.aclose()

    def _key(self, name: str) -> str:
        return f"{self._app.key_prefix}{name}"


def age_of(message: bytes | str | None, now: float) -> float:
    """Seconds since a message was published; 0 where there is none, or it does not say."""
    if message is None:
        return 0.0
    try:
        headers: Any = orjson.loads(message)["headers"]
        return max(0.0, now - float(headers["smriti_scale"]["published_at"]))
    except (ValueError, TypeError, LookupError):
        return 0.0
