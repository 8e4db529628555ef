"""The built-in web client: three files, no build step."""

from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from examples.smriti.answers import ApiError, answer

_FOLDER = Path(__file__).parent / "web"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
}
_FILES = {path.name: path.read_bytes() for path in _FOLDER.iterdir() if path.suffix in _TYPES}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: https:; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def web_routes(version: str) -> APIRouter:
    """`/` is the client for who asks for HTML, and the service's card for who does not."""
    router = APIRouter()

    @router.get("/", tags=["system"])
    async def root(request: Request) -> Response:
        if "text/html" in request.headers.get("accept", ""):
            page = _file("index.html")
            page.headers["Vary"] = "Accept"
            return page
        card = {"message": "Smriti", "docs": "/docs", "version": version}
        return answer(card, headers={"Vary": "Accept"})

    @router.get("/web/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        return _file(name)

    return router


def _file(name: str) -> Response:
    if name not in _FILES:
        raise ApiError(404, "There is no such page")
    return Response(_FILES[name], media_type=_TYPES[Path(name).suffix], headers=_HEADERS)
