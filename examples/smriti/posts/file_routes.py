"""`/files/…`: what posts link to, whatever store the files are in."""

import re

from fastapi import APIRouter
from starlette.responses import RedirectResponse, Response, StreamingResponse

from examples.smriti.answers import ApiError
from examples.smriti.posts.uploads import MEDIA_TYPES, Files
from smriti_scale.errors import InvalidObjectName, ObjectNotFound
from smriti_scale.storage import LocalStore

_KEY = re.compile(r"smriti/documents/[0-9a-f]{32}\.([a-z]{3,4})")
_SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cache-Control": "private, max-age=31536000, immutable",
}


def file_routes(files: Files) -> APIRouter:
    """The router. A file's key cannot be guessed: whoever was shown the post may read the file."""
    router = APIRouter(include_in_schema=False)

    @router.get("/files/{key:path}")
    async def file(key: str) -> Response:
        known = _KEY.fullmatch(key)
        if known is None or files.store is None or known[1] not in MEDIA_TYPES:
            raise ApiError(404, "There is no such file")
        if not isinstance(files.store, LocalStore):
            return RedirectResponse(await files.store.url(key, expires_in=3600), 302)
        try:
            size = (await files.store.stat(key)).size
        except (ObjectNotFound, InvalidObjectName) as missing:
            raise ApiError(404, "There is no such file") from missing
        headers = {**_SAFE, "Content-Length": str(size)}
        return StreamingResponse(files.store.get(key), headers=headers, media_type=MEDIA_TYPES[known[1]])

    return router
