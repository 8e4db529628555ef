from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import bcrypt
from bson import ObjectId
from fastapi import FastAPI
from httpx import AsyncClient
from motor.motor_asyncio import AsyncIOMotorDatabase

from examples.smriti.auth.backfill import Collision, backfill
from tests.examples.smriti.conftest import PASSWORD, data_of, error_of

Database = AsyncIOMotorDatabase[dict[str, Any]]
Join = Callable[..., Any]


def old(username: str, **fields: Any) -> dict[str, Any]:
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    created_at = datetime(2020, 1, 1)
    return {"_id": ObjectId(), "username": username, "hashed_password": hashed, "created_at": created_at, **fields}


async def test_old_accounts_get_their_keys_and_colliding_ones_are_reported_and_keep_working(
    app: FastAPI, client: AsyncClient, motor_db: Database
) -> None:
    people = [old("Asha", email="Asha@Example.org", phone="+91 98765 43210"), old("asha", email="other@example.org")]
    await motor_db.users.insert_many(people)
    seen = [each async for each in backfill(motor_db)]
    assert seen == [None, Collision(str(people[1]["_id"]), "username", "asha")]
    first = await motor_db.users.find_one({"username": "Asha"}) or {}
    assert (first["username_key"], first["email_key"], first["phone_key"]) == (
        "asha", "asha@example.org", "919876543210",
    )  # fmt: skip
    for name in ("Asha", "asha"):
        data = data_of(await client.post("/api/auth/login", json={"username": name, "password": PASSWORD}))
        assert data["username"] == name
    again = [each async for each in backfill(motor_db)]
    assert again == [Collision(str(people[1]["_id"]), "username", "asha")]
    body = {"username": "ASHA", "password": PASSWORD, "email": "new@example.org"}
    error_of(await client.post("/api/auth/signup", json=body), 409)
