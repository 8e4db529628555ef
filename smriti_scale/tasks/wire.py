"""Messages without Celery's long way to them.

`apply_async` takes some 300 µs of interpreter time for each task. Most of it comes to the same for every publish of a
task. So the first goes Celery's way and is remembered as it reached the queue, in pieces that are JSON already; from
then on only what differs is filled in between them: arguments, ids, the caller's context. What a remembered message
cannot show (a delay, an expiry, listeners to Celery's publishing signals) always goes Celery's way.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
from celery import signals
from celery.utils.saferepr import saferepr
from kombu import serialization
from kombu.utils.json import JSONEncoder

from smriti_scale.tasks.ids import new_id
from smriti_scale.tasks.task import with_context
from smriti_scale.tasks.transport import recorded

if TYPE_CHECKING:
    from celery import Task

_VARIABLE = frozenset({"queue", "priority", "task_id", "headers"})
_NO_CALLBACKS = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
_NO_CALLBACKS_JSON = json.dumps(_NO_CALLBACKS).encode()
_REPR_SIZE = 1024


@dataclass(frozen=True, slots=True)
class Prepared:
    """A message on its way to a queue."""

    queue: str
    priority: int
    message: bytes


@dataclass(frozen=True, slots=True)
class _Template:
    """A message in pieces: what stands before the body, the caller's headers and the correlation id."""

    queue: str
    priority: int
    before_body: bytes
    before_headers: bytes
    before_correlation: bytes


def _template(queue: str, message: Mapping[str, Any], headers: Mapping[str, Any]) -> _Template:
    own = ("id", "root_id", "argsrepr", "kwargsrepr")
    rest = {name: value for name, value in message.items() if name not in ("body", "headers", "properties")}
    kept = {name: value for name, value in headers.items() if name not in own}
    properties = {
        name: value for name, value in message["properties"].items() if name not in ("correlation_id", "delivery_tag")
    }
    return _Template(
        queue,
        int(properties.get("priority") or 0),
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
        self._templates: dict[tuple[str, Any, Any], _Template] = {}

    def knows(self, task: Task[Any, Any], options: Mapping[str, Any]) -> bool:
        """Whether the next message of this kind can be made here."""
        return _kind(task, options) in self._templates and _is_plain(task, options)

    def prepare(
        self, task: Task[Any, Any], args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> Prepared:
        """The message as Celery would make it, of a kind that is known, in the caller's context.

        Raises:
            TypeError: the arguments do not fit the task.
            kombu.exceptions.EncodeError: they are not JSON.
        """
        template = self._templates[_kind(task, options)]
        if task.typing:
            task.__header__(*args, **kwargs)  # type: ignore[attr-defined] # Celery's own check of a signature
        task_id = options["task_id"]
        own = {
            "id": task_id,
            "root_id": task_id,
            "argsrepr": _shown(args),
            "kwargsrepr": _shown(kwargs),
            **with_context(options.get("headers")),
        }
        message = b'%b"%b"%b%b%b"%b","delivery_tag":"%b"}}' % (
            template.before_body,
            binascii.b2a_base64(_body(args, kwargs), newline=False),
            template.before_headers,
            orjson.dumps(own)[1:-1],
            template.before_correlation,
            orjson.dumps(task_id)[1:-1],
            new_id().encode(),
        )
        return Prepared(template.queue, template.priority, message)

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
            self._templates[_kind(task, options)] = _template(queue, message, fixed)


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
