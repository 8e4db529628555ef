"""Names of keys in the broker's Redis: kombu's, and ours beside them. Pure."""

from __future__ import annotations

from bisect import bisect

from smriti_scale.tasks.policy import PRIORITIES

SEPARATOR = "\x06\x16"
"""Between the name of a queue and a priority: kombu's."""
STEPS = sorted(PRIORITIES.values())
UNACKED = "unacked"
UNACKED_INDEX = "unacked_index"
DEAD = "smriti_scale:dead"
DEAD_INDEX = "smriti_scale:dead:index"


def list_key(queue: str, priority: int) -> str:
    """The list that holds a queue's messages of one priority."""
    step = STEPS[max(0, bisect(STEPS, priority) - 1)]
    return f"{queue}{SEPARATOR}{step}" if step else queue


def list_keys(queue: str) -> list[str]:
    """All lists of a queue, the most urgent first."""
    return [list_key(queue, step) for step in STEPS]


def bell_key(queue: str) -> str:
    """The list on which idle workers of a queue wait."""
    return f"{queue}{SEPARATOR}bell"


def deliveries_key(task_id: str) -> str:
    """Counts the starts of a task whose worker died before."""
    return f"smriti_scale:deliveries:{task_id}"
