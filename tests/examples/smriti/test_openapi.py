"""Every route is asked what its OpenAPI document allows, and much that it does not: no 500, no undeclared status."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import schemathesis
from httpx import AsyncClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.examples.smriti.conftest import CRON_SECRET, SettingsFactory, data_of, join_through
from tests.examples.smriti.serving import served

SECONDS = 30.0
EXAMPLES = 40
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.mark.long
async def test_no_route_answers_500_or_what_its_document_does_not_declare(smriti_settings: SettingsFactory) -> None:
    async with served(smriti_settings()) as base, AsyncClient(base_url=base) as one, AsyncClient(base_url=base) as two:
        person, other = await join_through(one), await join_through(two)
        circle = data_of(await one.post("/api/circles", json={"name": "porch"}), 201)["circle"]
        data_of(await two.post(f"/api/circles/join/{circle['inviteCode']}"), 201)  # so that one vote ends nothing
        post = await person.note()
        ids = {
            "circle_id": circle["circleId"],
            "user_id": other.id,
            "post_id": post["postId"],
            "code": circle["inviteCode"],
            "username": person.username,
        }
        headers = {"Authorization": one.headers["Authorization"]}
        document = (await one.get("/api/openapi.json")).json()
        asked = await asyncio.to_thread(_ask_everything, document, base, headers, ids)
        assert (await one.get("/readyz")).status_code == 200
    assert len(asked) > 25
    assert min(asked.values()) >= 2, asked


def _ask_everything(document: dict[str, Any], base: str, headers: dict[str, str], ids: dict[str, str]) -> Counter[str]:
    """Asks every operation in turn, within the time there is; returns how often each was asked.

    Raises:
        AssertionError: an answer that the document does not allow.
    """
    operations = [
        each.ok() for each in schemathesis.openapi.from_dict(document).get_all_operations() if isinstance(each, Ok)
    ]
    asked: Counter[str] = Counter()
    began = time.monotonic()
    for number, operation in enumerate(operations):
        named = {each.name for each in operation.path_parameters}
        known: dict[str, Any] = {"path_parameters": {name: ids[name] for name in named & set(ids)}} if named else {}
        secret = {"X-Cron-Secret": CRON_SECRET} if "internal" in operation.path else {}
        for part, (mode, fixed, sent) in enumerate(
            (
                (GenerationMode.POSITIVE, known, {**headers, **secret}),  # about things that exist
                (GenerationMode.POSITIVE, {}, headers),
                (GenerationMode.NEGATIVE, {}, headers),
            )
        ):
            until = began + SECONDS * (number + (part + 1) / 3) / len(operations)
            _ask(operation, mode, fixed, base=base, headers=sent, until=until, asked=asked)
    return asked


def _ask(
    operation: Any,
    mode: GenerationMode,
    fixed: dict[str, Any],
    *,
    base: str,
    headers: dict[str, str],
    until: float,
    asked: Counter[str],
) -> None:
    def once(case: Any) -> None:
        if asked[operation.label] > 2 and time.monotonic() > until:
            return
        asked[operation.label] += 1
        case.validate_response(case.call(base_url=base, headers=headers), checks=CHECKS)

    run: Callable[[], None] = settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )(given(case=operation.as_strategy(mode, **fixed))(once))
    # A route that takes nothing cannot be asked wrongly.
    with contextlib.suppress(Unsatisfiable) if mode is GenerationMode.NEGATIVE else contextlib.nullcontext():
        run()
