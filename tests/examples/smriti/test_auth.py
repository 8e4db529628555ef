from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import bcrypt
import jwt
import pytest
from bson import ObjectId
from httpx import AsyncClient
from motor.motor_asyncio import AsyncIOMotorDatabase

from examples.smriti.app import create_app
from examples.smriti.auth.passwords import PasswordHasher, Verdict
from examples.smriti.auth.tokens import Tokens
from smriti_scale.local import LocalMongo
from smriti_scale.settings import DEVELOPMENT_SECRET
from smriti_scale.testing import ManualClock, replication_lag
from tests.examples.smriti.conftest import PASSWORD, SettingsFactory, client_of, data_of, error_of

Database = AsyncIOMotorDatabase[dict[str, Any]]
Join = Callable[..., Any]


def account(**changes: Any) -> dict[str, Any]:
    return {"username": "asha", "password": PASSWORD, "email": "asha@example.org", **changes}


async def test_sign_up_answers_the_account_and_a_token(client: AsyncClient) -> None:
    data = data_of(await client.post("/api/auth/signup", json=account(display_name="Asha")), 201)
    assert set(data) == {"username", "displayName", "email", "phone", "token"}
    assert (data["username"], data["displayName"], data["phone"]) == ("asha", "Asha", None)
    claims = jwt.decode(data["token"], DEVELOPMENT_SECRET, algorithms=["HS256"])
    assert set(claims) == {"sub", "exp"}
    assert ObjectId.is_valid(claims["sub"])
    lifetime = datetime.fromtimestamp(claims["exp"], UTC) - datetime.now(UTC)
    assert timedelta(days=29, hours=23) < lifetime <= timedelta(days=30)


@pytest.mark.parametrize(
    "wrong",
    [
        {"username": "ab"},
        {"username": "a" * 31},
        {"username": "with blank"},
        {"username": "émile"},
        {"username": None},
        {"password": "short"},
        {"password": "p" * 129},
        {"password": None},
        {"email": "a@b"},
        {"email": "nowhere.example.org"},
        {"email": "a" * 90 + "@example.org"},
        {"phone": "123456789"},
        {"phone": "1" * 16},
        {"phone": "ten digits"},
        {"display_name": ""},
        {"display_name": "d" * 51},
    ],
)
async def test_sign_up_refuses_what_breaks_a_rule_without_repeating_it(
    client: AsyncClient, wrong: dict[str, Any]
) -> None:
    body = {name: value for name, value in account(**wrong).items() if value is not None}
    text = error_of(await client.post("/api/auth/signup", json=body), 400)
    assert body.get("password", "-") not in text


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"', b"\xff\xfe"])
async def test_an_unreadable_body_is_400(client: AsyncClient, body: bytes) -> None:
    error_of(await client.post("/api/auth/signup", content=body, headers={"Content-Type": "application/json"}), 400)


async def test_a_name_or_contact_in_use_is_409_without_regard_to_case(client: AsyncClient) -> None:
    data_of(await client.post("/api/auth/signup", json=account(phone="+91 98765 4321")), 201)
    taken = error_of(await client.post("/api/auth/signup", json=account(username="ASHA", email="o@example.org")), 409)
    assert "username" in taken
    mail = error_of(await client.post("/api/auth/signup", json=account(username="o1", email="Asha@Example.org")), 400)
    assert mail
    mail = error_of(await client.post("/api/auth/signup", json=account(username="oth", email="Asha@Example.org")), 409)
    assert "e-mail" in mail
    other = account(username="third", email="third@example.org", phone="+91987654321")
    assert "phone" in error_of(await client.post("/api/auth/signup", json=other), 409)


async def test_a_missing_contact_is_409_and_is_told_after_a_taken_name(client: AsyncClient) -> None:
    data_of(await client.post("/api/auth/signup", json=account()), 201)
    without = {"username": "asha", "password": PASSWORD}
    assert "username" in error_of(await client.post("/api/auth/signup", json=without), 409)
    assert "needed" in error_of(await client.post("/api/auth/signup", json={**without, "username": "new_one"}), 409)


@pytest.mark.long
async def test_fifty_sign_ups_for_one_name_at_once_make_one_account(client: AsyncClient, motor_db: Database) -> None:
    answers = await asyncio.gather(
        *(client.post("/api/auth/signup", json=account(email=f"n{number}@example.org")) for number in range(50))
    )
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [201] + [409] * 49
    assert await motor_db.users.count_documents({}) == 1


@pytest.mark.parametrize(
    "identifier",
    [
        {"username": "asha"},
        {"username": "ASHA"},
        {"email": "asha@example.org"},
        {"email": "ASHA@example.org"},
        {"username": "asha@example.org"},
        {"phone": "+91987654321"},
        {"phone": "91 98765 4321"},
        {"username": "asha", "email": "ignored@example.org"},
    ],
)
async def test_login_takes_a_name_an_email_or_a_phone(client: AsyncClient, identifier: dict[str, str]) -> None:
    data_of(await client.post("/api/auth/signup", json=account(phone="+91987654321")), 201)
    data = data_of(await client.post("/api/auth/login", json={"password": PASSWORD, **identifier}))
    assert data["username"] == "asha"
    assert data["token"]


async def test_an_unknown_account_and_a_wrong_password_get_the_same_words(client: AsyncClient) -> None:
    data_of(await client.post("/api/auth/signup", json=account()), 201)
    wrong = await client.post("/api/auth/login", json={"username": "asha", "password": "wrong one"})
    unknown = await client.post("/api/auth/login", json={"username": "nobody", "password": "wrong one"})
    assert error_of(wrong, 401) == error_of(unknown, 401)
    assert wrong.headers["WWW-Authenticate"] == "Bearer"


async def test_an_unknown_account_costs_a_whole_hash_too() -> None:
    hasher = PasswordHasher(rounds=4)
    assert await hasher.verify("a password that nobody has", None) is Verdict.WRONG
    hasher.close()


@pytest.mark.parametrize(
    "body", [{"password": PASSWORD}, {"username": "asha"}, {"username": "as", "password": PASSWORD}, {}]
)
async def test_login_without_what_it_needs_is_400(client: AsyncClient, body: dict[str, str]) -> None:
    error_of(await client.post("/api/auth/login", json=body), 400)


async def test_long_passwords_count_to_the_last_byte(client: AsyncClient) -> None:
    long = "ü" * 64 + "1"
    data_of(await client.post("/api/auth/signup", json=account(password=long)), 201)
    data_of(await client.post("/api/auth/login", json={"username": "asha", "password": long}))
    error_of(await client.post("/api/auth/login", json={"username": "asha", "password": long[:-1] + "2"}), 401)


async def test_an_old_hash_of_a_long_password_verifies_once_more_and_is_renewed(
    client: AsyncClient, motor_db: Database
) -> None:
    long = "p" * 80
    data_of(await client.post("/api/auth/signup", json=account(password=long)), 201)
    old = bcrypt.hashpw(long.encode()[:72], bcrypt.gensalt(4)).decode()
    await motor_db.users.update_one({"username": "asha"}, {"$set": {"hashed_password": old}})
    data_of(await client.post("/api/auth/login", json={"username": "asha", "password": long}))
    renewed = (await motor_db.users.find_one({"username": "asha"}) or {})["hashed_password"]
    assert renewed.startswith("bcrypt-sha256:")
    data_of(await client.post("/api/auth/login", json={"username": "asha", "password": long}))


async def test_an_old_account_without_keys_signs_in_by_its_exact_name(client: AsyncClient, motor_db: Database) -> None:
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    await motor_db.users.insert_one(
        {"username": "Old One", "email": None, "hashed_password": hashed, "created_at": datetime(2020, 1, 1)}
    )
    data = data_of(await client.post("/api/auth/login", json={"username": "Old One", "password": PASSWORD}))
    assert data["username"] == "Old One"


async def test_check_username_goes_by_the_rule_of_sign_up(client: AsyncClient) -> None:
    data_of(await client.post("/api/auth/signup", json=account()), 201)
    for name, available in (("asha", False), ("ASHA", False), ("someone", True)):
        answer = await client.get(f"/api/auth/check-username/{name}")
        assert answer.status_code == 200
        assert set(answer.json()) == {"success", "available", "message"}
        assert answer.json()["available"] is available


async def test_me_is_the_account_and_never_its_hash(client: AsyncClient, join: Join) -> None:
    person = await join("asha")
    body = (await person.client.get("/api/auth/me")).json()
    assert set(body) == {"success", "user"}
    assert set(body["user"]) == {
        "_id", "username", "display_name", "email", "phone", "timezone", "location", "createdAt",
    }  # fmt: skip
    assert body["user"]["createdAt"].endswith("Z")


def token(**claims: Any) -> str:
    whole = {"sub": "a" * 24, "exp": datetime.now(UTC) + timedelta(hours=1), **claims}
    return jwt.encode({name: value for name, value in whole.items() if value is not None}, DEVELOPMENT_SECRET)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer nonsense",
        "Basic YTpi",
        "Bearer " + jwt.encode({"sub": "a" * 24, "exp": 2**33}, "another secret of thirty-two bytes and more"),
        "Bearer " + token(),
        "Bearer " + token(exp=datetime(2020, 1, 1, tzinfo=UTC)),
        "Bearer " + token(exp=None),
        "Bearer " + token(sub=None),
        "Bearer " + token(sub="no id"),
        "Bearer " + token(sub="A" * 24),
        "Bearer " + "x" * 10_000,
        "Bearer \xff\xfe",
    ],
    ids=lambda header: repr(header)[:24],
)
async def test_without_a_valid_token_of_an_account_it_is_401(
    client: AsyncClient, transport: str, header: str | None
) -> None:
    if header is not None and transport == "http":
        header = header.strip()  # HTTP has no blanks at the end of a value
    headers = {} if header is None else {b"Authorization": header.encode("latin-1")}
    answer = await client.get("/api/auth/me", headers=headers)
    error_of(answer, 401)
    assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_an_unsigned_token_is_refused(client: AsyncClient) -> None:
    unsigned = jwt.encode({"sub": "a" * 24, "exp": 2**33}, "", algorithm="none")
    error_of(await client.get("/api/auth/me", headers={"Authorization": f"Bearer {unsigned}"}), 401)


@pytest.mark.long
@pytest.mark.xdist_group("fault_mongo")
async def test_a_new_account_is_known_at_once_although_replicas_lag(
    smriti_settings: SettingsFactory, fault_mongo: LocalMongo
) -> None:
    """As the mobile app asks: by bearer token alone, without the cookie that would carry its position."""
    app = create_app(smriti_settings(mongodb_uri=fault_mongo.uri, indexes="apply"))
    async with app.router.lifespan_context(app), client_of(app) as client:
        await client.get("/api/auth/check-username/warm_up")
        async with replication_lag(fault_mongo, 1.0):
            for number in range(5):
                name = f"new_{number}"
                body = {"username": name, "password": PASSWORD, "email": f"{name}@example.org"}
                data = data_of(await client.post("/api/auth/signup", json=body), 201)
                client.cookies.clear()
                token = {"Authorization": f"Bearer {data['token']}"}
                me = await client.get("/api/auth/me", headers=token)
                assert me.status_code == 200, me.text
                posted = await client.post(
                    "/api/posts", data={"content_type": "note", "text_content": "x"}, headers=token
                )
                post = data_of(posted, 201)["post"]
                client.cookies.clear()
                own = data_of(await client.get("/api/posts/me", headers=token))["posts"]
                assert [each["postId"] for each in own] == [post["postId"]]


@pytest.mark.parametrize(
    "edge",
    [
        {"username": "abc"},
        {"username": "a" * 30},
        {"username": "A_9"},
        {"password": "p" * 6},
        {"password": "p" * 128},
        {"email": "a@b.c"},
        {"email": "a" * 88 + "@example.org"},
        {"phone": "1234567890"},
        {"phone": "+12345678901234"},
        {"display_name": "d"},
        {"display_name": "🌿" * 50},
    ],
    ids=lambda edge: f"{next(iter(edge))}, {len(next(iter(edge.values())))}",
)
async def test_lengths_are_inclusive(client: AsyncClient, edge: dict[str, str]) -> None:
    data_of(await client.post("/api/auth/signup", json=account(**edge)), 201)
    login = {"username": edge.get("username", "asha"), "password": edge.get("password", PASSWORD)}
    data_of(await client.post("/api/auth/login", json=login))


async def test_a_taken_address_is_told_before_a_taken_number(client: AsyncClient) -> None:
    contacts = {"email": "asha@example.org", "phone": "+91987654321"}
    data_of(await client.post("/api/auth/signup", json=account(**contacts)), 201)
    assert "e-mail" in error_of(await client.post("/api/auth/signup", json=account(username="bela", **contacts)), 409)


async def test_a_number_in_the_place_of_the_name_opens_nothing(client: AsyncClient) -> None:
    data_of(await client.post("/api/auth/signup", json=account(phone="+91987654321")), 201)
    for body in ({"username": "+91987654321"}, {"email": "+91987654321"}):
        error_of(await client.post("/api/auth/login", json={**body, "password": PASSWORD}), 401)


@pytest.mark.long
@pytest.mark.parametrize("contact", [{"email": "shared@example.org"}, {"phone": "+91987654321", "email": None}])
async def test_fifty_sign_ups_with_one_contact_at_once_make_one_account(
    client: AsyncClient, motor_db: Database, contact: dict[str, Any]
) -> None:
    bodies = [
        {name: value for name, value in account(username=f"person_{number}", **contact).items() if value is not None}
        for number in range(50)
    ]
    answers = await asyncio.gather(*(client.post("/api/auth/signup", json=body) for body in bodies))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 49
    assert await motor_db.users.count_documents({}) == 1


def test_a_remembered_token_expires_all_the_same() -> None:
    clock = ManualClock()
    tokens = Tokens("a secret of thirty-two bytes and more", lifetime=1, clock=clock)
    user_id, other = "a" * 24, "b" * 24
    one = tokens.issue(user_id)
    assert [tokens.read(one), tokens.read(one), tokens.read(tokens.issue(other))] == [user_id, user_id, other]
    clock.advance(59)
    assert tokens.read(one) == user_id
    clock.advance(1)
    assert tokens.read(one) is None
    assert tokens.read(one[:-2] + "AA") is None
