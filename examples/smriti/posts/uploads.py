"""Files that come with posts: judged by name, by size and by what their bytes are; kept in the configured store."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from starlette.datastructures import UploadFile

from examples.smriti.answers import ApiError
from smriti_scale.errors import ScaleError
from smriti_scale.storage import ObjectStore, new_key, sniff
from smriti_scale.storage.content import HEAD_SIZE

_log = logging.getLogger("smriti.files")

LARGEST = 10 * 1024 * 1024
FOLDER = "smriti/documents"


@dataclass(frozen=True, slots=True)
class FileKind:
    """Files with one extension.

    Args:
        media_type: as they are served.
        contents: what their bytes may be, as `sniff` judges them.
    """

    media_type: str
    contents: frozenset[str]


def _kind(media_type: str, *besides: str) -> FileKind:
    return FileKind(media_type, frozenset((media_type, *besides)))


_DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"

IMAGES: Mapping[str, FileKind] = {
    "jpg": _kind("image/jpeg"),
    "jpeg": _kind("image/jpeg"),
    "png": _kind("image/png"),
    "gif": _kind("image/gif"),
    "webp": _kind("image/webp"),
}
DOCUMENTS: Mapping[str, FileKind] = {
    "pdf": _kind("application/pdf"),
    "doc": _kind("application/msword"),
    "docx": _kind(_DOCX, "application/zip"),
    # Markup is text too; it is served as plain text, so that no browser runs it.
    "txt": _kind("text/plain", "text/html", "image/svg+xml", "application/x-empty"),
}
MEDIA_TYPES = {extension: kind.media_type for extension, kind in {**IMAGES, **DOCUMENTS}.items()}


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that may be stored.

    Args:
        file: the open form part.
        extension: lower-case, without the dot.
    """

    file: UploadFile
    extension: str


@dataclass(frozen=True, slots=True)
class Stored:
    """A file that is stored.

    Args:
        url: serves it to whoever has it.
        public_id: its key in the store; nobody can guess one.
        extension: its format.
    """

    url: str
    public_id: str
    extension: str


async def inspected(file: UploadFile, kinds: Mapping[str, FileKind]) -> Upload:
    """The file as one that may be stored.

    Raises:
        ApiError: 400 for a wrong extension, content that is not what the name says, or too many bytes.
    """
    extension = PurePosixPath(file.filename or "").suffix.lstrip(".").lower()
    kind = kinds.get(extension)
    if kind is None:
        raise ApiError(400, f"Files may be {', '.join(kinds)}")
    if (file.size or 0) > LARGEST:
        raise ApiError(400, f"A file may have {LARGEST:,} bytes, not {file.size:,}")
    await file.seek(0)
    found = sniff(await file.read(HEAD_SIZE))
    if found not in kind.contents:
        raise ApiError(400, f"That file is no {extension}, whatever its name says")
    await file.seek(0)
    return Upload(file, extension)


class Files:
    """The store, as posts use it.

    Args:
        store: where files are kept; None when none is configured.
        public_url: where this service is reached, put before the path of every file.
    """

    def __init__(self, store: ObjectStore | None, *, public_url: str) -> None:
        self.store = store
        self._public_url = public_url.rstrip("/")

    async def keep(self, upload: Upload) -> Stored:
        """Store a file.

        Raises:
            ApiError: 500 when no store is configured or it fails; 400 when the file grew on the way.
        """
        if self.store is None:
            raise ApiError(500, "Files cannot be stored at present")
        key = new_key(FOLDER, suffix=f".{upload.extension}")
        try:
            await self.store.put(key, upload.file, max_size=LARGEST)
        except (ScaleError, OSError) as error:
            _log.error("a file could not be stored", exc_info=error)
            raise ApiError(500, "Files cannot be stored at present") from error
        return Stored(f"{self._public_url}/files/{key}", key, upload.extension)

    async def discard(self, *keys: str | None) -> None:
        """Remove files; trouble is logged, never raised: what they belonged to is gone already."""
        for key in keys:
            if key and self.store is not None:
                try:
                    await self.store.delete(key)
                except (ScaleError, OSError) as error:
                    _log.warning("a file could not be removed", exc_info=error, extra={"key": key})
