"""Beat that may run in several processes: one of them beats, the others stand by.

When the one that beats dies, another takes over within the lease. When each entry last ran is kept in the broker's
Redis, not in a local file, so a new container goes on where the old one stopped. A run that could not be published is
published when the broker is back, not dropped. Should two ever publish the same run, it bears the same task id.
"""

from __future__ import annotations

import logging
import time
import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Any

from celery.beat import Scheduler
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from smriti_scale.tasks.scripts import Script

if TYPE_CHECKING:

    class _Scheduler:
        def __init__(self, *args: Any, **kwargs: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...
        def tick(self) -> float: ...
        def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **options: Any) -> Any: ...
        def close(self) -> None: ...

else:
    _Scheduler = Scheduler

_log = logging.getLogger("smriti_scale.tasks")
_LEAD = Script("lead")
_LEASE = 15.0
_PAUSE = 1.0


class LeaderScheduler(_Scheduler):
    """Celery's scheduler with one leader, and its memory in Redis."""

    _heap: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._name = uuid.uuid4().hex
        self.leading = False
        super().__init__(*args, **kwargs)

    def tick(self) -> float:
        """One round: seconds until the next."""
        try:
            self._seek_lead()
        except (RedisError, OSError) as error:
            _log.warning("beat cannot reach the broker: %r", error)
            self.leading = False
        if not self.leading:
            return _LEASE / 5
        return min(super().tick(), _LEASE / 3)

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        """Publish one due run; wait for the broker rather than lose it."""
        _log.info("beat publishes %s (%s)", entry.name, entry.task)
        while True:
            try:
                self.apply_async(entry, advance=False)
                self._remember(entry.name)
            except Exception as error:  # noqa: BLE001 - told apart below; beat itself must go on
                cause = error.__cause__ or error.__context__ or error
                if not isinstance(cause, (OperationalError, RedisError, OSError)):
                    _log.exception("beat cannot publish %s", entry.name)
                    return
                _log.warning("beat waits for the broker to publish %s: %r", entry.name, cause)
                time.sleep(_PAUSE)
            else:
                return

    def apply_async(self, entry: Any, producer: Any = None, advance: bool = True, **options: Any) -> Any:
        """Publish under an id made of the entry and the run before: the same, whoever publishes it."""
        run = f"{entry.name}:{entry.last_run_at.isoformat() if entry.last_run_at else ''}"
        entry.options = {**entry.options, "task_id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"beat:{run}"))}
        return super().apply_async(entry, producer=producer, advance=advance, **options)

    def close(self) -> None:
        """Stand down at once, so that another need not wait for the lease."""
        if self.leading:
            try:
                channel = self._channel()
                if channel.raw().get(channel.key("smriti_scale:beat")) == self._name.encode():
                    channel.raw().delete(channel.key("smriti_scale:beat"))
            except (RedisError, OSError):
                _log.info("beat could not stand down; another takes over in %g s", _LEASE)
        super().close()

    def _seek_lead(self) -> None:
        channel = self._channel()
        held = _LEAD.run(channel.raw(), [channel.key("smriti_scale:beat")], [self._name, int(_LEASE * 1000)])
        if held and not self.leading:
            self._recall(channel)
            _log.info("this beat leads")
        elif not held and self.leading:
            _log.warning("another beat leads now")
        self.leading = bool(held)

    def _recall(self, channel: Any) -> None:
        """Take up when each entry last ran; a new one counts from now."""
        client, key = channel.raw(), channel.key("smriti_scale:beat:runs")
        for name, entry in self.schedule.items():
            client.hsetnx(key, name, entry.last_run_at.isoformat())
            entry.last_run_at = datetime.fromisoformat(client.hget(key, name).decode())
        self._heap = None

    def _remember(self, name: str) -> None:
        channel = self._channel()
        moment = self.schedule[name].last_run_at.isoformat()
        channel.raw().hset(channel.key("smriti_scale:beat:runs"), name, moment)

    def _channel(self) -> Any:
        return self.connection.default_channel
