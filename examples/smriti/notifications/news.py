"""Tells people of a new post: everybody of a public one, the members of a post to circles."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from bson import ObjectId

from examples.smriti.notifications.devices import Devices
from examples.smriti.notifications.push import Message, Pusher
from smriti_scale.mongo import MongoClients

_AT_ONCE = 500


class News:
    """Pushes about posts.

    Args:
        mongo: clients.
        devices: whom to reach.
        pusher: how.
    """

    def __init__(self, mongo: MongoClients, devices: Devices, pusher: Pusher) -> None:
        self._mongo = mongo
        self._devices = devices
        self._pusher = pusher

    async def post_created(self, post_id: str) -> int:
        """Push a post to whom it concerns, 500 devices at a time; returns how many the service took it for."""
        post = await self._mongo.read.posts.find_one({"_id": ObjectId(post_id)})
        if post is None:  # deleted meanwhile
            return 0
        if post.get("visibility") == "circles":
            circles = await self._circles(post.get("circle_ids") or [])
            message, batches = _circle_message(post, circles), self._members(post, circles)
        else:
            message, batches = _public_message(post), self._devices.of_all_but(post["author"]["user_id"])
        sent = 0
        async for tokens in batches:
            outcome = await self._pusher.send(tokens, message)
            sent += outcome.sent
            if outcome.dead:
                await self._devices.forget(outcome.dead)
        return sent

    async def _circles(self, circle_ids: list[str]) -> list[dict[str, Any]]:
        ids = [ObjectId(each) for each in circle_ids]
        found = self._mongo.read.circles.find({"_id": {"$in": ids}}, {"name": 1, "members.user_id": 1})
        return list(await found.to_list(len(ids)))

    async def _members(self, post: dict[str, Any], circles: list[dict[str, Any]]) -> AsyncIterator[list[str]]:
        members = {member["user_id"] for circle in circles for member in circle["members"]}
        devices = await self._devices.of_users(members - {post["author"]["user_id"]})
        tokens = [token for each in devices.values() for token in each]
        for start in range(0, len(tokens), _AT_ONCE):
            yield tokens[start : start + _AT_ONCE]


def _body(post: dict[str, Any]) -> str:
    author = post["author"]["username"]
    return f"{author}: {post['title']}" if post.get("title") else f"{author} posted"


def _public_message(post: dict[str, Any]) -> Message:
    return Message("A new post", _body(post), {"type": "new_post", "postId": str(post["_id"])})


def _circle_message(post: dict[str, Any], circles: list[dict[str, Any]]) -> Message:
    title = f"New in {circles[0]['name']}" if len(circles) == 1 else f"New in {len(circles)} circles"
    data = {"type": "circle_post", "postId": str(post["_id"]), "circleIds": ",".join(post.get("circle_ids") or [])}
    return Message(title, _body(post), data)
