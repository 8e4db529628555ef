from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient

from examples.smriti.app import create_app
from tests.examples.smriti.conftest import SettingsFactory, client_of, data_of, error_of, join_through

Join = Callable[..., Any]


async def test_root_health_and_docs(client: AsyncClient) -> None:
    root = (await client.get("/")).json()
    assert (root["docs"], root["version"]) == ("/docs", "1.0.0")
    assert (await client.get("/api/health")).json() == {"status": "ok"}
    head = await client.head("/api/health")
    assert (head.status_code, head.content) == (200, b"")
    assert (await client.get("/docs")).status_code == 200
    paths = (await client.get("/api/openapi.json")).json()["paths"]
    assert "/api/auth/signup" in paths


async def test_readiness_names_both_servers(client: AsyncClient) -> None:
    body = (await client.get("/readyz")).json()
    assert body["status"] == "ready"
    assert set(body["checks"]) == {"mongodb", "redis"}


async def test_figures_tell_of_the_task_queues(app: FastAPI, client: AsyncClient) -> None:
    await app.state.services.scale.monitoring.look()
    figures = (await client.get("/metrics")).text
    assert 'scale_queue_depth{queue="documents"} ' in figures
    assert 'scale_queue_age_seconds{queue="default"} ' in figures


async def test_my_profile_counts_my_posts(join: Join) -> None:
    person = await join("asha")
    await person.note()
    user = data_of(await person.client.get("/api/users/me"))["user"]
    assert set(user) == {
        "id", "username", "display_name", "email", "phone", "timezone", "location", "location_required",
        "joined_at", "post_count",
    }  # fmt: skip
    assert (user["post_count"], user["location_required"]) == (1, True)
    await person.note()
    assert data_of(await person.client.get("/api/users/me"))["user"]["post_count"] == 2


async def test_unknown_routes_and_methods_are_e_with_cors(client: AsyncClient) -> None:
    origin = {"Origin": "http://localhost:3000"}
    unknown = await client.get("/api/nothing", headers=origin)
    error_of(unknown, 404)
    assert unknown.headers["access-control-allow-origin"] == "http://localhost:3000"
    error_of(await client.put("/api/auth/login", headers=origin), 405)


async def test_preflight_is_200_for_the_apps_origins_only(client: AsyncClient) -> None:
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    for origin in ("http://localhost:3000", "http://localhost:19006", "exp://localhost:19000"):
        answer = await client.options("/api/auth/login", headers={"Origin": origin, **ask})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-credentials"] == "true"
    stranger = await client.options("/api/auth/login", headers={"Origin": "https://evil.example", **ask})
    assert "access-control-allow-origin" not in stranger.headers


async def test_the_sixth_sign_up_within_a_minute_is_refused_and_told_when_to_come_back(
    smriti_settings: SettingsFactory,
) -> None:
    app = create_app(smriti_settings(signup_limit="5/minute"))
    async with app.router.lifespan_context(app), client_of(app) as client:
        statuses = []
        for number in range(6):
            body = {"username": f"visitor{number}", "password": "correct horse", "email": f"v{number}@example.org"}
            answer = await client.post("/api/auth/signup", json=body)
            statuses.append(answer.status_code)
        assert statuses == [201] * 5 + [429]
        error_of(answer, 429)
        assert int(answer.headers["Retry-After"]) >= 1
        assert (await client.get("/api/health")).status_code == 200


async def test_the_limit_of_everything_else_counts_by_user(smriti_settings: SettingsFactory) -> None:
    app = create_app(smriti_settings(user_limit="10/minute"))
    async with app.router.lifespan_context(app), client_of(app) as client:
        tokens = []
        for name in ("asha", "bela"):
            body = {"username": name, "password": "correct horse", "email": f"{name}@example.org"}
            tokens.append(data_of(await client.post("/api/auth/signup", json=body), 201)["token"])
        statuses = [
            (await client.get("/api/posts", headers={"Authorization": f"Bearer {tokens[0]}"})).status_code
            for _ in range(12)
        ]
        assert statuses == [200] * 10 + [429] * 2
        other = await client.get("/api/posts", headers={"Authorization": f"Bearer {tokens[1]}"})
        assert other.status_code == 200


async def test_a_crash_is_500_e_with_cors_and_says_nothing_of_its_cause(smriti_settings: SettingsFactory) -> None:
    app = create_app(smriti_settings())

    @app.get("/api/crash")
    async def crash() -> None:
        raise RuntimeError("the password is hunter2")

    async with app.router.lifespan_context(app), client_of(app) as client:
        answer = await client.get("/api/crash", headers={"Origin": "http://localhost:3000"})
    assert "hunter2" not in error_of(answer, 500)
    assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"


async def test_an_unchanged_answer_is_304_for_its_own_reader_only(join: Join, primitives: None) -> None:
    person, other = await join(), await join()
    first = await person.client.get("/api/posts/me")
    tag = {"If-None-Match": first.headers["etag"]}
    assert "private" in first.headers.get("cache-control", "private")
    again = await person.client.get("/api/posts/me", headers=tag)
    assert (again.status_code, again.content) == (304, b"")
    assert (await other.client.get("/api/posts/me", headers={**tag, "Authorization": "Bearer x"})).status_code == 401
    await person.note()
    assert (await person.client.get("/api/posts/me", headers=tag)).status_code == 200


async def test_long_answers_are_compressed_for_who_takes_it(join: Join, primitives: None) -> None:
    person = await join()
    await person.note("a long thought " * 200)
    for coding in ("zstd", "br", "gzip"):
        answer = await person.client.get("/api/posts", headers={"Accept-Encoding": coding})
        assert answer.headers["content-encoding"] == coding
        assert "Accept-Encoding" in answer.headers["vary"]
    assert (
        "content-encoding"
        not in (await person.client.get("/api/posts", headers={"Accept-Encoding": "identity"})).headers
    )


async def test_the_eleventh_login_within_a_minute_is_refused(
    smriti_settings: SettingsFactory,
) -> None:
    app = create_app(smriti_settings(login_limit="10/minute"))
    async with app.router.lifespan_context(app), client_of(app) as client:
        statuses = []
        for number in range(11):
            body = {"username": f"visitor{number}", "password": "correct horse"}
            answer = await client.post("/api/auth/login", json=body)
            statuses.append(answer.status_code)
        assert statuses == [401] * 10 + [429]
        error_of(answer, 429)
        assert int(answer.headers["Retry-After"]) >= 1


async def test_who_is_not_signed_in_is_counted_by_address(smriti_settings: SettingsFactory) -> None:
    app = create_app(smriti_settings(user_limit="10/minute"))
    async with app.router.lifespan_context(app), client_of(app) as client:
        # A token that nobody signed names nobody: inventing some evades nothing.
        statuses = [
            (
                await client.get("/api/auth/check-username/asha", headers={"Authorization": f"Bearer forged{number}"})
            ).status_code
            for number in range(12)
        ]
    assert statuses == [200] * 10 + [429] * 2


async def test_a_refusal_has_cors_headers_and_a_request_id(smriti_settings: SettingsFactory) -> None:
    app = create_app(smriti_settings(user_limit="1/minute"))
    origin = {"Origin": "http://localhost:3000"}
    async with app.router.lifespan_context(app), client_of(app) as client:
        await client.get("/api/posts", headers=origin)
        refused = await client.get("/api/posts", headers=origin)
    error_of(refused, 429)
    assert refused.headers["access-control-allow-origin"] == origin["Origin"]
    assert refused.headers["X-Request-ID"]


async def test_the_figures_are_there_and_count_by_route(app: FastAPI, client: AsyncClient) -> None:
    await client.get("/api/auth/check-username/asha")
    page = await client.get("/metrics")
    assert page.status_code == 200
    assert '/api/auth/check-username/{username}"' in page.text


@pytest.mark.long
async def test_two_instances_that_lease_admit_no_more_than_the_limit_and_hardly_less(
    smriti_settings: SettingsFactory,
) -> None:
    settings = smriti_settings(user_limit="100/day")  # five units at a time: 5 %
    one, two = create_app(settings), create_app(settings)
    async with (
        one.router.lifespan_context(one),
        two.router.lifespan_context(two),
        client_of(one) as first,
        client_of(two) as second,
    ):
        person = await join_through(first)
        second.headers["Authorization"] = person.client.headers["Authorization"]
        answers = await asyncio.gather(*(client.get("/api/auth/me") for _ in range(75) for client in (first, second)))
    admitted = sum(answer.status_code == 200 for answer in answers)
    assert {answer.status_code for answer in answers} == {200, 429}
    assert 90 <= admitted <= 99  # to ask who one is, once signed up, was the first of the hundred
