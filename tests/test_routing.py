from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Host, Match, Mount, Route, Router, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from smriti_scale.routing import NO_ROUTE, UNMATCHED, RouteTable, method_label, resolve_route


async def page(request: Request) -> Response:
    return PlainTextResponse("page")


async def other(request: Request) -> Response:
    return PlainTextResponse("other")


async def talk(websocket: WebSocket) -> None:
    await websocket.accept()


def scope_of(path: str, method: str = "GET", *, kind: str = "http", **more: Any) -> Scope:
    scope: Scope = {"type": kind, "path": path, "root_path": "", "headers": [], "query_string": b"", **more}
    return {**scope, "method": method} if kind == "http" else scope


def template(routes: list[BaseRoute], path: str, method: str = "GET", **more: Any) -> str:
    return RouteTable(routes).resolve(scope_of(path, method, **more)).template


def test_a_parameter_shows_as_its_name_without_its_type() -> None:
    assert template([Route("/users/{id:int}", page)], "/users/42") == "/users/{id}"


def test_a_path_that_no_route_serves_shares_one_label() -> None:
    table = RouteTable([Route("/users/{id:int}", page)])
    assert {table.resolve(scope_of(path)).template for path in ("/wp-admin", "/users/x", "/", "")} == {UNMATCHED}


def test_the_first_route_that_fits_wins_as_in_the_app() -> None:
    before = [Route("/users/{id}", page), Route("/users/me", other)]
    after = [Route("/users/me", other), Route("/users/{id}", page)]
    assert template(list(before), "/users/me") == "/users/{id}"
    assert template(list(after), "/users/me") == "/users/me"


def test_a_method_that_a_route_lacks_is_answered_by_the_next_or_labelled_with_the_first() -> None:
    table = RouteTable([Route("/posts", page, methods=["GET"]), Route("/posts", other, methods=["POST"])])
    assert table.resolve(scope_of("/posts", "POST")).endpoint is other
    assert table.resolve(scope_of("/posts", "HEAD")).endpoint is page
    assert table.resolve(scope_of("/posts", "DELETE")).template == "/posts"
    assert table.resolve(scope_of("/posts", "BREW")).template == "/posts"


def test_mounts_are_part_of_the_template_and_keep_what_their_app_does_not_know() -> None:
    inner = Starlette(routes=[Route("/items/{id}", page)])
    deep = Router(routes=[Mount("/v{version:int}", routes=[Route("/x/{id}", page)])])
    table = RouteTable([Mount("/shop/{id}", app=inner), Mount("/api", app=deep), Route("/shop/{id}/late", other)])
    assert table.resolve(scope_of("/shop/7/items/9")).template == "/shop/{id}/items/{id}"
    assert table.resolve(scope_of("/api/v2/x/9")).template == "/api/v{version}/x/{id}"
    assert table.resolve(scope_of("/shop/7/late")) is NO_ROUTE  # the mount matched first, and answers 404


def test_a_mounted_app_without_routes_is_one_route() -> None:
    async def files(scope: Scope, receive: Receive, send: Send) -> None: ...

    resolved = RouteTable([Mount("/static", app=files)]).resolve(scope_of("/static/a/b.css"))
    assert resolved.template == "/static/{path}"
    assert resolved.endpoint is files


def test_websockets_and_requests_on_one_path_are_told_apart() -> None:
    table = RouteTable([Route("/talk", page), WebSocketRoute("/talk", talk), WebSocketRoute("/only", talk)])
    assert table.resolve(scope_of("/talk")).endpoint is page
    assert table.resolve(scope_of("/talk", kind="websocket")).endpoint is talk
    assert table.resolve(scope_of("/only")) is NO_ROUTE


def test_a_host_decides_where_the_app_lets_it() -> None:
    table = RouteTable([Host("api.{domain}.org", app=Router([Route("/x", page)])), Route("/x", other)])
    assert table.resolve(scope_of("/x", headers=[(b"host", b"API.shop.org:80")])).endpoint is page
    assert table.resolve(scope_of("/x", headers=[(b"host", b"www.shop.org")])).endpoint is other


def test_a_route_class_with_its_own_matching_is_asked() -> None:
    class ByHeader(Route):
        def matches(self, scope: Scope) -> tuple[Match, Scope]:
            match, child = super().matches(scope)
            return (match, child) if (b"x-beta", b"1") in scope["headers"] else (Match.NONE, {})

    table = RouteTable([ByHeader("/x", page), Route("/x", other)])
    assert table.resolve(scope_of("/x", headers=[(b"x-beta", b"1")])).endpoint is page
    assert table.resolve(scope_of("/x")).endpoint is other


def test_the_servers_root_path_is_not_part_of_the_template() -> None:
    table = RouteTable([Route("/users/{id}", page)])
    assert table.resolve(scope_of("/prefix/users/1", root_path="/prefix")).template == "/users/{id}"
    assert table.resolve(scope_of("/users/1", root_path="/prefix")).template == "/users/{id}"


def test_routes_added_while_serving_are_noticed() -> None:
    routes: list[BaseRoute] = [Route("/a", page)]
    table = RouteTable(routes)
    assert table.resolve(scope_of("/b")) is NO_ROUTE
    routes.append(Route("/b", other))
    assert table.resolve(scope_of("/b")).endpoint is other
    assert list(table.templates()) == ["/a", "/b"]


def test_methods_are_labelled_without_letting_a_client_mint_labels() -> None:
    assert [method_label(scope_of("/", method)) for method in ("GET", "PATCH", "get", "BREW")] == [
        "GET",
        "PATCH",
        "OTHER",
        "OTHER",
    ]
    assert method_label(scope_of("/", kind="websocket")) == "WEBSOCKET"


class Recorder:
    """Notes the template on the way in and on the way out."""

    def __init__(self, app: ASGIApp, seen: list[tuple[str, str]], *, after_only: bool) -> None:
        self.app = app
        self.seen = seen
        self.after_only = after_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        before = "" if self.after_only else resolve_route(scope).template
        try:
            await self.app(scope, receive, send)
        finally:
            self.seen.append((before, resolve_route(scope).template))


def fastapi_app() -> FastAPI:
    app = FastAPI()
    users = APIRouter(prefix="/users")
    circles = APIRouter()

    @users.get("/{user_id}")
    async def user(user_id: str) -> str:
        return user_id

    @circles.get("/circles/{circle_id}/posts")
    async def posts(circle_id: str) -> str:
        return circle_id

    @circles.websocket("/circles/{circle_id}/talk")
    async def talk(websocket: WebSocket, circle_id: str) -> None:
        await websocket.accept()
        await websocket.close()

    users.include_router(circles, prefix="/{user_id}")
    app.include_router(users, prefix="/api")
    app.mount("/sub", Starlette(routes=[Route("/x/{id}", page)]))
    return app


PATHS = {
    "/api/users/42": "/api/users/{user_id}",
    "/api/users/42/circles/7/posts": "/api/users/{user_id}/circles/{circle_id}/posts",
    "/sub/x/1": "/sub/x/{id}",
    "/openapi.json": "/openapi.json",
    "/nowhere": UNMATCHED,
}


@pytest.mark.parametrize("after_only", [False, True])
async def test_included_routers_are_resolved_before_and_after_routing(after_only: bool) -> None:
    seen: list[tuple[str, str]] = []
    app = fastapi_app()
    app.add_middleware(Recorder, seen=seen, after_only=after_only)
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")
    for path, expected in PATHS.items():
        await client.get(path)
        before, after = seen.pop()
        assert after == expected
        assert before == ("" if after_only else expected)


def test_a_websocket_in_an_included_router_has_its_whole_template() -> None:
    table = RouteTable(fastapi_app().routes)
    found = table.resolve(scope_of("/api/users/1/circles/2/talk", kind="websocket"))
    assert found.template == "/api/users/{user_id}/circles/{circle_id}/talk"


def test_a_route_added_to_an_included_router_is_noticed() -> None:
    app = FastAPI()
    router = APIRouter()
    app.include_router(router, prefix="/api")
    table = RouteTable(app.routes)
    assert table.resolve(scope_of("/api/late")) is NO_ROUTE

    @router.get("/late")
    async def late() -> str:
        return "late"

    assert table.resolve(scope_of("/api/late")).template == "/api/late"


def test_without_an_app_in_the_scope_there_is_no_route() -> None:
    assert resolve_route(scope_of("/x")) is NO_ROUTE
