from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from fastapi import FastAPI
from motor.motor_asyncio import AsyncIOMotorDatabase

from examples.smriti.notifications.news import News
from examples.smriti.notifications.push import Message, Outcome
from tests.examples.smriti.conftest import data_of, error_of

Database = AsyncIOMotorDatabase[dict[str, Any]]
Join = Callable[..., Any]

DEVICE = {"token": "device-1", "platform": "android"}


class RecordingPusher:
    """Stands for the push service, which cannot be reached from a test machine: it notes what it was given."""

    def __init__(self, *, dead: Sequence[str] = (), failing: bool = False) -> None:
        self.calls: list[tuple[list[str], Message]] = []
        self._dead = set(dead)
        self._failing = failing

    async def send(self, tokens: Sequence[str], message: Message) -> Outcome:
        self.calls.append((list(tokens), message))
        if self._failing:
            return Outcome(failed=len(tokens))
        dead = tuple(token for token in tokens if token in self._dead)
        return Outcome(sent=len(tokens) - len(dead), failed=len(dead), dead=dead)

    async def aclose(self) -> None: ...


async def test_a_device_belongs_to_who_registered_it_last(join: Join, motor_db: Database) -> None:
    person, other = await join(), await join()
    for owner in (person, other):
        body = (await owner.client.post("/api/notifications/register-token", json=DEVICE)).json()
        assert set(body) == {"success", "message"}
        stored = await motor_db.device_tokens.find({}).to_list(None)
        assert [device["user_id"] for device in stored] == [owner.id]


async def test_only_the_owner_unregisters_and_unknown_tokens_are_fine(join: Join, motor_db: Database) -> None:
    person, other = await join(), await join()
    await person.client.post("/api/notifications/register-token", json=DEVICE)
    for token in ("device-1", "unknown"):
        answer = await other.client.post("/api/notifications/unregister-token", json={**DEVICE, "token": token})
        assert answer.status_code == 200
    assert await motor_db.device_tokens.count_documents({}) == 1
    await person.client.post("/api/notifications/unregister-token", json=DEVICE)
    assert await motor_db.device_tokens.count_documents({}) == 0


@pytest.mark.parametrize("call", ["register-token", "unregister-token"])
@pytest.mark.parametrize(
    "body",
    [{}, {"token": "t"}, {"platform": "ios"}, {"token": "", "platform": "ios"}, {"token": "t", "platform": "fax"}],
)
async def test_both_fields_are_needed(join: Join, call: str, body: dict[str, str]) -> None:
    person = await join()
    error_of(await person.client.post(f"/api/notifications/{call}", json=body), 400)


@pytest.mark.long
async def test_fifty_registrations_of_one_token_at_once_make_one_device(join: Join, motor_db: Database) -> None:
    person = await join()
    answers = await asyncio.gather(
        *(person.client.post("/api/notifications/register-token", json=DEVICE) for _ in range(50))
    )
    assert {answer.status_code for answer in answers} == {200}
    assert await motor_db.device_tokens.count_documents({}) == 1


def news_of(app: FastAPI, pusher: RecordingPusher) -> News:
    services = app.state.services
    return News(services.scale.mongo, services.devices, pusher)


async def test_a_public_post_goes_to_all_devices_of_others_in_batches_of_500(
    app: FastAPI, join: Join, motor_db: Database
) -> None:
    person = await join("asha")
    await motor_db.device_tokens.insert_many(
        [{"token": f"t{number}", "user_id": f"{number:024x}"} for number in range(1_100)]
        + [{"token": "own", "user_id": person.id}]
    )
    post = await person.note(title="First light")
    pusher = RecordingPusher(dead=["t7"])
    assert await news_of(app, pusher).post_created(post["postId"]) == 1_099
    assert [len(tokens) for tokens, _ in pusher.calls] == [500, 500, 100]
    assert "own" not in {token for tokens, _ in pusher.calls for token in tokens}
    message = pusher.calls[0][1]
    assert message.data == {"type": "new_post", "postId": post["postId"]}
    assert "asha" in message.body
    assert "First light" in message.body
    assert await motor_db.device_tokens.count_documents({"token": "t7"}) == 0


async def test_a_circle_post_goes_to_its_members_but_the_author(app: FastAPI, join: Join, motor_db: Database) -> None:
    person, member, stranger = await join("asha"), await join(), await join()
    circles = []
    for name in ("porch", "garden"):
        circle = data_of(await person.client.post("/api/circles", json={"name": name}), 201)["circle"]
        await member.client.post("/api/circles/join", json={"inviteCode": circle["inviteCode"]})
        circles.append(circle["circleId"])
    for someone in (person, member, stranger):
        token = {"token": f"of {someone.username}", "platform": "ios"}
        await someone.client.post("/api/notifications/register-token", json=token)
    one = await person.note(visibility="circles", circle_ids=circles[0])
    both = await person.note(visibility="circles", circle_ids=",".join(circles))
    pusher = RecordingPusher()
    for post in (one, both):
        await news_of(app, pusher).post_created(post["postId"])
    assert [tokens for tokens, _ in pusher.calls] == [[f"of {member.username}"]] * 2
    assert "porch" in pusher.calls[0][1].title
    assert "2" in pusher.calls[1][1].title
    assert pusher.calls[1][1].data == {
        "type": "circle_post",
        "postId": both["postId"],
        "circleIds": ",".join(circles),
    }
