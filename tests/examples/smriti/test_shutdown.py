from __future__ import annotations

import asyncio
import re
import secrets
import signal

import pytest
from httpx import AsyncClient, Limits, Response

from tests.examples.smriti.conftest import PASSWORD, SettingsFactory, data_of
from tests.examples.smriti.serving import started

pytestmark = pytest.mark.long

UNDER_WAY = 12


async def test_requests_under_way_are_answered_whole_when_the_service_is_told_to_stop(
    smriti_settings: SettingsFactory,
) -> None:
    # Hashing takes its time and is done two at once: a dozen sign-ups are surely under way for a while.
    async with started(smriti_settings(bcrypt_rounds=13)) as (base, process):
        limits = Limits(max_connections=UNDER_WAY)
        async with AsyncClient(base_url=base, timeout=60, limits=limits) as client, AsyncClient(base_url=base) as other:
            signing_up = [asyncio.create_task(sign_up(client)) for _ in range(UNDER_WAY)]
            while await in_progress(other) < UNDER_WAY:
                assert not any(task.done() for task in signing_up)
            process.send_signal(signal.SIGTERM)
            answers = await asyncio.gather(*signing_up)
        for answer in answers:
            assert data_of(answer, 201)["token"]
        await asyncio.wait_for(process.wait(), 15)


async def sign_up(client: AsyncClient) -> Response:
    name = f"p_{secrets.token_hex(8)}"
    body = {"username": name, "password": PASSWORD, "email": f"{name}@example.org"}
    return await client.post("/api/auth/signup", json=body)


async def in_progress(client: AsyncClient) -> float:
    """How many requests the service says are under way, without the one that asks."""
    page = (await client.get("/metrics")).text
    found = re.search(r"^\w*requests_in_progress(?:{[^}]*})? ([0-9.e+]+)$", page, re.MULTILINE)
    assert found, page
    return float(found[1]) - 1
