"""What kind of file some bytes are, by their first bytes: pure. Names and headers are claims; this looks.

Signatures after the WHATWG MIME Sniffing Standard and the formats' own specifications. ZIP containers are told apart
by the name of their first entries; text is what decodes as UTF-8 (or has a byte order mark) and has no control bytes.
"""

from __future__ import annotations

import re

HEAD_SIZE = 32 * 1024
"""How many bytes are enough to judge."""

_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"%PDF-", "application/pdf"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"GIF87a", "image/gif"),
    (0, b"GIF89a", "image/gif"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "application/msword"),
    (0, b"\x1f\x8b", "application/gzip"),
    (0, b"BZh", "application/x-bzip2"),
    (0, b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (0, b"Rar!\x1a\x07", "application/vnd.rar"),
    (0, b"OggS", "application/ogg"),
    (0, b"ID3", "audio/mpeg"),
    (0, b"fLaC", "audio/flac"),
    (0, b"\x1a\x45\xdf\xa3", "video/webm"),
    (0, b"BM", "image/bmp"),
    (0, b"II*\x00", "image/tiff"),
    (0, b"MM\x00*", "image/tiff"),
    (0, b"\x7fELF", "application/x-elf"),
    (0, b"MZ", "application/x-msdownload"),
)
_RIFF = {b"WEBP": "image/webp", b"WAVE": "audio/wav", b"AVI ": "video/x-msvideo"}
_FTYP = {b"avif": "image/avif", b"heic": "image/heic", b"heix": "image/heic", b"qt  ": "video/quicktime"}
_OFFICE = (
    (b"word/", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
    (b"xl/", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
    (b"ppt/", "application/vnd.openxmlformats-officedocument.presentationml.presentation"),
)
_MARKUP = re.compile(rb"^\s*(<!doctype html|<html|<head|<body|<script|<iframe|<svg|<\?xml)", re.IGNORECASE)
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


def sniff(head: bytes) -> str:
    """The content type of a file that begins with `head` (at least `HEAD_SIZE` bytes, or all there is).

    Markup is `text/html` or `image/svg+xml`, never `text/plain`: a browser would run what it holds. What is nothing
    known is `application/octet-stream`.
    """
    for offset, signature, content_type in _SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            return content_type
    if head[:4] == b"RIFF" and head[8:12] in _RIFF:
        return _RIFF[head[8:12]]
    if head[4:8] == b"ftyp":
        return _FTYP.get(head[8:12], "video/mp4")
    if head[:4] == b"PK\x03\x04":
        return _zip(head)
    return _text(head)


def _zip(head: bytes) -> str:
    # Office files may list their parts in any order; `[Content_Types].xml` or `_rels/` marks the family.
    if b"[Content_Types].xml" in head or b"_rels/" in head or b"docProps/" in head:
        for marker, content_type in _OFFICE:
            if marker in head:
                return content_type
    if head[30:38] == b"mimetype":
        found = re.match(rb"mimetype([a-z]+/[a-z0-9.+-]+)", head[30:120])
        if found and found[1].startswith((b"application/epub", b"application/vnd.oasis")):
            return found[1].removesuffix(b"PK").decode()
    return "application/zip"


def _text(head: bytes) -> str:
    if not head:
        return "application/x-empty"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "text/plain"
    body = head.removeprefix(b"\xef\xbb\xbf")
    if _CONTROL.search(body):
        return "application/octet-stream"
    try:
        body.decode()
    except UnicodeDecodeError as error:
        # The head may end inside a character.
        if len(head) < HEAD_SIZE or error.start < len(body) - 3:
            return "application/octet-stream"
    if markup := _MARKUP.match(body):
        tag = markup[1].lower()
        if tag == b"<svg" or (tag == b"<?xml" and b"<svg" in body.lower()):
            return "image/svg+xml"
        return "application/xml" if tag == b"<?xml" else "text/html"
    return "text/plain"
