from __future__ import annotations

from typing import Any

import pytest
from httpx import ASGITransport, AsyncClient
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.types import Message
from starlette.websockets import WebSocket

from smriti_scale import context
from smriti_scale.errors import ConfigurationError
from smriti_scale.monitoring import RequestIdMiddleware, setup_request_ids

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def told(request: Request) -> Response:
    return PlainTextResponse(f"{context.request_id.get()} {context.trace.get()}")


async def broken(request: Request) -> Response:
    raise RuntimeError("no")


async def refused(request: Request) -> Response:
    raise HTTPException(403)


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text(f"{context.request_id.get()}")
    await websocket.close()


def app_of(**options: Any) -> Starlette:
    app = Starlette(
        routes=[
            Route("/told", told),
            Route("/broken", broken),
            Route("/refused", refused),
            Mount("/inner", RequestIdMiddleware(Starlette(routes=[Route("/told", told)]))),
            WebSocketRoute("/socket", socket),
        ]
    )
    setup_request_ids(app, **options)
    app.add_middleware(CORSMiddleware, allow_origins=["https://a.test"])  # added later, and inside all the same
    return app


def asking(app: Starlette) -> AsyncClient:
    return AsyncClient(transport=ASGITransport(app, raise_app_exceptions=False), base_url="http://test")


async def test_a_plain_id_is_taken_over_and_others_are_made_anew() -> None:
    async with asking(app_of()) as client:
        given = await client.get("/told", headers={"X-Request-ID": "order-4711_a"})
        assert given.headers["x-request-id"] == "order-4711_a"
        assert given.text.split()[0] == "order-4711_a"
        seen = set()
        for bad in (None, "short", "a" * 65, 'x"; drop table', "a b c d e f g", "naïve-naïve", "line\tbreak-1234"):
            headers = {} if bad is None else {b"X-Request-ID": bad.encode("latin-1")}
            answer = await client.get("/told", headers=headers)
            made = answer.headers["x-request-id"]
            assert len(made) == 32
            assert answer.text.split()[0] == made
            seen.add(made)
        assert len(seen) == 7


async def test_callers_name_nothing_where_that_is_not_accepted() -> None:
    async with asking(app_of(accept=False)) as client:
        answer = await client.get("/told", headers={"X-Request-ID": "order-4711_a"})
        assert len(answer.headers["x-request-id"]) == 32


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/broken", 500),
        ("GET", "/refused", 403),
        ("GET", "/nowhere", 404),
        ("POST", "/told", 405),
        ("OPTIONS", "/told", 200),
        ("GET", "/inner/told", 200),
    ],
)
async def test_every_answer_carries_one_id(method: str, path: str, status: int) -> None:
    headers = {"Origin": "https://a.test", "Access-Control-Request-Method": "GET", "X-Request-ID": "order-4711"}
    async with asking(app_of()) as client:
        answer = await client.request(method, path, headers=headers)
    assert answer.status_code == status
    assert answer.headers.get_list("x-request-id") == ["order-4711"]


async def test_a_websocket_is_named_in_its_handshake() -> None:
    sent: list[Message] = []
    scope = {"type": "websocket", "path": "/socket", "headers": [(b"x-request-id", b"order-4711")], "query_string": b""}

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await app_of()(scope, receive, send)
    assert (sent[0]["type"], sent[0]["headers"]) == ("websocket.accept", [(b"x-request-id", b"order-4711")])
    assert sent[1]["text"] == "order-4711"


async def test_a_caller_s_trace_is_taken_only_where_it_is_trusted() -> None:
    async with asking(app_of()) as client:
        assert (await client.get("/told", headers={"traceparent": TRACE})).text.endswith(" None")
    async with asking(app_of(trust_traceparent=True)) as client:
        assert (await client.get("/told", headers={"traceparent": TRACE})).text.endswith(f" {TRACE}")
        for bad in ("00-" + "0" * 32 + "-00f067aa0ba902b7-01", "garbage", TRACE + "\t"):
            assert (await client.get("/told", headers={"traceparent": bad})).text.endswith(" None")


async def test_it_must_be_set_up_before_the_first_request() -> None:
    app = Starlette()
    async with asking(app) as client:
        await client.get("/")
    with pytest.raises(ConfigurationError, match="first request"):
        setup_request_ids(app)
