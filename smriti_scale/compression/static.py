"""Static files over HTTP: precompressed variants sent as they are, hashed names kept by browsers for good."""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from mimetypes import guess_type
from pathlib import Path
from urllib.parse import quote

import anyio.to_thread
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response
from starlette.staticfiles import NotModifiedResponse, StaticFiles
from starlette.types import Scope

from smriti_scale.compression.assets import MANIFEST, SUFFIXES, read_manifest
from smriti_scale.compression.negotiate import choose
from smriti_scale.errors import ConfigurationError, ScaleError

IMMUTABLE = "public, max-age=31536000, immutable"
REVALIDATE = "public, no-cache"

_ENCODED_MEDIA = {"gzip": "application/gzip", "br": "application/x-brotli", "zstd": "application/zstd"}


class UnknownAsset(ScaleError, KeyError):
    """No static file has this name; the message suggests the nearest."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(slots=True)
class _File:
    """A file and its variants, ready to be sent."""

    path: str
    status: os.stat_result
    variants: dict[str, tuple[str, os.stat_result]] = field(default_factory=dict)
    digest: str = ""
    immutable: bool = False


class StaticAssets(StaticFiles):
    """Serves a folder of static files, best one that `build_assets` made.

    Hashed names are sent as `immutable`, others with `no-cache`, so that they are revalidated by their entity tag. A
    `.br`, `.zst` or `.gz` beside a file is sent to clients that take it, at no cost of coding; one older than its
    file is ignored. Byte ranges, `If-None-Match`, `If-Range` and HEAD work on what is sent, coded or not.

    ```python
    assets = StaticAssets("dist", url_path="/static", cdn="https://cdn.example.com")
    app.mount("/static", assets, name="static")
    templates.env.globals["asset"] = assets.url       # {{ asset("css/app.css") }}
    ```

    Args:
        directory: the folder.
        url_path: the path at which it is mounted.
        cdn: the address of a CDN in front of the application, for `url`; None to name the path alone.

    Raises:
        ConfigurationError: the folder does not exist, or its manifest is broken or names absent files.
    """

    def __init__(self, directory: str | Path, *, url_path: str = "/static", cdn: str | None = None) -> None:
        if not Path(directory).is_dir():
            raise ConfigurationError(f"{directory} is no folder; build the static files first")
        if cdn is not None and not cdn.startswith(("https://", "http://", "//")):
            raise ConfigurationError(f"cdn={cdn!r} must be an address, such as https://cdn.example.com")
        super().__init__(directory=directory)
        self._folder = Path(directory).resolve()
        self._base = (cdn or "").rstrip("/") + "/" + url_path.strip("/")
        self._manifest = read_manifest(directory)
        self._immutable = {
            asset.path: self._built(asset.path, asset.digest, asset.encodings) for asset in self._manifest.values()
        }

    def url(self, name: str) -> str:
        """The address of a file by its original name: hashed, with the CDN in front, percent-encoded.

        Raises:
            UnknownAsset: there is no such file.
        """
        asset = self._manifest.get(name)
        if asset is not None:
            return f"{self._base}/{quote(asset.path)}"
        if not self._manifest and self._find(name) is not None:
            return f"{self._base}/{quote(name)}"
        raise self._unknown(name)

    def integrity(self, name: str) -> str:
        """What a `<script>` or `<link>` states as `integrity` (SHA-384).

        Raises:
            UnknownAsset: there is no such file in the manifest.
        """
        if name not in self._manifest:
            raise self._unknown(name)
        return self._manifest[name].integrity

    def _unknown(self, name: str) -> UnknownAsset:
        near = difflib.get_close_matches(name, self._manifest, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return UnknownAsset(f"no static file {name!r} in {self._folder}{hint}")

    def _built(self, path: str, digest: str, encodings: Mapping[str, int]) -> _File:
        full = self._folder / path
        try:
            variants = {}
            for coding, suffix in SUFFIXES.items():
                if coding in encodings:
                    variant = f"{full}{suffix}"
                    variants[coding] = (variant, Path(variant).stat())
            return _File(str(full), full.stat(), variants, digest, immutable=True)
        except FileNotFoundError as error:
            raise ConfigurationError(
                f"{error.filename} is in the manifest but not in the folder; build the assets again"
            ) from error

    async def get_response(self, path: str, scope: Scope) -> Response:
        """The file, a part of it, a 304, or an `HTTPException` of 404 or 405."""
        if scope["method"] not in ("GET", "HEAD"):
            raise HTTPException(status_code=405, headers={"Allow": "GET, HEAD"})
        file = self._immutable.get(path.replace(os.sep, "/"))
        if file is None:
            try:
                file = await anyio.to_thread.run_sync(self._find, path)
            except (OSError, ValueError):
                file = None  # a name too long, not permitted, or with a zero byte
        if file is None:
            raise HTTPException(status_code=404)
        return self._respond(file, Headers(scope=scope))

    def _find(self, path: str) -> _File | None:
        if any(part.startswith(".") for part in Path(path).parts):
            return None  # .env, .git, and files half written
        full, status = self.lookup_path(path)
        if status is None or not stat.S_ISREG(status.st_mode) or full == str(self._folder / MANIFEST):
            return None
        file = _File(full, status)
        for coding, suffix in SUFFIXES.items():
            try:
                variant = Path(full + suffix).stat()
            except OSError:
                continue
            if stat.S_ISREG(variant.st_mode) and variant.st_mtime_ns >= status.st_mtime_ns:
                file.variants[coding] = (full + suffix, variant)
        return file

    def _respond(self, file: _File, request: Headers) -> Response:
        accept = ",".join(request.getlist("accept-encoding")) if file.variants else None
        coding = choose(accept, tuple(file.variants)).coding
        path, status = file.variants[coding] if coding else (file.path, file.status)
        tag = file.digest or f"{file.status.st_mtime_ns:x}-{file.status.st_size:x}"
        headers = {
            "Cache-Control": IMMUTABLE if file.immutable else REVALIDATE,
            # Not with `~`, which CompressionMiddleware would take for its own mark.
            "ETag": f'"{tag}-{coding}"' if coding else f'"{tag}"',
        }
        if file.variants:
            headers["Vary"] = "Accept-Encoding"
        if coding:
            headers["Content-Encoding"] = coding
        media_type, encoded = guess_type(file.path)
        if encoded:
            # A download that is an archive by itself: its bytes, not what is in it.
            media_type = _ENCODED_MEDIA.get(encoded, "application/octet-stream")
        response = FileResponse(
            path, headers=headers, media_type=media_type or "application/octet-stream", stat_result=status
        )
        return NotModifiedResponse(response.headers) if self.is_not_modified(response.headers, request) else response
