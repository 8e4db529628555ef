"""Rules of the contract that cut across features: spellings, text that is none, limits, request ids, freshness."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import bcrypt
import pytest
from httpx import AsyncClient
from motor.motor_asyncio import AsyncIOMotorDatabase

from examples.smriti.app import create_app
from tests.examples.smriti.conftest import PASSWORD, Person, SettingsFactory, client_of, data_of, error_of, join_through

Database = AsyncIOMotorDatabase[dict[str, Any]]
Join = Callable[..., Any]

NOTE = {"content_type": "note", "text_content": "x"}


async def circle_of(*people: Person, name: str = "porch") -> str:
    """A circle of these people; its id."""
    circle = data_of(await people[0].client.post("/api/circles", json={"name": name}), 201)["circle"]
    for person in people[1:]:
        data_of(await person.client.post(f"/api/circles/join/{circle['inviteCode']}"), 201)
    identifier: str = circle["circleId"]
    return identifier


async def test_half_a_character_is_400_wherever_text_is_taken(join: Join) -> None:
    person = await join()
    half = "\\ud800 half"
    json_header = {"Content-Type": "application/json"}
    for path, body in (
        ("/api/auth/signup", f'{{"username": "asha", "password": "secret{half}", "email": "a@example.org"}}'),
        ("/api/auth/signup", '{"username": "ash", "password": "secret", "email": "a@e.io", "display_name": "\\ud800"}'),
        ("/api/auth/login", f'{{"username": "asha{half}", "password": "secret"}}'),
        ("/api/auth/login", f'{{"username": "asha", "password": "secret{half}"}}'),
        ("/api/circles", f'{{"name": "{half}"}}'),
        ("/api/circles", f'{{"name": "porch", "description": "{half}"}}'),
        ("/api/circles/join", '{"inviteCode": "\\ud800AAAAAAA"}'),
        ("/api/notifications/register-token", f'{{"token": "{half}", "platform": "ios"}}'),
        ("/api/posts/batch", f'{{"posts": [{{"queueId": "1", "contentType": "note", "textContent": "{half}"}}]}}'),
    ):  # fmt: skip
        error_of(await person.client.post(path, content=body, headers=json_header), 400)
    place = '{"timezone": "\\ud800"}'
    error_of(await person.client.patch("/api/users/me", content=place, headers=json_header), 400)
    for coding in ("unicode_escape", "raw_unicode_escape"):
        body = (
            '--b\r\nContent-Disposition: form-data; name="content_type"\r\n\r\nnote\r\n'
            '--b\r\nContent-Disposition: form-data; name="text_content"\r\n\r\n\\ud800\r\n--b--\r\n'
        )
        headers = {"Content-Type": f"multipart/form-data; boundary=b; charset={coding}"}
        answer = await person.client.post("/api/posts", content=body.encode(), headers=headers)
        assert answer.status_code in (201, 400), answer.text


async def test_collections_answer_with_and_without_a_slash_and_others_point_to_the_bare_form(join: Join) -> None:
    person = await join()
    for path in ("/api/posts", "/api/circles"):
        for spelling in (path, f"{path}/"):
            assert (await person.client.get(spelling, params={"limit": 1})).status_code == 200
    for spelling in ("/api/posts", "/api/posts/"):
        assert (await person.client.post(spelling, data=NOTE)).status_code == 201
    for spelling in ("/api/circles", "/api/circles/"):
        assert (await person.client.post(spelling, json={"name": "porch"})).status_code == 201
    moved = await person.client.get("/api/posts/me/")
    assert moved.status_code == 307
    assert moved.headers["location"].endswith("/api/posts/me")


async def test_every_answer_has_a_request_id_errors_too(client: AsyncClient, smriti_settings: SettingsFactory) -> None:
    for path in ("/api/health", "/api/nothing", "/api/posts", "/api/auth/login"):
        assert len((await client.get(path)).headers["X-Request-ID"]) == 32
    mine = await client.get("/api/health", headers={"X-Request-ID": "trace-0123456789"})
    assert mine.headers["X-Request-ID"] == "trace-0123456789"
    for hostile in ("short", "x" * 65, "a b c d e f g", "<script>alert(1)</script>"):
        assert (await client.get("/api/health", headers={"X-Request-ID": hostile})).headers["X-Request-ID"] != hostile
    app = create_app(smriti_settings())

    @app.get("/api/crash")
    async def crash() -> None:
        raise RuntimeError("no")

    async with app.router.lifespan_context(app), client_of(app) as other:
        answer = await other.get("/api/crash")
    error_of(answer, 500)
    assert answer.headers["X-Request-ID"]


async def test_posting_has_one_allowance_and_a_batch_counts_as_what_is_in_it(smriti_settings: SettingsFactory) -> None:
    app = create_app(smriti_settings(post_limit="6/minute"))
    async with app.router.lifespan_context(app), client_of(app) as client, client_of(app) as another:
        person, other = await join_through(client), await join_through(another)
        circle = await circle_of(person)
        batch = {"posts": [{"queueId": str(n), "contentType": "note", "textContent": "x"} for n in range(4)]}
        data_of(await client.post("/api/posts/batch", json=batch))
        refused = await client.post("/api/posts/batch", json=batch)
        error_of(refused, 429)
        assert int(refused.headers["Retry-After"]) >= 1
        data_of(await client.post("/api/posts/", data=NOTE), 201)
        data_of(await client.post(f"/api/circles/{circle}/posts", data=NOTE), 201)
        for path in ("/api/posts/", "/api/posts", f"/api/circles/{circle}/posts"):
            error_of(await client.post(path, data=NOTE), 429)
        await other.note()


async def test_joining_by_a_link_checks_the_code_as_joining_does(join: Join) -> None:
    person = await join()
    for wrong in ("SHORT", "A" * 9):
        error_of(await person.client.post(f"/api/circles/join/{wrong}"), 400)
    error_of(await person.client.post("/api/circles/join/AAAAAAAA"), 404, "INVALID_INVITE_CODE")


async def test_old_accounts_that_differ_by_case_alone_keep_their_exact_names_and_addresses(
    client: AsyncClient, motor_db: Database
) -> None:
    for name, password in (("Asha", "the password of Asha"), ("asha", "the password of asha")):
        await motor_db.users.insert_one(
            {
                "username": name,
                "email": f"{name}@example.org",
                "phone": None,
                "hashed_password": bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode(),
                "created_at": datetime(2020, 1, 1, tzinfo=UTC),
                **({"username_key": "asha", "email_key": "asha@example.org"} if name == "asha" else {}),
            }
        )
    for name in ("Asha", "asha"):
        for identifier in ({"username": name}, {"email": f"{name}@example.org"}, {"username": f"{name}@example.org"}):
            body = {**identifier, "password": f"the password of {name}"}
            assert data_of(await client.post("/api/auth/login", json=body))["username"] == name


async def test_phone_numbers_are_written_with_plain_digits(client: AsyncClient) -> None:
    body = {"username": "asha", "password": PASSWORD, "phone": "٠١٢٣٤٥٦٧٨٩"}
    error_of(await client.post("/api/auth/signup", json=body), 400)


async def test_overlapping_changes_of_one_place_all_hold(join: Join) -> None:
    person = await join()
    where = {"latitude": 1.5, "longitude": 2.5}
    await asyncio.gather(
        person.client.patch("/api/users/me", json={"timezone": "Asia/Tokyo"}),
        person.client.patch("/api/users/me", json=where),
    )
    user = data_of(await person.client.patch("/api/users/me", json={}))["user"]
    assert (user["timezone"], user["location"]) == ("Asia/Tokyo", where)
    assert user["location_required"] is False


async def test_circle_lists_and_feeds_show_every_change_at_once_to_every_member(join: Join) -> None:
    person, member = await join(), await join()
    one, two = await circle_of(person, member, name="one"), await circle_of(person, name="two")

    async def feed(reader: Person, circle: str = one) -> list[tuple[str, list[str]]]:
        page = data_of(await reader.client.get(f"/api/circles/{circle}/posts"))
        assert page["total"] == len(page["posts"])
        return [(post["textContent"], post["circleNames"]) for post in page["posts"]]

    async def circles(reader: Person) -> list[tuple[str, int, bool]]:
        page = data_of(await reader.client.get("/api/circles"))
        return [(each["name"], each["memberCount"], each["lastActivityAt"] is not None) for each in page["circles"]]

    assert await feed(person) == await feed(member) == []
    assert await circles(person) == [("two", 1, False), ("one", 2, False)]
    assert await circles(member) == [("one", 2, False)]
    post = await person.note("both", visibility="circles", circle_ids=f"{one},{two}")
    assert await feed(person) == await feed(member) == [("both", ["one", "two"])]
    assert await circles(person) == [("two", 1, True), ("one", 2, True)]
    data_of(await person.client.patch(f"/api/circles/{two}", json={"name": "second"}))
    assert await feed(member) == [("both", ["one", "second"])]
    assert (await circles(person))[0] == ("second", 1, True)
    assert data_of(await person.client.get("/api/posts/me"))["posts"][0]["circleIds"] == [one, two]
    data_of(await person.client.post(f"/api/circles/{two}/vote-delete"))
    assert await feed(member) == [("both", ["one"])]
    assert await circles(person) == [("one", 2, True)]
    assert data_of(await person.client.get("/api/posts/me"))["posts"][0]["circleIds"] == [one]
    data_of(await person.client.delete(f"/api/posts/{post['postId']}"))
    assert await feed(person) == await feed(member) == []
    assert await circles(member) == [("one", 2, False)]
    for reader in (person, member):
        data_of(await reader.client.post(f"/api/circles/{one}/vote-delete"))
    for reader in (person, member):
        assert await circles(reader) == []
        error_of(await reader.client.get(f"/api/circles/{one}/posts"), 403, "NOT_CIRCLE_MEMBER")


async def test_somebody_who_was_refused_sees_the_feed_as_soon_as_they_join(join: Join) -> None:
    person, newcomer = await join(), await join()
    circle = await circle_of(person)
    for _ in range(2):
        error_of(await newcomer.client.get(f"/api/circles/{circle}/posts"), 403, "NOT_CIRCLE_MEMBER")
    code = data_of(await person.client.get(f"/api/circles/{circle}"))["circle"]["inviteCode"]
    data_of(await newcomer.client.post(f"/api/circles/join/{code}"), 201)
    assert data_of(await newcomer.client.get(f"/api/circles/{circle.upper()}/posts"))["total"] == 0


async def test_a_circle_feeds_cursor_is_each_members_own(join: Join) -> None:
    person, member = await join(), await join()
    circle = await circle_of(person, member)
    for number in range(3):
        await person.note(f"note {number}", visibility="circles", circle_ids=circle)
    path = f"/api/circles/{circle}/posts"
    seen = []
    for reader in (person, member):
        query: dict[str, Any] = {"limit": 2}
        first = data_of(await reader.client.get(path, params=query))
        rest = data_of(await reader.client.get(path, params={**query, "cursor": first["next_cursor"]}))
        seen.append([post["textContent"] for post in first["posts"] + rest["posts"]])
        assert rest["next_cursor"] is None
    assert seen == [["note 2", "note 1", "note 0"]] * 2
    cursor = data_of(await person.client.get(path, params={"limit": 2}))["next_cursor"]
    error_of(await member.client.get(path, params={"cursor": cursor}), 400)
    error_of(await person.client.get(path, params={"cursor": cursor, "skip": 1}), 400)
    error_of(await person.client.get("/api/posts", params={"cursor": cursor}), 400)


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "skip=-1", "skip=1000001", "cursor=x"])
async def test_a_circle_feeds_paging_out_of_range_is_400(join: Join, query: str) -> None:
    person = await join()
    circle = await circle_of(person)
    error_of(await person.client.get(f"/api/circles/{circle}/posts?{query}"), 400)


async def test_a_post_to_circles_leaves_the_public_lists_alone(join: Join) -> None:
    person, other = await join(), await join()
    circle = await circle_of(person)
    assert data_of(await other.client.get("/api/posts"))["count"] == 0
    await person.note("hidden", visibility="circles", circle_ids=circle)
    assert data_of(await other.client.get("/api/posts"))["count"] == 0
    assert data_of(await person.client.get("/api/users/me"))["user"]["post_count"] == 1
    assert data_of(await other.client.get(f"/api/users/{person.id}"))["user"]["post_count"] == 0
