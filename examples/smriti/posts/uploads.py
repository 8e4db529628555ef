"""Files that come with posts: judged by name, by size and by what their first bytes say."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from starlette.datastructures import UploadFile

from examples.smriti.answers import ApiError

LARGEST = 10 * 1024 * 1024
_HEAD = 4_096
_CHUNK = 256 * 1024


def _starts(*signatures: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(signatures)


def _is_text(head: bytes) -> bool:
    """UTF-8 without control characters; the last character may be cut."""
    if b"\0" in head:
        return False
    for cut in range(4):
        try:
            head[: len(head) - cut].decode()
        except UnicodeDecodeError:
            continue
        return True
    return False


@dataclass(frozen=True, slots=True)
class FileKind:
    """What a file with some extension must begin with.

    Args:
        media_type: as it will be served.
        fits: whether the first bytes are such a file's.
    """

    media_type: str
    fits: Callable[[bytes], bool]


IMAGES: Mapping[str, FileKind] = {
    "jpg": FileKind("image/jpeg", _starts(b"\xff\xd8\xff")),
    "jpeg": FileKind("image/jpeg", _starts(b"\xff\xd8\xff")),
    "png": FileKind("image/png", _starts(b"\x89PNG\r\n\x1a\n")),
    "gif": FileKind("image/gif", _starts(b"GIF87a", b"GIF89a")),
    "webp": FileKind("image/webp", lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP"),
}
DOCUMENTS: Mapping[str, FileKind] = {
    "pdf": FileKind("application/pdf", lambda head: b"%PDF-" in head[:1024]),
    "doc": FileKind("application/msword", _starts(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")),
    "docx": FileKind("application/vnd.openxmlformats-officedocument.wordprocessingml.document", _starts(b"PK\x03\x04")),
    "txt": FileKind("text/plain; charset=utf-8", _is_text),
}


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that may be stored.

    Args:
        file: the open form part.
        extension: lower-case, without the dot.
        media_type: as it will be served.
        size: bytes.
    """

    file: UploadFile
    extension: str
    media_type: str
    size: int

    async def chunks(self) -> AsyncIterator[bytes]:
        """The content, a piece at a time."""
        await self.file.seek(0)
        while chunk := await self.file.read(_CHUNK):
            yield chunk


async def inspected(file: UploadFile, kinds: Mapping[str, FileKind]) -> Upload:
    """The file as one that may be stored.

    Raises:
        ApiError: 400 for a wrong extension, content that is not what the name says, or too many bytes.
    """
    extension = PurePosixPath(file.filename or "").suffix.lstrip(".").lower()
    kind = kinds.get(extension)
    if kind is None:
        raise ApiError(400, f"Files may be {', '.join(kinds)}")
    size = file.size or 0
    if size > LARGEST:
        raise ApiError(400, f"A file may have {LARGEST:,} bytes, not {size:,}")
    await file.seek(0)
    head = await file.read(_HEAD)
    if not kind.fits(head):
        raise ApiError(400, f"That file is no {extension}, whatever its name says")
    return Upload(file, extension, kind.media_type, size)
