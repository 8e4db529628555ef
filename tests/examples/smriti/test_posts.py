from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from bson import ObjectId
from httpx import AsyncClient
from motor.motor_asyncio import AsyncIOMotorDatabase

from examples.smriti.posts.views import PostView
from tests.examples.smriti.conftest import data_of, error_of

Database = AsyncIOMotorDatabase[dict[str, Any]]
Join = Callable[..., Any]


async def test_a_note_is_created_with_every_key_of_a_post(join: Join) -> None:
    person = await join("asha")
    post = await person.note("what I saw", title="Morning")
    assert PostView.model_validate(post).model_dump() == post
    assert post["author"] == {"userId": person.id, "username": "asha"}
    assert (post["contentType"], post["title"], post["textContent"]) == ("note", "Morning", "what I saw")
    assert post["visibility"] == "public"
    assert post["createdAt"].endswith("Z")


async def test_a_link_is_created_and_multipart_is_as_good_as_urlencoded(join: Join) -> None:
    person = await join()
    fields = {"content_type": "link", "link_url": "https://example.org/a"}
    for request in ({"data": fields}, {"files": {name: (None, value) for name, value in fields.items()}}):
        post = data_of(await person.client.post("/api/posts/", **request), 201)["post"]
        assert post["linkUrl"] == "https://example.org/a"


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"content_type": ""},
        {"content_type": "poem", "text_content": "x"},
        {"content_type": "note"},
        {"content_type": "note", "text_content": ""},
        {"content_type": "link", "text_content": "no link"},
        {"content_type": "note", "text_content": "x", "visibility": "private"},
        {"content_type": "note", "text_content": "x", "visibility": "secret"},
        {"content_type": "note", "text_content": "x", "title": "t" * 201},
        {"content_type": "note", "text_content": "x" * 100_001},
        {"content_type": "link", "link_url": "https://e.org/" + "x" * 2_048},
    ],
    ids=lambda wrong: ",".join(f"{name}={value[:8]}" for name, value in wrong.items()) or "empty",
)
async def test_what_breaks_a_rule_is_400_and_nothing_is_stored(
    join: Join, motor_db: Database, wrong: dict[str, str]
) -> None:
    person = await join()
    error_of(await person.client.post("/api/posts/", data=wrong), 400)
    assert await motor_db.posts.count_documents({"author.user_id": person.id}) == 0


async def test_a_json_body_is_400(join: Join) -> None:
    person = await join()
    error_of(await person.client.post("/api/posts/", json={"content_type": "note", "text_content": "x"}), 400)


async def test_the_longest_allowed_texts_are_stored_and_read_back(join: Join) -> None:
    person = await join()
    await person.note("ß" * 100_000, title="𝔱" * 200)
    page = data_of(await person.client.get("/api/posts"))
    assert len(page["posts"][0]["textContent"]) == 100_000


async def test_the_feed_is_public_posts_newest_first_old_ones_without_visibility_too(
    join: Join, motor_db: Database
) -> None:
    person = await join()
    base = {"content_type": "note", "text_content": "x", "author": {"user_id": person.id, "username": "p"}}
    moment = datetime(2020, 1, 1)
    await motor_db.posts.insert_many(
        [
            {**base, "title": "old, no choice", "created_at": moment},
            {**base, "title": "private", "visibility": "private", "created_at": moment},
            {**base, "title": "circle", "visibility": "circles", "circle_ids": ["a" * 24], "created_at": moment},
        ]
    )
    await person.note("new", title="new")
    data = data_of(await person.client.get("/api/posts/"))
    assert [post["title"] for post in data["posts"]] == ["new", "old, no choice"]
    assert data["count"] == 2
    assert data["next_cursor"] is None


async def test_both_spellings_of_the_collection_answer_without_a_redirect(join: Join) -> None:
    person = await join()
    for path in ("/api/posts", "/api/posts/"):
        assert (await person.client.get(path)).status_code == 200
        data = {"content_type": "note", "text_content": "x"}
        assert (await person.client.post(path, data=data)).status_code == 201


async def test_an_author_sees_their_post_at_once_in_every_list(join: Join) -> None:
    person, other = await join(), await join()
    for number in range(10):
        await person.client.get("/api/posts")
        post = await person.note(f"note {number}")
        feed = data_of(await person.client.get("/api/posts"))
        assert feed["posts"][0]["postId"] == post["postId"]
        own = data_of(await person.client.get("/api/posts/me"))
        assert own["posts"][0]["postId"] == post["postId"]
    assert data_of(await other.client.get("/api/posts/me"))["posts"] == []


async def test_the_feed_walks_by_cursor_to_the_end(join: Join) -> None:
    person = await join()
    made = [(await person.note(f"note {number}"))["postId"] for number in range(25)]
    for path in ("/api/posts", "/api/posts/me"):
        seen: list[str] = []
        query: dict[str, Any] = {"limit": 10}
        while True:
            data = data_of(await person.client.get(path, params=query))
            seen += [post["postId"] for post in data["posts"]]
            if data["next_cursor"] is None:
                break
            query["cursor"] = data["next_cursor"]
        assert seen == made[::-1]


async def test_skip_and_limit_page_too(join: Join) -> None:
    person = await join()
    made = [(await person.note(f"note {number}"))["postId"] for number in range(5)][::-1]
    data = data_of(await person.client.get("/api/posts", params={"skip": 2, "limit": 2}))
    assert [post["postId"] for post in data["posts"]] == made[2:4]


@pytest.mark.parametrize(
    "query",
    [
        "skip=-1",
        "skip=x",
        "skip=1000001",
        "skip=9223372036854775808",
        "limit=0",
        "limit=101",
        "limit=1.5",
        "cursor=",
        "cursor=nonsense",
        "cursor=" + "A" * 2_000,
        "cursor=nonsense&skip=1",
    ],
)
@pytest.mark.parametrize("path", ["/api/posts", "/api/posts/me"])
async def test_paging_out_of_range_is_400(join: Join, path: str, query: str) -> None:
    person = await join()
    error_of(await person.client.get(f"{path}?{query}"), 400)


async def test_a_cursor_serves_its_own_list_and_user_only(join: Join) -> None:
    person, other = await join(), await join()
    for number in range(3):
        await person.note(f"note {number}")
    cursor = data_of(await person.client.get("/api/posts?limit=1"))["next_cursor"]
    assert data_of(await person.client.get("/api/posts", params={"cursor": cursor, "limit": 1}))["count"] == 1
    error_of(await person.client.get("/api/posts/me", params={"cursor": cursor}), 400)
    error_of(await other.client.get("/api/posts", params={"cursor": cursor}), 400)
    error_of(await person.client.get("/api/posts", params={"cursor": cursor, "skip": 1}), 400)
    altered = cursor[:-1] + ("A" if cursor[-1] != "A" else "B")
    error_of(await person.client.get("/api/posts", params={"cursor": altered}), 400)


async def test_delete_is_for_the_author_and_shows_at_once(join: Join) -> None:
    person, other = await join(), await join()
    post = (await person.note())["postId"]
    assert data_of(await other.client.get("/api/posts"))["count"] == 1
    error_of(await other.client.delete(f"/api/posts/{post}"), 403)
    answer = await person.client.delete(f"/api/posts/{post}")
    assert set(answer.json()) == {"success", "message"}
    assert data_of(await person.client.get("/api/posts"))["count"] == 0
    for unknown in (post, str(ObjectId()), "malformed", "0" * 23):
        error_of(await person.client.delete(f"/api/posts/{unknown}"), 404)


async def test_every_route_needs_a_token(client: AsyncClient) -> None:
    for method, path in (
        ("GET", "/api/posts"), ("POST", "/api/posts/"), ("GET", "/api/posts/me"), ("DELETE", f"/api/posts/{'a' * 24}"),
        ("GET", "/api/users/me"), ("GET", "/api/auth/me"),
    ):  # fmt: skip
        error_of(await client.request(method, path), 401)


async def test_one_post_has_no_get_put_or_patch(join: Join) -> None:
    person = await join()
    for method in ("GET", "PUT", "PATCH"):
        assert (await person.client.request(method, f"/api/posts/{'a' * 24}")).status_code == 405


async def test_the_longest_link_blank_words_and_words_beside_a_link_are_taken(join: Join) -> None:
    person = await join()
    link = "https://e.org/" + "x" * (2_048 - len("https://e.org/"))
    sent = await person.client.post(
        "/api/posts/", data={"content_type": "link", "link_url": link, "text_content": "look"}
    )
    post = data_of(sent, 201)["post"]
    assert (post["linkUrl"], post["textContent"]) == (link, "look")
    assert (await person.note("   "))["textContent"] == "   "


async def test_pages_have_their_sizes_when_none_is_asked_for(join: Join, motor_db: Database) -> None:
    person = await join()
    author = {"user_id": person.id, "username": person.username}
    note = {"content_type": "note", "text_content": "x", "visibility": "public", "author": author}
    await motor_db.posts.insert_many([{**note, "created_at": datetime(2026, 1, 1)} for _ in range(101)])
    await person.catch_up()
    for path, usual in (
        ("/api/posts", 50), ("/api/posts/me", 20), ("/api/posts/search", 20), (f"/api/users/{person.id}/posts", 20),
    ):  # fmt: skip
        assert len(data_of(await person.client.get(path))["posts"]) == usual
        assert len(data_of(await person.client.get(path, params={"limit": 100}))["posts"]) == 100
