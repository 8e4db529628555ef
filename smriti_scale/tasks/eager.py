"""Eager mode: `publish` runs the task then and there, on the running loop, as a worker would run it.

Arguments and headers pass through JSON, so that a test finds what a broker would not carry; retries happen at once.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from celery.app.task import Context
from celery.exceptions import Ignore, Reject, Retry

from smriti_scale import context
from smriti_scale.errors import NotSerializable
from smriti_scale.tasks.task import ScaleTask, carried_by, current_request, current_task, with_context

if TYPE_CHECKING:
    from celery import Task


async def run_eagerly(
    task: Task[Any, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Mapping[str, Any]
) -> Any:
    """Run `task` to its end, retries included, and return what it returns.

    Raises:
        NotSerializable: an argument is not JSON.
        Exception: whatever the body raised at its last try.
    """
    try:
        wire = json.loads(json.dumps([args, kwargs]))
    except (TypeError, ValueError) as error:
        raise NotSerializable(f"the arguments of {task.name} are not JSON ({error})") from error
    task = task.app.tasks[task.name]  # what was given may be Celery's lazy proxy of it
    headers = with_context(None)
    if not isinstance(task, ScaleTask) or not task.is_async:
        # `apply` retries sync bodies by itself.
        applied = await asyncio.to_thread(
            task.apply, args=tuple(wire[0]), kwargs=wire[1], task_id=options["task_id"], headers=headers, throw=True
        )
        return applied.result
    for retries in range(task.retry_limit + 1):
        request = Context(
            id=options["task_id"],
            task=task.name,
            retries=retries,
            is_eager=True,
            called_directly=False,
            headers=headers,
            **headers,
        )
        tokens = current_request.set(request), current_task.set(task)
        try:
            with context.restored(carried_by(request)):
                return await task.run(*wire[0], **wire[1])
        except Retry:
            continue
        except (Ignore, Reject):
            return None
        except task.dont_autoretry_for:
            raise
        except task.autoretry_for:
            if retries == task.retry_limit:
                raise
        finally:
            current_request.reset(tokens[0])
            current_task.reset(tokens[1])
    return None
