from __future__ import annotations

import asyncio
import re
from typing import Literal

import pytest
from httpx import ASGITransport, AsyncClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from smriti_scale.cache import Cache
from smriti_scale.events import Events
from smriti_scale.mongo import MongoClients
from smriti_scale.monitoring import ServerTiming


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_each_answer_tells_its_own_time_commands_and_cache(
    driver: Literal["motor", "pymongo"], mongo_uri: str, mongo_database_name: str
) -> None:
    events = Events()
    timing = ServerTiming(events=events)
    cache = Cache(None, namespace="timing", events=events)
    mongo = MongoClients(
        mongo_uri,
        database=mongo_database_name,
        driver=driver,
        client_options={"event_listeners": [timing.command_listener]},
    )

    @cache.cached(ttl=60)
    async def counted(name: str) -> int:
        found: int = await mongo.read.posts.count_documents({"name": name})
        return found

    async def asked(request: Request) -> Response:
        count = int(request.query_params["n"])
        await asyncio.gather(*(mongo.read.posts.find_one({"_id": number}) for number in range(count)))
        await counted(request.query_params["n"])
        return PlainTextResponse("ok")

    app = Starlette(routes=[Route("/", asked)])
    timing.install(app)
    async with mongo, AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        answers = await asyncio.gather(*(client.get(f"/?n={count}") for count in (0, 1, 5)))
        assert [_commands(answer.headers["server-timing"]) for answer in answers] == [1, 2, 6]
        for answer in answers:
            parts = answer.headers["server-timing"]
            assert re.fullmatch(
                r'app;dur=\d+\.\d, db;dur=\d+\.\d;desc="\d commands?", cache;dur=\d+\.\d;desc="0 hits, 1 miss"', parts
            ), parts
        again = await client.get("/?n=0")
        assert re.fullmatch(r"app;dur=\d+\.\d", again.headers["server-timing"]), "from memory: nothing to tell"
    timing.close()
    assert not events
    await cache.aclose()


def _commands(line: str) -> int:
    found = re.search(r'desc="(\d+) command', line)
    assert found, line
    return int(found[1])
