"""Cache tags: what a post shows up in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def circle_tag(circle_id: str) -> str:
    """On everything that shows a circle, or a post in it."""
    return f"circle:{circle_id}"


def tags_of(post: Mapping[str, Any]) -> list[str]:
    """The tags to drop when a post appears, changes or goes: its author's lists, and those of who may see it."""
    tags = [f"posts_of:{post['author']['user_id']}", *map(circle_tag, post.get("circle_ids") or ())]
    if post.get("visibility") in ("public", None):
        tags.append("posts")
    return tags


def circles_of(posts: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """The circles that any of these posts is in, each once."""
    return tuple(dict.fromkeys(each for post in posts for each in post.get("circle_ids") or ()))
