"""Messages without Celery's long way to them.

`apply_async` takes some 300 µs of interpreter time for each task, which the event loop's thread has to wait for. Most
of it comes to the same for every publish of a task. So the first goes Celery's way and is remembered as it reached the
queue; from then on only what differs is filled in: arguments, ids, the caller's context. What a remembered message
cannot show (a delay, an expiry, listeners to Celery's publishing signals) always goes Celery's way.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
from celery import signals
from celery.utils.saferepr import saferepr
from kombu import serialization

from smriti_scale.tasks.keys import bell_key, list_key
from smriti_scale.tasks.task import with_context
from smriti_scale.tasks.transport import recorded

if TYPE_CHECKING:
    from celery import Task

_VARIABLE = frozenset({"queue", "priority", "task_id", "headers"})
_NO_CALLBACKS = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
_REPR_SIZE = 1024


@dataclass(frozen=True, slots=True)
class Prepared:
    """A message on its way to a queue."""

    queue: str
    priority: int
    message: bytes


@dataclass(frozen=True, slots=True)
class _Template:
    queue: str
    message: Mapping[str, Any]
    headers: Mapping[str, Any]


class Wire:
    """Remembers how the messages of an app's tasks look, and makes more of them."""

    def __init__(self) -> None:
        self._templates: dict[tuple[str, Any, Any], _Template] = {}

    def prepare(
        self,
        task: Task[Any, Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
        context: Context,
    ) -> Prepared | None:
        """The message as Celery would make it; None when it is Celery that has to.

        Raises:
            TypeError: the arguments do not fit the task.
            kombu.exceptions.EncodeError: they are not JSON.
        """
        template = self._templates.get(_kind(task, options))
        if template is None or not _is_plain(task, options):
            return None
        if task.typing:
            task.__header__(*args, **kwargs)  # type: ignore[attr-defined] # Celery's own check of a signature
        task_id = options["task_id"]
        _, _, body = serialization.dumps((args, kwargs, _NO_CALLBACKS), "json")
        carried = context.run(with_context, options.get("headers"))
        headers = {
            **template.headers,
            "id": task_id,
            "root_id": task_id,
            "argsrepr": saferepr(args, _REPR_SIZE),
            "kwargsrepr": saferepr(kwargs, _REPR_SIZE),
            **carried,
        }
        properties = {
            **template.message["properties"],
            "correlation_id": task_id,
            "delivery_tag": str(uuid.uuid4()),
        }
        encoded = base64.b64encode(body.encode()).decode()
        message = {**template.message, "body": encoded, "headers": headers, "properties": properties}
        return Prepared(template.queue, int(properties.get("priority") or 0), orjson.dumps(message))

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
        if len(messages) == 1 and _is_plain(task, options):
            queue, message = messages[0]
            if message["properties"].get("body_encoding") != "base64" or "compression" in message["headers"]:
                return
            given = {"headers", "baggage", *with_context(None), *(options.get("headers") or {})}
            fixed = {
                name: value
                for name, value in message["headers"].items()
                if name not in given and not name.startswith("sentry-")
            }
            self._templates[_kind(task, options)] = _Template(queue, message, fixed)

    @staticmethod
    def send(channel: Any, prepared: Sequence[Prepared]) -> None:
        """Put messages into their queues, in order and in one round trip. Raises what redis raises."""
        with channel.raw().pipeline(transaction=False) as pipe:
            for one in prepared:
                pipe.lpush(channel.key(list_key(one.queue, one.priority)), one.message)
                pipe.lpush(channel.key(bell_key(one.queue)), "1")
            pipe.execute()


def _kind(task: Task[Any, Any], options: Mapping[str, Any]) -> tuple[str, Any, Any]:
    return task.name, options.get("queue"), options.get("priority")


def _is_plain(task: Any, options: Mapping[str, Any]) -> bool:
    return (
        options.keys() <= _VARIABLE
        and not signals.before_task_publish.receivers
        and not signals.after_task_publish.receivers
        and getattr(task, "_dump_pydantic_arguments", None) is None
        and task.expires is None
    )
