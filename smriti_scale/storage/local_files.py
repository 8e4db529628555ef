"""Serves the signed addresses of a `LocalStore`: downloads, and uploads straight from a client.

What users uploaded is never allowed to act as a page of this site: only pictures, films, sound, PDF and plain text
are shown, everything else is a download, and all of it in a sandbox and under the type it was judged to be.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from smriti_scale.errors import (
    InvalidObjectName,
    ObjectExists,
    ObjectNotFound,
    ObjectTooLarge,
    UnacceptableContent,
)
from smriti_scale.storage.headers import disposition
from smriti_scale.storage.local import LocalStore

_SHOWN = ("image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "application/pdf", "text/plain")
_SHOWN_FAMILIES = ("video/", "audio/")


class LocalStoreFiles:
    """An ASGI app to mount at the store's `base_url`: `app.mount("/files", LocalStoreFiles(store))`.

    Args:
        store: a `LocalStore` with a secret.
    """

    def __init__(self, store: LocalStore) -> None:
        self._store = store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        request = Request(scope, receive)
        mounted: str = scope.get("root_path", "")
        key = scope["path"].removeprefix(mounted).lstrip("/")
        query = dict(request.query_params)
        method = "GET" if request.method == "HEAD" else request.method
        if method not in ("GET", "PUT"):
            response: Response = PlainTextResponse("method not allowed", 405, {"Allow": "GET, HEAD, PUT"})
        elif not self._store.verified(method, key, query):
            response = PlainTextResponse("the address is not valid, or not any more", 403)
        else:
            try:
                response = await (self._upload(request, key, query) if method == "PUT" else self._file(key, query))
            except (ObjectNotFound, InvalidObjectName):
                response = PlainTextResponse("not found", 404)
        await response(scope, receive, send)

    async def _file(self, key: str, query: dict[str, str]) -> Response:
        found = await self._store.stat(key)
        name = query.get("name")
        shown = found.content_type in _SHOWN or found.content_type.startswith(_SHOWN_FAMILIES)
        content_type = found.content_type
        headers = {
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
            "Cross-Origin-Resource-Policy": "cross-origin",
            "Cache-Control": "private, max-age=3600, immutable",
        }
        if found.checksum:
            headers["ETag"] = f'"{found.checksum}"'
        if name is not None or not shown:
            headers["Content-Disposition"] = disposition(name or key)
        if not shown:
            content_type = "application/octet-stream"
        elif content_type == "text/plain":
            content_type = "text/plain; charset=utf-8"
        return FileResponse(self._store.path_of(key), headers=headers, media_type=content_type)

    async def _upload(self, request: Request, key: str, query: dict[str, str]) -> Response:
        max_size = int(query["max"])
        declared = Headers(scope=request.scope).get("content-length", "0")
        if declared.isdecimal() and int(declared) > max_size:
            return PlainTextResponse("too large", 413)
        try:
            await self._store.put(key, request.stream(), content_types=(query["type"],), max_size=max_size)
        except ObjectTooLarge:
            return PlainTextResponse("too large", 413)
        except UnacceptableContent as error:
            return PlainTextResponse(str(error), 415)
        except ObjectExists:
            return PlainTextResponse("taken", 409)
        return Response(status_code=201)
