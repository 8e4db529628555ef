"""Who may do what: every route of the OpenAPI document as nobody, as another user, and as a non-member."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from motor.motor_asyncio import AsyncIOMotorDatabase
from starlette.routing import Route

from tests.examples.smriti.conftest import CRON_SECRET, Person, data_of, error_of

pytestmark = pytest.mark.long

Database = AsyncIOMotorDatabase[dict[str, Any]]
Join = Callable[..., Any]

OPEN = {
    ("GET", "/"), ("GET", "/api/health"), ("POST", "/api/auth/signup"), ("POST", "/api/auth/login"),
    ("GET", "/api/auth/check-username/{username}"),
}  # fmt: skip
CRON = {("POST", "/api/internal/daily-quote-init"), ("POST", "/api/internal/daily-quote-push")}
NOTE = {"content_type": "note", "text_content": "x"}

# What each route needs to be asked properly, so that nothing but the missing right refuses it.
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/api/posts/"): {"data": NOTE},
    ("POST", "/api/posts/batch"): {"json": {"posts": [{"queueId": "1", "contentType": "note", "textContent": "x"}]}},
    ("PATCH", "/api/users/me"): {"json": {}},
    ("POST", "/api/circles/"): {"json": {"name": "porch"}},
    ("POST", "/api/circles/join"): {"json": {"inviteCode": "AAAAAAAA"}},
    ("PATCH", "/api/circles/{circle_id}"): {"json": {"name": "mine now"}},
    ("PUT", "/api/circles/{circle_id}"): {"json": {"name": "mine now"}},
    ("POST", "/api/circles/{circle_id}/posts"): {"data": NOTE},
    ("POST", "/api/notifications/register-token"): {"json": {"token": "t", "platform": "ios"}},
    ("POST", "/api/notifications/unregister-token"): {"json": {"token": "t", "platform": "ios"}},
}
NOT_FOUND, NO_MEMBER = (404, "CIRCLE_NOT_FOUND"), (403, "NOT_CIRCLE_MEMBER")
MEMBERS_ONLY: dict[tuple[str, str], tuple[int, str]] = {
    ("GET", "/api/circles/{circle_id}"): NOT_FOUND,
    ("PATCH", "/api/circles/{circle_id}"): NOT_FOUND,
    ("PUT", "/api/circles/{circle_id}"): NOT_FOUND,
    ("POST", "/api/circles/{circle_id}/regenerate-invite"): NOT_FOUND,
    ("POST", "/api/circles/{circle_id}/vote-delete"): NOT_FOUND,
    ("DELETE", "/api/circles/{circle_id}/vote-delete"): NOT_FOUND,
    ("GET", "/api/circles/{circle_id}/posts"): NO_MEMBER,
    ("POST", "/api/circles/{circle_id}/posts"): NO_MEMBER,
}


# Everybody who is signed in may ask these, and gets what is everybody's.
SHARED = {
    ("GET", "/api/posts/"), ("GET", "/api/posts/search"), ("GET", "/api/users/{user_id}"),
    ("GET", "/api/users/{user_id}/posts"), ("GET", "/api/circles/preview/{code}"), ("POST", "/api/circles/join"),
    ("POST", "/api/circles/join/{code}"),
}  # fmt: skip
# These are about the caller alone: nobody else can be named.
ONES_OWN = {
    ("GET", "/api/auth/me"), ("GET", "/api/posts/me"), ("POST", "/api/posts/"), ("POST", "/api/posts/batch"),
    ("GET", "/api/users/me"), ("PATCH", "/api/users/me"), ("GET", "/api/circles/"), ("POST", "/api/circles/"),
    ("GET", "/api/quotes/today"), ("GET", "/api/quotes/history"), ("POST", "/api/notifications/register-token"),
    ("POST", "/api/notifications/unregister-token"),
}  # fmt: skip
AUTHORS_ONLY = {("DELETE", "/api/posts/{post_id}")}

# Not in the document: open to all, but the collections without their slash, which are as closed as with it.
HIDDEN_OPEN = {
    "/docs", "/docs/oauth2-redirect", "/api/openapi.json", "/health", "/health/db", "/api/health", "/livez", "/readyz",
    "/startupz",
    "/metrics", "/files/{key:path}", "/web/{name}",
}  # fmt: skip
HIDDEN_CLOSED = {"/api/posts", "/api/circles"}


def routes_of(app: FastAPI) -> list[tuple[str, str]]:
    return [
        (method.upper(), path)
        for path, operations in app.openapi()["paths"].items()
        for method in operations
        if method != "parameters"
    ]


async def test_every_route_has_its_place_here(app: FastAPI) -> None:
    """A new one fails this test until it is said who may ask it; the tests below then ask it as the others."""
    places = [OPEN, CRON, SHARED, ONES_OWN, AUTHORS_ONLY, set(MEMBERS_ONLY)]
    assert sorted(routes_of(app)) == sorted(route for place in places for route in place)
    hidden = {getattr(route, "path", "") for route in app.routes} - {path for _, path in routes_of(app)}
    assert hidden - HIDDEN_OPEN == HIDDEN_CLOSED - HIDDEN_OPEN
    assert {route.path for route in app.routes if isinstance(route, Route)} >= HIDDEN_CLOSED


async def test_hidden_spellings_of_a_collection_are_closed_to_nobody_too(client: AsyncClient) -> None:
    for path in HIDDEN_CLOSED:
        error_of(await client.get(path), 401)
        error_of(await client.post(path, **BODIES["POST", f"{path}/"]), 401)


async def ask(client: AsyncClient, route: tuple[str, str], **values: str) -> Any:
    method, path = route
    values = {
        "username": "asha",
        "code": "AAAAAAAA",
        **dict.fromkeys(("post_id", "user_id", "circle_id"), "a" * 24),
    } | (values)
    return await client.request(method, path.format(**values), **BODIES.get(route, {}))


async def test_every_route_but_the_open_ones_is_closed_to_nobody(app: FastAPI, client: AsyncClient) -> None:
    routes = routes_of(app)
    assert len(routes) > 25
    assert set(routes) >= OPEN | CRON | set(BODIES) | set(MEMBERS_ONLY)
    for route in routes:
        if route in OPEN:
            continue
        if route in CRON:
            error_of(await ask(client, route), 400)
            continue
        answer = await ask(client, route)
        assert answer.status_code == 401, route
        error_of(answer, 401)
        assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_the_document_says_which_routes_need_a_token(app: FastAPI) -> None:
    for method, path in routes_of(app):
        needs = "security" in app.openapi()["paths"][path][method.lower()]
        assert needs == ((method, path) not in OPEN | CRON), (method, path)


async def test_a_signed_in_user_is_no_scheduler(join: Join) -> None:
    person: Person = await join()
    for route in CRON:
        error_of(await ask(person.client, route), 400)
        wrong = await person.client.post(route[1], headers={"X-Cron-Secret": CRON_SECRET[:-1]})
        error_of(wrong, 401)


@pytest.mark.parametrize("route", sorted(MEMBERS_ONLY), ids="-".join)
async def test_a_circle_is_closed_to_who_is_no_member_and_nothing_changes(
    join: Join, motor_db: Database, route: tuple[str, str]
) -> None:
    owner, stranger = await join(), await join()
    circle = data_of(await owner.client.post("/api/circles/", json={"name": "porch"}), 201)["circle"]
    await owner.note("a secret", visibility="circles", circle_ids=circle["circleId"])
    assert data_of(await owner.client.get(f"/api/circles/{circle['circleId']}/posts"))["total"] == 1
    before = await motor_db.circles.find_one({})
    answer = await ask(stranger.client, route, circle_id=circle["circleId"])
    error_of(answer, *MEMBERS_ONLY[route])
    assert "secret" not in answer.text
    assert await motor_db.circles.find_one({}) == before
    assert await motor_db.posts.count_documents({}) == 1


async def test_what_is_somebody_elses_stays_so(join: Join, motor_db: Database) -> None:
    owner, other = await join("asha"), await join()
    circle = data_of(await owner.client.post("/api/circles/", json={"name": "porch"}), 201)["circle"]
    hidden = await owner.note("a secret tide", visibility="circles", circle_ids=circle["circleId"])
    shown = await owner.note("a public tide")
    device = {"token": "owners", "platform": "ios"}
    await owner.client.post("/api/notifications/register-token", json=device)

    for post in (hidden, shown):
        error_of(await other.client.delete(f"/api/posts/{post['postId']}"), 403)
    await other.client.post("/api/notifications/unregister-token", json=device)
    to_circle = {**NOTE, "visibility": "circles", "circle_ids": circle["circleId"]}
    error_of(await other.client.post("/api/posts/", data=to_circle), 403, "NOT_CIRCLE_MEMBER")

    assert await motor_db.posts.count_documents({}) == 2
    assert await motor_db.device_tokens.count_documents({"token": "owners"}) == 1
    readable = [path for method, path in sorted(SHARED | ONES_OWN) if method == "GET"]
    for path in (
        *(path.format(user_id=owner.id, code=circle["inviteCode"]) for path in readable),
        *("/api/posts", "/api/circles", "/api/posts/search?q=tide", f"/api/posts/search?author_id={owner.id}"),
    ):
        answer = await other.client.get(path)
        assert answer.status_code == 200, path
        for private in ("secret", hidden["postId"], f"{owner.username}@example.org", "hashed_password"):
            assert private not in answer.text, path


async def test_a_token_of_an_account_that_is_gone_opens_nothing(app: FastAPI, join: Join, motor_db: Database) -> None:
    person: Person = await join()
    await motor_db.users.delete_many({})
    await app.state.services.scale.cache.clear()
    for route in routes_of(app):
        if route not in OPEN | CRON:
            error_of(await ask(person.client, route), 401)
