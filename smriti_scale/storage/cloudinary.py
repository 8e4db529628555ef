"""Cloudinary: signed uploads, delivery through its CDN, pictures transformed on the way.

Cloudinary names an asset by kind (`image`, `video`, `raw`) and public id. Here the key's extension decides: pictures
and films go under their key without it, everything else (documents too) as `raw` under the whole key.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, urlencode

from smriti_scale.clock import SYSTEM_CLOCK, Clock
from smriti_scale.errors import ChecksumMismatch, ConfigurationError, ObjectExists, ObjectNotFound, StorageError
from smriti_scale.events import Events, ObjectStored
from smriti_scale.storage.base import (
    CHUNK,
    DEFAULT_MAX_SIZE,
    CheckedStream,
    DirectUpload,
    Source,
    StoredObject,
    check_key,
)
from smriti_scale.storage.transfer import Call, Transfer, make_client

if TYPE_CHECKING:
    import httpx

PIECE_SIZE = 8 * 1024 * 1024
_SIGNATURE_LIFETIME = 3600
_IMAGES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".gif": "image/gif", ".webp": "image/webp"}
_VIDEOS = {".mp4": "video/mp4", ".webm": "video/webm", ".mov": "video/quicktime"}
_UNSIGNED = frozenset({"file", "api_key", "resource_type", "cloud_name", "signature"})


class CloudinaryStore:
    """Keeps objects in a Cloudinary cloud.

    Args:
        cloud_name: the cloud's name.
        api_key: its API key.
        api_secret: its secret.
        access: `public` delivers to anyone who knows the address (keys of `new_key` cannot be guessed);
            `authenticated` only through signed addresses.
        algorithm: of signatures, as the account is set.
        api_url: the API, for tests and for other regions (`https://api-eu.cloudinary.com`).
        delivery_url: the CDN, or a host name of one's own.
        timeout: seconds for one request to make progress.
        client: an httpx client of yours, which stays yours to close.
        clock: the source of time.
        events: receives `ObjectStored` and `StorageFailed`.

    Raises:
        ConfigurationError: name, key or secret is missing.
        MissingExtraError: httpx is not installed.
    """

    def __init__(
        self,
        cloud_name: str,
        *,
        api_key: str,
        api_secret: str,
        access: Literal["public", "authenticated"] = "public",
        algorithm: Literal["sha1", "sha256"] = "sha1",
        api_url: str = "https://api.cloudinary.com",
        delivery_url: str = "https://res.cloudinary.com",
        timeout: float = 30.0,
        client: httpx.AsyncClient | None = None,
        clock: Clock = SYSTEM_CLOCK,
        events: Events | None = None,
    ) -> None:
        if not (cloud_name and api_key and api_secret):
            raise ConfigurationError("CloudinaryStore needs cloud_name, api_key and api_secret")
        self._cloud, self._key, self._secret = cloud_name, api_key, api_secret
        self._type = "upload" if access == "public" else "authenticated"
        self._algorithm = algorithm
        self._api = f"{api_url.rstrip('/')}/v1_1/{quote(cloud_name)}"
        self._delivery = f"{delivery_url.rstrip('/')}/{quote(cloud_name)}"
        self._owns_client = client is None
        self._transfer = Transfer(
            "cloudinary", client or make_client("cloudinary", timeout), clock=clock, events=events
        )
        self._clock = clock
        self._events = events

    async def put(
        self,
        key: str,
        source: Source,
        *,
        content_types: tuple[str, ...] | None = None,
        max_size: int = DEFAULT_MAX_SIZE,
    ) -> StoredObject:
        """Store the bytes of `source`; see `ObjectStore.put`. Above 8 MB they go up in pieces."""
        kind, public_id = locate(key)
        began = self._clock.monotonic()
        stream = CheckedStream(source, max_size=max_size, content_types=content_types, chunk=PIECE_SIZE)
        pieces = aiter(stream)
        piece, following = await anext(pieces, b""), b""
        digest = hashlib.md5(usedforsecurity=False)
        upload_id, start = secrets.token_hex(16), 0
        answer: Mapping[str, Any] = {}
        while True:
            following = await anext(pieces, b"")
            digest.update(piece)
            headers = {}
            if start or following:
                total = "-1" if following else str(start + len(piece))
                headers = {
                    "X-Unique-Upload-Id": upload_id,
                    "Content-Range": f"bytes {start}-{start + len(piece) - 1}/{total}",
                }
            answer, attempt = await self._upload(kind, public_id, piece, headers)
            if not following:
                break
            start, piece = start + len(piece), following
        # After a try whose answer was lost, what is there may be our own.
        ours = attempt > 1 and answer.get("etag") == digest.hexdigest()
        if answer.get("existing") and not ours:
            raise ObjectExists(f"{key!r} is taken; stores do not overwrite")
        if answer.get("bytes") not in (None, stream.size) or answer.get("etag", "") not in ("", digest.hexdigest()):
            await self.delete(key)
            raise ChecksumMismatch(f"{key!r} arrived at Cloudinary as something else; it has been removed there")
        if self._events:
            self._events.emit(ObjectStored("cloudinary", stream.size, self._clock.monotonic() - began))
        return StoredObject(
            key=key,
            size=stream.size,
            content_type=stream.content_type,
            checksum=stream.checksum,
            modified_at=_moment(answer.get("created_at")),
        )

    async def get(self, key: str) -> AsyncIterator[bytes]:
        """The bytes as they were uploaded, piece by piece; see `ObjectStore.get`."""
        url = self.delivery_url(key)

        def call(offset: int) -> Call:
            return Call("GET", lambda: url, {"Range": f"bytes={offset}-"} if offset else {})

        def check(response: httpx.Response) -> None:
            if response.status_code >= 300:
                raise self._refused(response, key, "get")

        async for piece in self._transfer.stream(call, operation="get", check=check, chunk=CHUNK):
            yield piece

    async def stat(self, key: str) -> StoredObject:
        """What is known about an object; see `ObjectStore.stat`. Counts against the Admin API's hourly limit."""
        kind, public_id = locate(key)
        url = f"{self._api}/resources/{kind}/{self._type}/{quote(public_id, safe='')}"
        response, _ = await self._transfer.send(
            Call("GET", lambda: url, auth=(self._key, self._secret)), operation="stat"
        )
        if response.status_code != 200:
            raise self._refused(response, key, "stat")
        found = response.json()
        return StoredObject(
            key=key,
            size=int(found["bytes"]),
            content_type=_content_type(key),
            modified_at=_moment(found.get("created_at")),
        )

    async def delete(self, key: str) -> bool:
        """Remove an object, from the CDN's caches too; see `ObjectStore.delete`."""
        kind, public_id = locate(key)
        fields = {"public_id": public_id, "type": self._type, "invalidate": "true"}
        url = f"{self._api}/{kind}/destroy"
        response, _ = await self._transfer.send(Call("POST", lambda: url, data=self.signed(fields)), operation="delete")
        if response.status_code != 200:
            raise self._refused(response, key, "delete")
        return bool(response.json().get("result") == "ok")

    async def url(self, key: str, *, expires_in: int = 3600, download_name: str | None = None) -> str:
        """An address through the CDN, or, with `authenticated` access, one of the API's that expires.

        Public addresses do not expire.
        """
        if self._type == "upload":
            return self.delivery_url(key, transformation=_attachment(download_name))
        kind, public_id = locate(key)
        fields = {
            "public_id": public_id,
            "type": self._type,
            "expires_at": str(int(self._clock.time()) + expires_in),
        }
        if kind != "raw":
            fields["format"] = PurePosixPath(key).suffix.lstrip(".")
        if download_name is not None:
            fields["attachment"] = "true"
        return f"{self._api}/{kind}/download?{urlencode(self.signed(fields))}"

    def delivery_url(self, key: str, *, transformation: str = "") -> str:
        """The CDN's address, signed where access is `authenticated`.

        Args:
            key: the object.
            transformation: in Cloudinary's notation, such as `c_fill,w_400,q_auto,f_auto`; pictures and films only.

        Raises:
            ConfigurationError: a transformation of something that is neither, or one with characters that end it.
        """
        kind, public_id = locate(key)
        if transformation and kind == "raw" and not transformation.startswith("fl_attachment"):
            raise ConfigurationError(f"{key!r} is no picture or film; Cloudinary transforms those only")
        if any(sign in transformation for sign in "?#\\ "):
            raise ConfigurationError(f"{transformation!r} is no transformation")
        path = public_id if kind == "raw" else key
        signed_part = f"{transformation}/{path}" if transformation else path
        parts = [self._delivery, kind, self._type]
        if self._type == "authenticated":
            digest = self._hash(f"{signed_part}{self._secret}").digest()
            length = 8 if self._algorithm == "sha1" else 32
            parts.append(f"s--{base64.urlsafe_b64encode(digest).decode()[:length]}--")
        return "/".join([*parts, quote(signed_part, safe="/,:=$!")])

    async def presign_upload(
        self, key: str, *, content_type: str, max_size: int, expires_in: int = 600
    ) -> DirectUpload:
        """A signed form. Cloudinary holds it to the key alone: check type and size with `verify_upload` afterwards."""
        kind, public_id = locate(key)
        expires_in = min(expires_in, _SIGNATURE_LIFETIME)
        # A signature holds for an hour after its timestamp: one from the past holds for less.
        timestamp = int(self._clock.time()) - _SIGNATURE_LIFETIME + expires_in
        fields = self.signed({"public_id": public_id, "type": self._type, "overwrite": "false"}, timestamp=timestamp)
        return DirectUpload(
            method="POST", url=f"{self._api}/{kind}/upload", key=key, expires_in=expires_in, fields=fields
        )

    async def aclose(self) -> None:
        """Close connections, unless the client was given."""
        if self._owns_client:
            await self._transfer.aclose()

    def signed(self, fields: Mapping[str, str], *, timestamp: int | None = None) -> dict[str, str]:
        """The fields with timestamp, key and signature: the sorted `k=v&…` and the secret, hashed."""
        complete = {**fields, "timestamp": str(int(self._clock.time()) if timestamp is None else timestamp)}
        text = "&".join(f"{name}={complete[name]}" for name in sorted(complete) if name not in _UNSIGNED)
        signature = self._hash(f"{text}{self._secret}").hexdigest()
        return {**complete, "api_key": self._key, "signature": signature}

    def _hash(self, text: str) -> Any:
        return hashlib.new(self._algorithm, text.encode(), usedforsecurity=False)

    async def _upload(
        self, kind: str, public_id: str, piece: bytes, headers: Mapping[str, str]
    ) -> tuple[Mapping[str, Any], int]:
        """The answer to one piece, and at which try it came."""
        fields = {"public_id": public_id, "type": self._type, "overwrite": "false"}
        url = f"{self._api}/{kind}/upload"
        # Cloudinary takes a piece twice (same upload id, same range) without harm, and a whole file with
        # `overwrite=false` too, so that both may be sent again.
        call = Call(
            "POST",
            lambda: url,
            headers,
            data=self.signed(fields),
            files={"file": ("file", piece, "application/octet-stream")},
        )
        response, attempt = await self._transfer.send(call, operation="put")
        if response.status_code != 200:
            raise self._refused(response, public_id, "put")
        return response.json(), attempt

    def _refused(self, response: httpx.Response, key: str, operation: str) -> StorageError:
        if response.status_code == 404:
            return ObjectNotFound(f"there is no object {key!r}")
        reason = response.headers.get("x-cld-error", "") or f"status {response.status_code}"
        advice = "; check api_key and api_secret" if response.status_code == 401 else ""
        return StorageError(f"Cloudinary refused to {operation} {key!r}: {reason[:200]}{advice}")


def locate(key: str) -> tuple[str, str]:
    """Kind and public id of a key.

    Raises:
        InvalidObjectName: the key is not of the allowed form.
    """
    suffix = PurePosixPath(check_key(key)).suffix.lower()
    if suffix in _IMAGES:
        return "image", key[: -len(suffix)]
    if suffix in _VIDEOS:
        return "video", key[: -len(suffix)]
    return "raw", key


def _content_type(key: str) -> str:
    import mimetypes

    suffix = PurePosixPath(key).suffix.lower()
    known = _IMAGES.get(suffix) or _VIDEOS.get(suffix) or mimetypes.guess_type(key)[0]
    return known or "application/octet-stream"


def _attachment(name: str | None) -> str:
    if name is None:
        return ""
    plain = "".join(sign for sign in PurePosixPath(name).stem if sign.isascii() and (sign.isalnum() or sign in "-_"))
    return f"fl_attachment:{plain}" if plain else "fl_attachment"


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
