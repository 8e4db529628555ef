"""Pages over HTTP: parameters, answers, OpenAPI, links; FastAPI and plain Starlette."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any
from urllib.parse import parse_qs, urlsplit

import pytest
from fastapi import Depends, FastAPI
from httpx import ASGITransport, AsyncClient
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from smriti_scale.errors import ConfigurationError, InvalidCursor
from smriti_scale.pagination import CursorPaginator, Page, PageParams, invalid_cursor_response

from .walking import SECRET

NEWEST = [("number", -1), ("_id", -1)]
OldClients = PageParams.bounded(default_limit=5, max_limit=50, max_skip=1_000)


class Post(BaseModel):
    number: int
    title: str


@pytest.fixture
async def client(db: Any) -> AsyncIterator[AsyncClient]:
    await db.posts.insert_many([{"number": n, "title": f"post {n}", "secret": "x"} for n in range(45)])
    await db.posts.create_index(NEWEST)
    paginator = CursorPaginator(NEWEST, SECRET)
    app = FastAPI()
    app.add_exception_handler(InvalidCursor, invalid_cursor_response)

    @app.get("/posts")
    async def posts(params: Annotated[PageParams, Depends()], request: Request, response: Response) -> Page[Post]:
        page = await paginator.paginate(db.posts, limit=params.limit, cursor=params.cursor)
        if link := page.link_header(request.url):
            response.headers["Link"] = link
        return page.map(Post.model_validate)

    @app.get("/raw", response_model=Page[Post])
    async def raw(params: Annotated[PageParams, Depends()]) -> Page[dict[str, Any]]:
        return await paginator.paginate(db.posts, limit=params.limit, cursor=params.cursor)

    @app.get("/old")
    async def old(params: Annotated[PageParams, Depends(OldClients)]) -> Page[Post]:
        page = await paginator.paginate(db.posts, limit=params.limit, cursor=params.cursor, skip=params.skip)
        return page.map(Post.model_validate)

    async with AsyncClient(transport=ASGITransport(app=app), base_url="http://test") as client:
        yield client


async def test_a_client_that_follows_next_sees_every_row_once(client: AsyncClient) -> None:
    seen: list[int] = []
    url = "/posts?limit=10"
    while url:
        response = await client.get(url)
        assert response.status_code == 200
        seen += [item["number"] for item in response.json()["items"]]
        links = {rel: target for target, rel in _links(response.headers.get("link", ""))}
        url = links.get("next", "")
        assert bool(url) == response.json()["has_next"]
    assert seen == list(range(44, -1, -1))


async def test_an_answer_holds_the_page_and_only_the_models_fields(client: AsyncClient) -> None:
    for path in ("/posts", "/raw"):
        answer = (await client.get(path, params={"limit": "2"})).json()
        assert answer["items"] == [{"number": 44, "title": "post 44"}, {"number": 43, "title": "post 43"}]
        assert set(answer) == {
            "items", "next_cursor", "previous_cursor", "has_next", "has_previous", "total", "total_is_exact",
        }  # fmt: skip


@pytest.mark.parametrize("limit", ["0", "-1", "101", "1e1", "ten", "", "1.0", "٣", "9" * 5000, " 5"])
async def test_a_bad_limit_is_400(client: AsyncClient, limit: str) -> None:
    response = await client.get("/posts", params={"limit": limit})
    assert (response.status_code, response.json()) == (400, {"detail": "limit must be a whole number from 1 to 100"})


@pytest.mark.parametrize("cursor", ["", "x", "A" * 9000, "%00", "🐘"])
async def test_a_bad_cursor_is_400_with_one_text_and_never_the_first_page(client: AsyncClient, cursor: str) -> None:
    response = await client.get("/posts", params={"cursor": cursor})
    assert (response.status_code, response.json()) == (400, {"detail": "invalid cursor"})


async def test_clients_that_skip_get_the_same_list_and_a_cursor_to_go_on_with(client: AsyncClient) -> None:
    third = (await client.get("/old", params={"skip": "10"})).json()
    assert [item["number"] for item in third["items"]] == [34, 33, 32, 31, 30]
    assert third["has_previous"] is True
    fourth = (await client.get("/old", params={"cursor": third["next_cursor"]})).json()
    assert [item["number"] for item in fourth["items"]] == [29, 28, 27, 26, 25]
    back = (await client.get("/old", params={"cursor": third["previous_cursor"]})).json()
    assert [item["number"] for item in back["items"]] == [39, 38, 37, 36, 35]
    beyond = (await client.get("/old", params={"skip": "500"})).json()
    assert (beyond["items"], beyond["next_cursor"], beyond["previous_cursor"]) == ([], None, None)


async def test_skip_out_of_bounds_or_beside_a_cursor_is_400(client: AsyncClient) -> None:
    for skip in ("-1", "1001", "x"):
        assert (await client.get("/old", params={"skip": skip})).status_code == 400
    cursor = (await client.get("/old")).json()["next_cursor"]
    assert (await client.get("/old", params={"skip": "1", "cursor": cursor})).status_code == 400
    assert (await client.get("/old", params={"skip": "0", "cursor": cursor})).status_code == 200


async def test_openapi_describes_the_page_and_the_parameters(client: AsyncClient) -> None:
    schema = (await client.get("/openapi.json")).json()
    for path, bounds in {"/posts": (100, 20), "/old": (50, 5)}.items():
        operation = schema["paths"][path]["get"]
        parameters = {each["name"]: each for each in operation["parameters"]}
        limit = parameters["limit"]["schema"]
        assert (limit["type"], limit["minimum"], limit["maximum"], limit["default"]) == ("integer", 1, *bounds)
        assert parameters["cursor"]["schema"]["type"] == "string"
        assert not any(each["required"] for each in parameters.values())
        assert ("skip" in parameters) == (path == "/old")
        answer = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
        assert answer == "#/components/schemas/Page_Post_"
    page = schema["components"]["schemas"]["Page_Post_"]
    assert page["properties"]["items"]["items"] == {"$ref": "#/components/schemas/Post"}
    assert page["properties"]["next_cursor"]["anyOf"] == [{"type": "string"}, {"type": "null"}]


async def test_plain_starlette_reads_parameters_from_the_request() -> None:
    async def show(request: Request) -> Response:
        params = PageParams.from_request(request)
        return JSONResponse([params.limit, params.cursor, params.skip])

    async with AsyncClient(transport=ASGITransport(app=Starlette(routes=[Route("/", show)])), base_url="http://t") as c:
        assert (await c.get("/?limit=7&cursor=abc&skip=9&other=1")).json() == [7, "abc", 0]
        assert (await c.get("/")).json() == [20, None, 0]
        assert (await c.get("/?limit=0")).status_code == 400


def test_bounds_that_make_no_sense_are_refused() -> None:
    for bounds in ({"default_limit": 0}, {"default_limit": 200}, {"max_skip": -1}):
        with pytest.raises(ConfigurationError):
            PageParams.bounded(**bounds)
    with pytest.raises(HTTPException):
        OldClients.from_query({"limit": "51"})


def test_links_keep_the_other_parameters_and_name_no_host() -> None:
    page: Page[int] = Page(items=[1], next_cursor="n-_", previous_cursor="p", has_next=True, has_previous=True)
    header = page.link_header("https://evil.test/api/posts?limit=5&cursor=old&skip=3&tag=a&tag=b%26c&empty=")
    links = {rel: target for target, rel in _links(header)}
    assert list(links) == ["first", "prev", "next"]
    for rel, cursor in {"first": None, "prev": "p", "next": "n-_"}.items():
        parts = urlsplit(links[rel])
        assert (parts.netloc, parts.path) == ("", "/api/posts")
        expected = {"limit": ["5"], "tag": ["a", "b&c"], "empty": [""]} | ({"cursor": [cursor]} if cursor else {})
        assert parse_qs(parts.query, keep_blank_values=True) == expected


@pytest.mark.parametrize(
    "url", ["http://a//evil.test/x", 'http://a/x>; rel="next", <http://evil.test', "http://a/\r\nX: y", "//"]
)
def test_a_hostile_path_cannot_break_out_of_the_link(url: str) -> None:
    header = Page[int](items=[], next_cursor="n", has_next=True).link_header(url)
    links = list(_links(header))
    assert [rel for _, rel in links] == ["first", "next"]
    assert all(target.startswith("/") and not target.startswith("//") for target, _ in links)
    assert not set(header) & set("\r\n")


def test_a_list_of_one_page_has_no_links() -> None:
    assert Page[int](items=[1]).link_header("http://a/x") == ""


def test_items_are_replaced_and_everything_else_stays() -> None:
    page: Page[int] = Page(items=[1, 2], next_cursor="n", has_next=True, total=9, total_is_exact=False)
    mapped = page.map(str)
    assert mapped.items == ["1", "2"]
    assert mapped.model_dump(exclude={"items"}) == page.model_dump(exclude={"items"})


def _links(header: str) -> list[tuple[str, str]]:
    """Target and relation of each link, read as RFC 8288 has it: angle brackets end a target, nothing else does."""
    found: list[tuple[str, str]] = []
    while header:
        target, header = header.removeprefix("<").split(">", 1)
        relation, _, header = header.removeprefix('; rel="').partition('"')
        header = header.removeprefix(", ")
        found.append((target, relation))
    return found
