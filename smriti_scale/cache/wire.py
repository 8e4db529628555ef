"""The bytes of an entry in Redis: a fixed head with a checksum, its type and tags, then the codec's payload.

What does not parse, belongs to something else or fails the checksum is `None`: a miss, never an error.
"""

from __future__ import annotations

import struct
import zlib
from functools import lru_cache

import orjson

from smriti_scale.cache.entry import Record

_HEAD = struct.Struct("<4sIBdddddII")
_MAGIC = b"\x93sc1"
_CHECKED_FROM = 8  # the checksum covers all that follows it; Adler-32, since it is read on every hit
_COMPRESSED = 1
_MAX_INFLATED = 512 * 2**20  # Redis holds no more than this in one value, so no honest writer had more


def pack(record: Record, *, compress_over: int | None) -> bytes:
    """The record as bytes; a payload longer than `compress_over` bytes is compressed when that makes it smaller."""
    payload, flags, length = record.payload, 0, len(record.payload)
    if compress_over is not None and length > compress_over:
        smaller = zlib.compress(payload, 1)
        if len(smaller) < length:
            payload, flags = smaller, _COMPRESSED
    meta = orjson.dumps([record.fingerprint, [[tag, version.decode()] for tag, version in record.tags]])
    times = (record.born, record.fresh_until, record.stale_until, record.fallback_until, record.delta)
    body = _HEAD.pack(_MAGIC, 0, flags, *times, len(meta), length)[_CHECKED_FROM:] + meta + payload
    return _MAGIC + zlib.adler32(body).to_bytes(4, "little") + body


def unpack(raw: bytes) -> Record | None:
    """The record, or None when the bytes are not an entry of this library, whole and unaltered."""
    if len(raw) < _HEAD.size or raw[:4] != _MAGIC:
        return None
    _, checksum, flags, born, fresh, stale, fallback, delta, meta_length, length = _HEAD.unpack_from(raw)
    if zlib.adler32(memoryview(raw)[_CHECKED_FROM:]) != checksum:
        return None
    start = _HEAD.size + meta_length
    payload = raw[start:]
    if flags & _COMPRESSED:
        inflated = _inflate(payload, length)
        if inflated is None:
            return None
        payload = inflated
    if len(payload) != length:
        return None
    try:
        fingerprint, tags = _meta(raw[_HEAD.size : start])
    except ValueError:
        return None
    return Record(born, fresh, stale, fallback, delta, fingerprint, tags, payload)


@lru_cache(4096)  # the entries of a function, and all reads of one entry, share what is here
def _meta(raw: bytes) -> tuple[str, tuple[tuple[str, bytes], ...]]:
    fingerprint, tags = orjson.loads(raw)
    return fingerprint, tuple((tag, version.encode()) for tag, version in tags)


def _inflate(payload: bytes, length: int) -> bytes | None:
    if length > _MAX_INFLATED:
        return None
    inflater = zlib.decompressobj()
    try:
        whole = inflater.decompress(payload, length + 1)
    except zlib.error:
        return None
    return whole if len(whole) == length and inflater.eof else None
