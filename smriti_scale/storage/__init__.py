"""File storage behind one protocol: a disk, S3 and its likes, Cloudinary."""

from __future__ import annotations

from smriti_scale.storage.base import (
    DirectUpload,
    ObjectStore,
    StoredObject,
    new_key,
    verify_upload,
)
from smriti_scale.storage.cloudinary import CloudinaryStore
from smriti_scale.storage.content import sniff
from smriti_scale.storage.local import LocalStore
from smriti_scale.storage.local_files import LocalStoreFiles
from smriti_scale.storage.s3 import S3Store

__all__ = [
    "CloudinaryStore",
    "DirectUpload",
    "LocalStore",
    "LocalStoreFiles",
    "ObjectStore",
    "S3Store",
    "StoredObject",
    "new_key",
    "sniff",
    "verify_upload",
]
