"""The pagination example, as its reader runs it."""

from __future__ import annotations

import pytest
from httpx import ASGITransport, AsyncClient


async def test_the_example_serves_every_post_once(
    mongo_uri: str, mongo_database_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONGODB_URI", mongo_uri)
    monkeypatch.setenv("DATABASE_NAME", mongo_database_name)
    from examples.minimal import pagination

    titles: list[str] = []
    async with (
        pagination.lifespan(pagination.app),
        AsyncClient(transport=ASGITransport(app=pagination.app), base_url="http://test") as client,
    ):
        params = {"limit": "30"}
        while True:
            page = (await client.get("/posts", params=params)).json()
            titles += [item["title"] for item in page["items"]]
            if not page["has_next"]:
                break
            params["cursor"] = page["next_cursor"]
        altered = await client.get("/posts", params={"cursor": params["cursor"][:-2]})
    assert titles == [f"Post {number}" for number in range(100)]
    assert (altered.status_code, altered.json()) == (400, {"detail": "invalid cursor"})
