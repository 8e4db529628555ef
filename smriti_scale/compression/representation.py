"""What coding a body means for its headers, and which bodies are coded at all: functions of values.

RFC 9110 calls what travels a representation. Coding makes another one of it: another entity tag, another length,
no byte ranges, and a `Vary` that also the plain one carries.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

RawHeaders = Sequence[tuple[bytes, bytes]]

# Chosen so that it never ends a tag made of hex, base64 or base64url: what stands after it is ours.
ETAG_SEPARATOR = b"~"

COMPRESSED_MEDIA = frozenset(
    {
        "application/epub+zip",
        "application/font-woff",
        "application/font-woff2",
        "application/gzip",
        "application/java-archive",
        "application/ogg",
        "application/pdf",
        "application/vnd.android.package-archive",
        "application/vnd.rar",
        "application/x-7z-compressed",
        "application/x-brotli",
        "application/x-bzip",
        "application/x-bzip2",
        "application/x-gzip",
        "application/x-rar-compressed",
        "application/x-xz",
        "application/x-zip-compressed",
        "application/zip",
        "application/zstd",
        "font/woff",
        "font/woff2",
        "multipart/byteranges",
        "multipart/x-mixed-replace",
    }
)
"""Media types whose bytes are compressed already, or framed so that coding them helps nobody."""

_COMPRESSED_TREES = ("audio/", "image/", "video/", "application/grpc", "application/vnd.openxmlformats-officedocument.")
_COMPRESSED_SUFFIXES = ("+zip", "+gzip", "+zstd")
_PLAIN_IMAGES = frozenset({"image/bmp", "image/svg+xml", "image/vnd.microsoft.icon", "image/x-icon", "image/x-ms-bmp"})
_UNCODED_STATUS = frozenset({204, 205, 206, 304})
_FORBIDDING = frozenset(
    {b"content-encoding", b"content-range", b"content-digest", b"repr-digest", b"digest", b"content-md5"}
)


def fields_of(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Headers by lower-case name; repeated lines joined by commas."""
    fields: dict[bytes, bytes] = {}
    for raw_name, value in headers:
        name = raw_name.lower()
        fields[name] = fields[name] + b", " + value if name in fields else value
    return fields


def media_type_of(content_type: bytes) -> str:
    """`b"Text/HTML; charset=utf-8"` becomes `"text/html"`."""
    return content_type.partition(b";")[0].strip().lower().decode("latin-1")


def is_compressed_media(media_type: str, excluded: frozenset[str] = frozenset()) -> bool:
    """Whether a body of this type stays as it is. `excluded` adds types, or trees such as `"model/*"`."""
    if media_type in excluded or (excluded and f"{media_type.partition('/')[0]}/*" in excluded):
        return True
    if media_type.startswith(_COMPRESSED_TREES):
        return media_type not in _PLAIN_IMAGES
    return media_type in COMPRESSED_MEDIA or media_type.endswith(_COMPRESSED_SUFFIXES)


def forbids_coding(status: int, fields: dict[bytes, bytes]) -> bool:
    """Whether status or headers say that these bytes must travel as they are.

    That is so for answers without a body, parts of one (206), coded ones, `no-transform` (RFC 9111 section 5.2.2.6),
    and those with a digest of their bytes (RFC 9530), which coding would turn into a lie.
    """
    return (
        status < 200
        or status in _UNCODED_STATUS
        or not _FORBIDDING.isdisjoint(fields)
        or (b"cache-control" in fields and b"no-transform" in fields[b"cache-control"].lower())
    )


def with_vary(headers: RawHeaders, fields: dict[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """The headers with `Accept-Encoding` among `Vary`: once, and not beside `*`, which says it all."""
    vary = fields.get(b"vary")
    if vary is None:
        return [*headers, (b"vary", b"Accept-Encoding")]
    named = {name.strip() for name in vary.lower().split(b",")}
    if b"*" in named or b"accept-encoding" in named:
        return list(headers)
    joined = vary.rstrip(b", \t") + b", Accept-Encoding" if vary.strip(b", \t") else b"Accept-Encoding"
    return [*((name, value) for name, value in headers if name.lower() != b"vary"), (b"vary", joined)]


def coded_headers(
    headers: RawHeaders, fields: dict[bytes, bytes], *, coding: str, length: int | None, weaken: bool = False
) -> list[tuple[bytes, bytes]]:
    """The headers of the coded body.

    Args:
        headers: those of the plain body.
        fields: the same, by name.
        coding: the content coding.
        length: bytes of the coded body; None where they are not known yet.
        weaken: make a strong entity tag weak, in place of giving this coding a strong one of its own.
    """
    # Ranges are answered from the plain body, so the coded one must not invite them.
    dropped = {b"content-length", b"accept-ranges", b"etag"}
    changed = [(name, value) for name, value in with_vary(headers, fields) if name.lower() not in dropped]
    changed.append((b"content-encoding", coding.encode()))
    if length is not None:
        changed.append((b"content-length", b"%d" % length))
    if b"etag" in fields:
        etag = coded_etag(fields[b"etag"], coding, weaken=weaken)
        if etag:
            changed.append((b"etag", etag))
    return changed


def coded_etag(etag: bytes, coding: str, *, weaken: bool = False) -> bytes | None:
    """The entity tag of the coded body. A weak one stays; one without quotes is none, and is dropped (None)."""
    etag = etag.strip()
    if etag.startswith(b'W/"'):
        return etag
    if len(etag) < 2 or not (etag.startswith(b'"') and etag.endswith(b'"')):
        return None
    return b"W/" + etag if weaken else etag[:-1] + ETAG_SEPARATOR + coding.encode() + b'"'


def plain_etags(condition: bytes, codings: Sequence[str]) -> bytes:
    """An `If-Match` or `If-None-Match` value as the application knows it: its own tags, not those per coding."""
    if ETAG_SEPARATOR not in condition:
        return condition
    for coding in codings:
        condition = condition.replace(ETAG_SEPARATOR + coding.encode() + b'"', b'"')
    return condition


def confirmed_etag(etag: bytes, condition: bytes, codings: Sequence[str]) -> bytes:
    """The tag a 304 carries: the one the client asked about, where it is this tag under some coding."""
    for coding in codings:
        coded = coded_etag(etag, coding)
        if coded is not None and coded in condition:
            return coded
    return etag
