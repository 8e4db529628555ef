"""kombu's Redis transport without its moments of loss.

kombu pops a message (BRPOP) and then, in a second command, enters it among the unacknowledged ones: a worker or a
server that dies between the two loses it. Here one script does both, and BRPOP waits on a doorbell instead, a list
beside each queue that publishers ring. Keys and records are kombu's own, so plain Celery can publish to the same
queues (its messages are noticed within a second) and consume from them.

It also makes lost work come back in seconds although tasks may run for long. kombu gives a message back when it is
older than the visibility timeout, which must therefore exceed the longest task. Here a living worker renews its
messages as a lease. The index still holds what kombu expects: the score of a leased message is set so that it looks
old enough exactly when its lease ends, to any worker, ours or plain. Times are the server's: clocks may disagree.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

import redis
from kombu.transport import redis as kombu_redis, virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads
from redis.exceptions import NoScriptError

from smriti_scale.tasks import dead
from smriti_scale.tasks.keys import bell_key
from smriti_scale.tasks.scripts import Script

_log = logging.getLogger("smriti_scale.tasks")

if TYPE_CHECKING:
    # kombu's classes are untyped where it matters here, and one mixin below serves two of them.
    class _Untyped:
        def __getattr__(self, name: str) -> Any: ...

    class _BaseQoS(_Untyped):
        def append(self, message: Any, delivery_tag: str) -> None: ...
        def ack(self, delivery_tag: str) -> None: ...
        def reject(self, delivery_tag: str, requeue: bool = False) -> None: ...
        def restore_unacked(self, client: Any = None) -> None: ...

    class _BaseChannel(_Untyped):
        def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None: ...

else:
    _BaseQoS, _BaseChannel = kombu_redis.QoS, object

_TAKE, _RESTORE, _TOUCH = Script("take"), Script("restore"), Script("touch")


_recorder = threading.local()


@contextmanager
def recorded() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """Queue and message of whatever this thread publishes inside the block."""
    messages: list[tuple[str, dict[str, Any]]] = []
    _recorder.messages = messages
    try:
        yield messages
    finally:
        _recorder.messages = None


class LeasedQoS(_BaseQoS):
    """Unacknowledged messages: entered when taken, kept while this worker lives, given back when it does not."""

    _vrestore_count: int

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a delivered message. One that was taken by the script is in Redis already."""
        if delivery_tag == self.channel.taken:
            self.channel.taken = None
            virtual.QoS.append(cast("Any", self), message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def restore_visible(self, start: int = 0, num: int | None = None, interval: int = 1) -> None:
        """Give back what its holder neither acknowledged nor renewed in time."""
        self._vrestore_count += 1
        if (self._vrestore_count - 1) % (interval or 1):
            return
        with self.channel.conn_or_acquire() as client:
            seconds, micros = client.time()
            ended = seconds + micros / 1_000_000 - self.visibility_timeout
            try:
                with kombu_redis.Mutex(client, self.unacked_mutex_key, self.unacked_mutex_expire):
                    tags = client.zrange(
                        self.unacked_index_key, 0, ended, byscore=True, offset=start, num=-1 if num is None else num
                    )
                    for tag in tags:
                        self._put_back(bytes_to_str(tag), client, ended=ended)
            except kombu_redis.MutexHeld:
                pass  # another worker is at it

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:
        """Give back one's own message: on shutdown, or because the process that worked on it died."""
        with self.channel.conn_or_acquire(client) as connected:
            self._put_back(tag, connected)

    def restore_unacked(self, client: Any = None) -> None:
        """Give back all of one's own messages, on closing. Where the connection is gone, their leases end instead."""
        try:
            if self._connected:
                super().restore_unacked(client)
        finally:
            self._delivered.clear()

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge. Where that fails, the message is let go of: its lease ends, and it is delivered again."""
        try:
            self._require_open()
            super().ack(delivery_tag)
        finally:
            self.let_go(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Reject, or give back. Where that fails, the message is let go of."""
        try:
            self._require_open()
            super().reject(delivery_tag, requeue=requeue)
        finally:
            self.let_go(delivery_tag)

    @property
    def _connected(self) -> bool:
        # What is done after the connection has been dropped would end the whole worker with an AttributeError from
        # inside kombu.
        connection = self.channel.connection
        return connection is not None and connection.client is not None

    def _require_open(self) -> None:
        # Acknowledgements wait for the hub's next turn, and may outlive their connection: an error of this kind is
        # logged and got over.
        if self.channel.closed or not self._connected:
            raise ConnectionError("the broker's connection is gone; the message will be delivered again")

    def let_go(self, delivery_tag: str) -> None:
        """Neither renew the message nor count it against what this worker may hold."""
        self._quick_ack(delivery_tag)

    def touch(self) -> None:
        """Renew the lease of every message this worker holds."""
        tags = [tag for tag in self._delivered if tag not in self._dirty]
        if tags and self.channel.leased:
            _TOUCH.run(
                self.channel.raw(), [self.channel.key(self.unacked_index_key)], [self.channel.score_offset, *tags]
            )

    def _put_back(self, tag: str, client: Any, *, ended: float | None = None) -> None:
        channel = self.channel
        record = client.hget(self.unacked_key, tag)
        if record is None:
            client.zrem(self.unacked_index_key, tag)
            return
        message, exchange, routing_key = loads(bytes_to_str(record))
        message.setdefault("headers", {})["redelivered"] = True
        message["properties"].setdefault("delivery_info", {})["redelivered"] = True
        priority = channel._get_message_priority(message, reverse=False)
        for queue in channel._lookup(exchange, routing_key):
            _RESTORE.run(
                channel.raw(),
                [
                    channel.key(self.unacked_index_key),
                    channel.key(self.unacked_key),
                    channel.key(channel._q_for_pri(queue, priority)),
                    channel.bell(queue),
                ],
                [tag, dumps(message), "+inf" if ended is None else ended, "R"],
            )


class _SafeChannel(_BaseChannel):
    """What is ours in a channel; mixed into kombu's two."""

    lease: float | None = None
    leased = False
    """Whether this worker renews its messages; set by `LeaseStep`."""
    taken: str | None = None
    """The tag of the message that the script has just taken and entered."""
    _waiting = False
    _nothing_there = False
    _script_missing = False

    def key(self, name: str) -> str:
        """A key as the server knows it."""
        return f"{self.global_keyprefix}{name}"

    def bell(self, queue: str) -> str:
        """The doorbell of a queue, as the server knows it."""
        return self.key(bell_key(queue))

    def raw(self) -> redis.Redis:
        """A client that leaves keys as they are, on the channel's connections."""
        return redis.Redis(connection_pool=self.pool)

    @property
    def score_offset(self) -> float:
        """What to add to now, so that a message looks too old to any worker when its lease ends."""
        return self.lease - self.visibility_timeout if self.leased and self.lease else 0.0

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        if (messages := getattr(_recorder, "messages", None)) is not None:
            messages.append((queue, message))
        batch = kwargs.get("_publish_batch")
        if batch is not None:
            super()._put(queue, message, **kwargs)
            batch.add("lpush", bell_key(queue), "1")
            return
        key = self._q_for_pri(queue, self._get_message_priority(message, reverse=False))
        with self.conn_or_acquire() as client, client.pipeline() as pipe:
            pipe.lpush(key, dumps(message)).lpush(bell_key(queue), "1").execute()

    def _brpop_start(self, timeout: float | None = None) -> None:
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        connection = self._in_poll = self.client.connection
        self._brpop_sent_at = monotonic()
        bells = [self.bell(queue) for queue in queues]
        self._waiting, self._nothing_there = self._nothing_there, False
        if self._waiting:
            connection.send_command("BRPOP", *bells, timeout or self.brpop_timeout)
            return
        lists = [self.key(self._q_for_pri(queue, step)) for step in self.priority_steps for queue in queues]
        script = ("EVAL", _TAKE.source) if self._script_missing else ("EVALSHA", _TAKE.sha)
        self._script_missing = False
        keys = [self.key(self.unacked_index_key), self.key(self.unacked_key), *lists, *bells]
        connection.send_command(*script, len(keys), *keys, len(lists), self.score_offset)

    def _brpop_read(self, **options: Any) -> bool:
        try:
            try:
                reply = self.client.connection.read_response()
            except NoScriptError:
                self._script_missing = True
                raise Empty from None
            except self.connection_errors:
                self.client.connection.disconnect()
                raise
            if self._waiting or reply is None:
                self._nothing_there = not self._waiting
                raise Empty
            self._deliver_taken(*reply)
            return True
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()

    def _deliver_taken(self, destination: bytes, item: bytes) -> None:
        queue = bytes_to_str(destination).removeprefix(self.global_keyprefix).rsplit(self.sep, 1)[0]
        self._queue_cycle.rotate(queue)
        try:
            message = loads(bytes_to_str(item))
            self.taken = message["properties"]["delivery_tag"]
            message["body"], message["headers"]
        except (ValueError, TypeError, LookupError) as error:
            self.taken = None
            dead.bury_unreadable(self, queue, item, error)
            raise Empty from None
        self.connection._deliver(message, queue)


class Channel(_SafeChannel, kombu_redis.Channel):
    """A channel to one server."""

    QoS: Any = LeasedQoS
    from_transport_options = (*kombu_redis.Channel.from_transport_options, "lease")


class SentinelChannel(_SafeChannel, kombu_redis.SentinelChannel):
    """A channel to the primary that the sentinels name."""

    QoS: Any = LeasedQoS
    from_transport_options = (*kombu_redis.SentinelChannel.from_transport_options, "lease")


class Transport(kombu_redis.Transport):
    """`redis://` and `rediss://`."""

    Channel = Channel


class SentinelTransport(kombu_redis.SentinelTransport):
    """`redis+sentinel://`."""

    Channel = SentinelChannel
