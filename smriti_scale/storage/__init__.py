"""File storage behind one protocol: a disk, S3 and its likes, Cloudinary."""

from __future__ import annotations

from smriti_scale.storage.base import (
    DirectUpload,
    ObjectStore,
    StoredObject,
    new_key,
    verify_upload,
)
from smriti_scale.storage.content import sniff
from smriti_scale.storage.local import LocalStore

__all__ = ["DirectUpload", "LocalStore", "ObjectStore", "StoredObject", "new_key", "sniff", "verify_upload"]
