"""Messages without Celery's long way to them.

`apply_async` takes some 300 µs of interpreter time for each task. Most of it comes to the same for every publish of a
task. So the first goes Celery's way and is remembered as it reached the queue, in pieces that are JSON already; from
then on only what differs is filled in between them: arguments, ids, the caller's context. What a remembered message
cannot show (a delay, an expiry, listeners to Celery's publishing signals) always goes Celery's way.
"""

from __future__ import annotations

import binascii
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
from celery import signals
from celery.utils.saferepr import saferepr
from kombu import serialization
from kombu.utils.json import JSONEncoder

from smriti_scale.tasks.ids import new_id
from smriti_scale.tasks.keys import bell_key, list_key
from smriti_scale.tasks.task import with_context
from smriti_scale.tasks.transport import recorded

if TYPE_CHECKING:
    from celery import Task

_VARIABLE = frozenset({"queue", "priority", "task_id", "headers"})
_NO_CALLBACKS = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
_NO_CALLBACKS_JSON = json.dumps(_NO_CALLBACKS).encode()
_REPR_SIZE = 1024
_QUIET = 1.0
"""Seconds without a message after which a connection is not trusted any more."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A task on its way to a queue: what its messages have in common, as the JSON before the parts that differ."""

    list_key: str
    bell_key: str
    check: Callable[..., object] | None
    """Celery's own check of the signature."""
    before_body: bytes
    before_headers: bytes
    before_correlation: bytes


def _kind(task: Any, queue: str, message: Mapping[str, Any], headers: Mapping[str, Any]) -> Kind:
    own = ("id", "root_id", "argsrepr", "kwargsrepr")
    rest = {name: value for name, value in message.items() if name not in ("body", "headers", "properties")}
    kept = {name: value for name, value in headers.items() if name not in own}
    properties = {
        name: value for name, value in message["properties"].items() if name not in ("correlation_id", "delivery_tag")
    }
    return Kind(
        list_key(queue, int(properties.get("priority") or 0)),
        bell_key(queue),
        task.__header__ if task.typing else None,
        orjson.dumps(rest)[:-1] + b',"body":',
        b',"headers":' + orjson.dumps(kept)[:-1] + b",",
        b'},"properties":' + orjson.dumps(properties)[:-1] + b',"correlation_id":',
    )


_encode = JSONEncoder().encode
_PLAIN = frozenset({int, bool, type(None)})
_SHORT = 64


def _body(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    try:
        return b"%b, %b]" % (_encode((args, kwargs))[:-1].encode(), _NO_CALLBACKS_JSON)
    except Exception:  # noqa: BLE001 - kombu says what is wrong, in its own errors
        _, _, body = serialization.dumps((args, kwargs, _NO_CALLBACKS), "json")
        return str(body).encode()


def _shown(value: Sequence[Any] | Mapping[str, Any]) -> str:
    """As Celery shows arguments to people; where they are few and plain, without its long way."""
    if not value:
        return "{}" if isinstance(value, Mapping) else "()"
    if isinstance(value, tuple) and len(value) <= 4 and all(_is_shown_plainly(each) for each in value):
        return repr(value)
    shown: str = saferepr(value, _REPR_SIZE)
    return shown


def _is_shown_plainly(value: Any) -> bool:
    kind = type(value)
    return kind in _PLAIN or (kind is str and len(value) <= _SHORT and value.isascii() and value.isalnum())


class Wire:
    """Remembers how the messages of an app's tasks look, and makes more of them."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, Any, Any], Kind] = {}

    def kind_of(self, task: Task[Any, Any], options: Mapping[str, Any]) -> Kind | None:
        """What messages like this one have in common; None where it is Celery that has to make it."""
        kind = self._kinds.get((task.name, options.get("queue"), options.get("priority")))
        return kind if kind is not None and _is_plain(options) else None

    @staticmethod
    def prepare(kind: Kind, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> bytes:
        """The message as Celery would make it, in the caller's context.

        Raises:
            TypeError: the arguments do not fit the task.
            kombu.exceptions.EncodeError: they are not JSON.
        """
        if kind.check is not None:
            kind.check(*args, **kwargs)
        task_id = options["task_id"]
        own = {
            "id": task_id,
            "root_id": task_id,
            "argsrepr": _shown(args),
            "kwargsrepr": _shown(kwargs),
            **with_context(options.get("headers")),
        }
        return b'%b"%b"%b%b%b"%b","delivery_tag":"%b"}}' % (
            kind.before_body,
            binascii.b2a_base64(_body(args, kwargs), newline=False),
            kind.before_headers,
            orjson.dumps(own)[1:-1],
            kind.before_correlation,
            orjson.dumps(task_id)[1:-1],
            new_id().encode(),
        )

    def publish_and_learn(
        self,
        task: Task[Any, Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
        context: Context,
    ) -> None:
        """Publish Celery's way, and remember the message if others can be made from it."""
        with recorded() as messages:
            context.run(task.apply_async, args, kwargs, **options)  # type: ignore[arg-type]
        if len(messages) == 1 and _is_plain(options) and _stays_plain(task):
            queue, message = messages[0]
            if message["properties"].get("body_encoding") != "base64" or "compression" in message["headers"]:
                return
            given = {"headers", "baggage", *with_context(None), *(options.get("headers") or {})}
            fixed = {
                name: value
                for name, value in message["headers"].items()
                if name not in given and not name.startswith("sentry-")
            }
            kind = task.name, options.get("queue"), options.get("priority")
            self._kinds[kind] = _kind(task, queue, message, fixed)


class Line:
    """A connection to the broker, kept from one batch to the next: to take one anew costs as much as to send by it.

    What it computes, the event loop waits for; so messages go past redis-py's pipeline as well. Of one thread.

    Args:
        app: whose broker it is.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._pool: Any = None
        self._connection: Any = None
        self._key: Callable[[str], str] = str
        self._used_at = 0.0

    def send(self, messages: Sequence[tuple[Kind, bytes]]) -> None:
        """Put messages into their queues, in order and in one round trip. Raises what redis and kombu raise."""
        connection = self._ready()
        lists: dict[str, list[bytes]] = {}
        bells: dict[str, int] = {}
        for kind, message in messages:
            lists.setdefault(kind.list_key, []).append(message)
            bells[kind.bell_key] = bells.get(kind.bell_key, 0) + 1
        commands = [("LPUSH", self._key(key), *together) for key, together in lists.items()]
        commands += [("LPUSH", self._key(key), *["1"] * count) for key, count in bells.items()]
        try:
            connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            for _ in commands:
                connection.read_response()
        except BaseException:
            connection.disconnect()  # answers may still be on their way
            self.close()
            raise
        self._used_at = time.monotonic()

    def close(self) -> None:
        """Give the connection back; the next batch takes one anew."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.release(connection)

    def _ready(self) -> Any:
        if self._connection is not None and time.monotonic() - self._used_at > _QUIET:
            self.close()  # meanwhile the server may have closed it: who takes it from the pool looks
        if self._connection is None:
            with self._app.producer_pool.acquire(block=True) as producer:
                channel = producer.channel
                self._key, self._pool = channel.key, channel.pool
                self._connection = self._pool.get_connection()
        return self._connection


def _is_plain(options: Mapping[str, Any]) -> bool:
    return (
        options.keys() <= _VARIABLE
        and not signals.before_task_publish.receivers
        and not signals.after_task_publish.receivers
    )


def _stays_plain(task: Any) -> bool:
    return getattr(task, "_dump_pydantic_arguments", None) is None and task.expires is None
