"""Files on a disk: for one machine, for development, and for tests.

An object appears whole or not at all: it is written aside, flushed to the disk, and linked into place, which fails
when the name is taken. Beside each object lies a small record with its type and checksum.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import os
import secrets
import stat as file_stat
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import orjson

from smriti_scale.clock import SYSTEM_CLOCK, Clock
from smriti_scale.errors import ChecksumMismatch, ConfigurationError, ObjectExists, ObjectNotFound
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

# `~` is in no key, so that the object `a` and the folder of `a/b` never meet.
_OBJECT, _RECORD = "~", "~.json"
_MIN_SECRET = 16


class LocalStore:
    """Keeps objects under a folder.

    Args:
        root: the folder; made if it is missing.
        secret: signs addresses; needed by `url` and `presign_upload`. At least 16 bytes, the same in every process.
        base_url: where `LocalStoreFiles` is mounted.
        clock: the source of time.
        events: receives `ObjectStored`.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        secret: bytes | None = None,
        base_url: str = "/files",
        clock: Clock = SYSTEM_CLOCK,
        events: Events | None = None,
    ) -> None:
        if secret is not None and len(secret) < _MIN_SECRET:
            raise ConfigurationError(f"secret has {len(secret)} bytes; signed addresses need at least {_MIN_SECRET}")
        self.root = Path(root).resolve()
        self._secret = secret
        self._base_url = base_url.rstrip("/")
        self._clock = clock
        self._events = events
        self._aside = self.root / ".incoming"
        self._aside.mkdir(parents=True, exist_ok=True)

    async def put(
        self,
        key: str,
        source: Source,
        *,
        content_types: tuple[str, ...] | None = None,
        max_size: int = DEFAULT_MAX_SIZE,
    ) -> StoredObject:
        """Store the bytes of `source`; see `ObjectStore.put`."""
        target = self.path_of(key)
        began = self._clock.monotonic()
        aside = self._aside / secrets.token_hex(16)
        stream = CheckedStream(source, max_size=max_size, content_types=content_types)
        if await asyncio.to_thread(target.exists):
            raise ObjectExists(f"{key!r} is taken; stores do not overwrite")
        try:
            file = await asyncio.to_thread(open, aside, "xb")
            try:
                async for piece in stream:
                    await asyncio.to_thread(file.write, piece)
                await asyncio.to_thread(_flush, file)
            finally:
                await asyncio.to_thread(file.close)
            found = StoredObject(
                key=key,
                size=stream.size,
                content_type=stream.content_type,
                checksum=stream.checksum,
                modified_at=datetime.fromtimestamp(self._clock.time(), UTC),
            )
            await asyncio.to_thread(self._install, aside, target, found)
        finally:
            with contextlib.suppress(FileNotFoundError):
                aside.unlink()
        if self._events:
            self._events.emit(ObjectStored("local", found.size, self._clock.monotonic() - began))
        return found

    async def get(self, key: str) -> AsyncIterator[bytes]:
        """The bytes, piece by piece; see `ObjectStore.get`."""
        found = await self.stat(key)
        sha256 = hashlib.sha256()
        descriptor = await asyncio.to_thread(_open, self.path_of(key), key)
        try:
            while piece := await asyncio.to_thread(os.read, descriptor, CHUNK):
                sha256.update(piece)
                yield piece
        finally:
            os.close(descriptor)
        if found.checksum is not None and sha256.hexdigest() != found.checksum:
            raise ChecksumMismatch(f"{key!r} on the disk is not what was stored: it was changed or is damaged")

    async def stat(self, key: str) -> StoredObject:
        """What is known about an object; see `ObjectStore.stat`."""
        return await asyncio.to_thread(self._stat, key)

    async def delete(self, key: str) -> bool:
        """Remove an object; see `ObjectStore.delete`."""
        return await asyncio.to_thread(self._delete, key)

    async def url(self, key: str, *, expires_in: int = 3600, download_name: str | None = None) -> str:
        """A signed address under `base_url`; see `ObjectStore.url`."""
        check_key(key)
        query = {"expires": str(int(self._clock.time()) + expires_in)}
        if download_name is not None:
            query["name"] = download_name
        query["signature"] = self.sign("GET", key, query)
        return f"{self._base_url}/{quote(key)}?{urlencode(query)}"

    async def presign_upload(
        self, key: str, *, content_type: str, max_size: int, expires_in: int = 600
    ) -> DirectUpload:
        """A signed address that takes one PUT; see `ObjectStore.presign_upload`."""
        check_key(key)
        query = {
            "expires": str(int(self._clock.time()) + expires_in),
            "type": content_type,
            "max": str(max_size),
        }
        query["signature"] = self.sign("PUT", key, query)
        return DirectUpload(
            method="PUT",
            url=f"{self._base_url}/{quote(key)}?{urlencode(query)}",
            key=key,
            expires_in=expires_in,
            headers={"Content-Type": content_type},
        )

    async def aclose(self) -> None:
        """Nothing stays open."""

    def sign(self, method: str, key: str, query: dict[str, str]) -> str:
        """HMAC-SHA256 over method, key and the other parameters.

        Raises:
            ConfigurationError: the store has no secret.
        """
        if self._secret is None:
            raise ConfigurationError("LocalStore(…, secret=…) is needed to sign addresses")
        parts = [method, key, *(f"{name}={query[name]}" for name in sorted(query) if name != "signature")]
        return hmac.digest(self._secret, orjson.dumps(parts), hashlib.sha256).hex()

    def verified(self, method: str, key: str, query: dict[str, str]) -> bool:
        """Whether a request's signature is ours and holds still."""
        given = query.get("signature", "")
        if not given.isascii() or not hmac.compare_digest(given, self.sign(method, key, query)):
            return False
        expires = query.get("expires", "")
        return expires.isdecimal() and int(expires) >= self._clock.time()

    def path_of(self, key: str) -> Path:
        """The object's file. Its key cannot lead out of the root.

        Raises:
            InvalidObjectName: the key is not of the allowed form.
        """
        return self.root / f"{check_key(key)}{_OBJECT}"

    async def sweep(self, *, older_than: float = 86_400.0) -> int:
        """Remove what interrupted uploads left behind; returns how many files."""
        return await asyncio.to_thread(self._sweep, older_than)

    def _install(self, aside: Path, target: Path, found: StoredObject) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        record: dict[str, Any] = {
            "content_type": found.content_type,
            "checksum": found.checksum,
            "modified_at": found.modified_at,
        }
        described = self._aside / f"{aside.name}.json"
        described.write_bytes(orjson.dumps(record))
        try:
            os.link(aside, target)
        except FileExistsError:
            described.unlink()
            raise ObjectExists(f"{found.key!r} is taken; stores do not overwrite") from None
        described.replace(self._record_of(target))
        for folder in (target.parent, self._aside):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _stat(self, key: str) -> StoredObject:
        path = self.path_of(key)
        try:
            facts = path.lstat()
        except FileNotFoundError:
            raise ObjectNotFound(f"there is no object {key!r}") from None
        if not file_stat.S_ISREG(facts.st_mode):
            raise ObjectNotFound(f"there is no object {key!r}")
        modified_at = datetime.fromtimestamp(facts.st_mtime, UTC)
        try:
            record = orjson.loads(self._record_of(path).read_bytes())
        except (FileNotFoundError, orjson.JSONDecodeError):
            # A crash between the two steps of installing: the object is whole, its record is not there.
            return StoredObject(
                key=key, size=facts.st_size, content_type="application/octet-stream", modified_at=modified_at
            )
        return StoredObject(
            key=key,
            size=facts.st_size,
            content_type=record["content_type"],
            checksum=record["checksum"],
            modified_at=modified_at,
        )

    def _delete(self, key: str) -> bool:
        path = self.path_of(key)
        with contextlib.suppress(FileNotFoundError):
            self._record_of(path).unlink()
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        return True

    def _sweep(self, older_than: float) -> int:
        limit = time.time() - older_than
        removed = 0
        for left in self._aside.iterdir():
            if left.stat().st_mtime < limit:
                left.unlink(missing_ok=True)
                removed += 1
        return removed

    @staticmethod
    def _record_of(path: Path) -> Path:
        return path.with_name(path.name.removesuffix(_OBJECT) + _RECORD)


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _open(path: Path, key: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise ObjectNotFound(f"there is no object {key!r}") from error
