"""What every store does, and the rules they share: keys, sizes, checksums, types.

Keys are made by the application (or by `new_key`), never taken from a file's name. Stores do not overwrite. Bytes
pass through in pieces: no store holds a whole file in memory.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, TypeAlias, runtime_checkable

from smriti_scale.errors import InvalidObjectName, ObjectTooLarge, UnacceptableContent
from smriti_scale.storage.content import HEAD_SIZE, sniff

CHUNK = 256 * 1024
"""Bytes that pass at a time."""
DEFAULT_MAX_SIZE = 100 * 1024 * 1024

Source: TypeAlias = "bytes | AsyncIterable[bytes] | AsyncReadable"
"""What can be stored: bytes, an async iterable of them (`request.stream()`), or something with an async `read(size)`
(Starlette's `UploadFile`)."""

_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_MAX_KEY = 512


class AsyncReadable(Protocol):
    """Anything with an async `read`, such as Starlette's `UploadFile`."""

    async def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes; none at the end."""
        ...


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What a store knows about an object.

    Attributes:
        key: the name it is stored under.
        size: bytes.
        content_type: what the bytes are, as judged when they were stored.
        checksum: SHA-256 of the bytes in hex, where the store has it.
        modified_at: when it was stored (UTC).
    """

    key: str
    size: int
    content_type: str
    checksum: str | None = None
    modified_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class DirectUpload:
    """How a client uploads straight to the store. Afterwards call `verify_upload`: the store itself may check little.

    Attributes:
        method: `PUT` or `POST`.
        url: where to send the file.
        headers: headers to send along, exactly.
        fields: form fields to send before the file (POST only).
        file_field: the form's name for the file (POST only).
        key: what the object will be called.
        expires_in: seconds for which this holds.
    """

    method: str
    url: str
    key: str
    expires_in: int
    headers: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    file_field: str = "file"


@runtime_checkable
class ObjectStore(Protocol):
    """A place for files. `LocalStore`, `S3Store` and `CloudinaryStore` are such."""

    async def put(
        self,
        key: str,
        source: Source,
        *,
        content_types: tuple[str, ...] | None = None,
        max_size: int = DEFAULT_MAX_SIZE,
    ) -> StoredObject:
        """Store the bytes of `source` under `key`.

        Args:
            key: 1–512 characters of `A-Za-z0-9._-`, with `/` between parts; see `new_key`.
            source: bytes, an async iterable, or an upload.
            content_types: the types allowed, judged by the bytes; None allows any.
            max_size: bytes; more raises while reading.

        Raises:
            InvalidObjectName: the key is not of that form.
            ObjectExists: the key is taken; nothing is overwritten.
            ObjectTooLarge: more than `max_size` bytes came; nothing is kept.
            UnacceptableContent: the bytes are of another type; nothing is kept.
            StorageUnavailable: the store does not answer, after retries.
        """
        ...

    def get(self, key: str) -> AsyncIterator[bytes]:
        """The bytes, piece by piece.

        Raises (at the first piece):
            ObjectNotFound: there is no such object.
            ChecksumMismatch: (at the last) the bytes are not those that were stored.
        """
        ...

    async def stat(self, key: str) -> StoredObject:
        """What is known about an object.

        Raises:
            ObjectNotFound: there is no such object.
        """
        ...

    async def delete(self, key: str) -> bool:
        """Remove an object. Idempotent: False when there was none."""
        ...

    async def url(self, key: str, *, expires_in: int = 3600, download_name: str | None = None) -> str:
        """An address that gives the object to whoever holds it, for `expires_in` seconds.

        Args:
            key: the object; it need not exist yet.
            expires_in: seconds.
            download_name: makes browsers save the file under this name in place of showing it.
        """
        ...

    async def presign_upload(
        self, key: str, *, content_type: str, max_size: int, expires_in: int = 600
    ) -> DirectUpload:
        """Let a client upload straight to the store; check with `verify_upload` before using the object."""
        ...

    async def aclose(self) -> None:
        """Close connections."""
        ...


async def verify_upload(
    store: ObjectStore, key: str, *, content_types: tuple[str, ...] | None = None, max_size: int
) -> StoredObject:
    """Check what a client uploaded by itself, by size and by its first bytes; remove it when it is not allowed.

    Raises:
        ObjectNotFound: nothing was uploaded.
        ObjectTooLarge: it is larger than `max_size`; it has been deleted.
        UnacceptableContent: its bytes are of another type; it has been deleted.
    """
    found = await store.stat(key)
    if found.size > max_size:
        await store.delete(key)
        raise ObjectTooLarge(max_size)
    head = b""
    pieces = store.get(key)
    async for piece in pieces:
        head += piece
        if len(head) >= HEAD_SIZE:
            break
    closing = getattr(pieces, "aclose", None)
    if closing is not None:
        await closing()
    content_type = sniff(head[:HEAD_SIZE])
    if content_types is not None and content_type not in content_types:
        await store.delete(key)
        raise UnacceptableContent(content_type, allowed=content_types)
    return StoredObject(
        key=key, size=found.size, content_type=content_type, checksum=found.checksum, modified_at=found.modified_at
    )


def check_key(key: str) -> str:
    """The key, if it is safe in every store.

    Raises:
        InvalidObjectName: it is empty, long, absolute, has `..` or characters outside `A-Za-z0-9._-/`.
    """
    if len(key) > _MAX_KEY or not _KEY.fullmatch(key):
        shown = key if len(key) <= 80 else f"{key[:77]}…"
        raise InvalidObjectName(
            f"{shown!r} cannot be a key: use up to {_MAX_KEY} of A-Z a-z 0-9 . _ - with / between parts that do not "
            "begin with a dot; new_key() makes one"
        )
    return key


def new_key(folder: str = "", *, suffix: str = "") -> str:
    """A fresh key that nobody can guess (128 bits), for instance `documents/3f9c….pdf`.

    Args:
        folder: what to put before it.
        suffix: an extension such as `.pdf`; from a table of yours, not from the client.
    """
    name = secrets.token_hex(16) + suffix
    return check_key(f"{folder.strip('/')}/{name}" if folder else name)


class CheckedStream:
    """The bytes of a source in even pieces, counted, hashed and judged on the way.

    Args:
        source: what is to be stored.
        max_size: bytes; more raises.
        content_types: the types allowed.
        chunk: the size of the pieces that come out; only the last is shorter.
    """

    def __init__(
        self, source: Source, *, max_size: int, content_types: tuple[str, ...] | None = None, chunk: int = CHUNK
    ) -> None:
        self._source = source
        self._max_size = max_size
        self._content_types = content_types
        self._chunk = chunk
        self._sha256 = hashlib.sha256()
        self.size = 0
        self.content_type = "application/octet-stream"

    @property
    def checksum(self) -> str:
        """SHA-256 of what has passed, in hex."""
        return self._sha256.hexdigest()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces()

    async def _pieces(self) -> AsyncIterator[bytes]:
        held = bytearray()
        judged = False
        async for piece in _pieces_of(self._source, self._chunk):
            self.size += len(piece)
            if self.size > self._max_size:
                raise ObjectTooLarge(self._max_size)
            held += piece
            if not judged and len(held) >= HEAD_SIZE:
                self._judge(held)
                judged = True
            while judged and len(held) >= self._chunk:
                yield self._passed(bytes(held[: self._chunk]))
                del held[: self._chunk]
        if not judged:
            self._judge(held)
        while held:
            yield self._passed(bytes(held[: self._chunk]))
            del held[: self._chunk]

    def _judge(self, head: bytes | bytearray) -> None:
        self.content_type = sniff(bytes(head[:HEAD_SIZE]))
        if self._content_types is not None and self.content_type not in self._content_types:
            raise UnacceptableContent(self.content_type, allowed=self._content_types)

    def _passed(self, piece: bytes) -> bytes:
        self._sha256.update(piece)
        return piece


async def _pieces_of(source: Source, size: int) -> AsyncIterator[bytes]:
    if isinstance(source, (bytes, bytearray, memoryview)):
        for start in range(0, len(source), size):
            yield bytes(source[start : start + size])
    elif isinstance(source, AsyncIterable):
        async for piece in source:
            # A client may send one huge piece: pass it on in parts, so that the limit acts before it is copied.
            for start in range(0, len(piece), size):
                yield bytes(piece[start : start + size])
    else:
        while piece := await source.read(size):
            yield piece
