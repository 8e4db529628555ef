"""What holds for every list: bounds of skip and limit, and whose cursors they take."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from httpx import URL
from motor.motor_asyncio import AsyncIOMotorDatabase

from tests.examples.smriti.conftest import Person, data_of, error_of

Database = AsyncIOMotorDatabase[dict[str, Any]]
Join = Callable[..., Any]

LISTS = {
    "/api/posts": 100,
    "/api/posts/me": 100,
    "/api/posts/search": 100,
    "/api/posts/search?q=tide": 100,
    "/api/users/{user}/posts": 100,
    "/api/circles": 50,
    "/api/circles/{circle}/posts": 100,
    "/api/quotes/history": 50,
}
AT_ALL_TIMES = {"/api/posts", "/api/circles/{circle}/posts"}
# Two names of one list: a search for nothing is the feed, and one's own posts have two addresses.
SAME = ({"/api/posts", "/api/posts/search"}, {"/api/posts/me", "/api/users/{user}/posts"})


@pytest.mark.parametrize(
    "path", [path if path in AT_ALL_TIMES else pytest.param(path, marks=pytest.mark.long) for path in LISTS]
)
async def test_every_list_keeps_its_bounds_and_its_cursors_to_itself(join: Join, motor_db: Database, path: str) -> None:
    person, member = await join(), await join()
    circle = await shared_circle(person, member)
    where = path.format(user=person.id, circle=circle)
    for number in range(3):
        await person.note(f"tide {number}")
        await person.note("inside", visibility="circles", circle_ids=circle)
        for each in (person, member):
            await motor_db.user_daily_quotes.insert_one(quote_of(each, day=number + 1))
    for each in (person, member):
        await each.client.post("/api/circles", json={"name": "own"})
        await each.note("tide of one's own")

    async def ask(who: Person, where: str = where, **query: Any) -> Any:
        url = URL(where)
        return await who.client.get(url.copy_merge_params(query))

    for wrong in (
        {"skip": -1}, {"skip": "x"}, {"skip": 1_000_001}, {"limit": 0}, {"limit": LISTS[path] + 1}, {"limit": "1.5"},
        {"cursor": ""}, {"cursor": "nonsense"},
    ):  # fmt: skip
        error_of(await ask(person, **wrong), 400)
    assert (await ask(person, limit=LISTS[path], skip=1_000_000)).status_code == 200

    first = (await ask(person, limit=1)).json()
    cursor = first.get("data", first)["next_cursor"]
    second = await ask(person, limit=1, cursor=cursor)
    assert second.status_code == 200
    error_of(await ask(person, cursor=cursor, skip=1), 400)
    error_of(await ask(person, cursor=cursor[:-1] + ("A" if cursor[-1] != "A" else "B")), 400)
    error_of(await ask(member, cursor=cursor), 400)
    for other in LISTS:
        if other != path and {other, path} not in SAME:
            elsewhere = other.format(user=person.id, circle=circle)
            error_of(await ask(person, elsewhere, cursor=cursor), 400)


async def shared_circle(person: Person, member: Person) -> str:
    circle = data_of(await person.client.post("/api/circles", json={"name": "porch"}), 201)["circle"]
    data_of(await member.client.post(f"/api/circles/join/{circle['inviteCode']}"), 201)
    identifier: str = circle["circleId"]
    return identifier


def quote_of(person: Person, *, day: int) -> dict[str, Any]:
    return {
        "user_id": person.id,
        "day_key": f"2026-01-{day:02}",
        "push_sent": True,
        "push_sent_at_utc": datetime(2026, 1, day),
        "quote_text": f"of day {day}",
        "source_post_id": "a" * 24,
        "source_author_user_id": "b" * 24,
        "source_author_username": "asha",
    }
