"""What bytes are, whatever their name says: pure."""

from __future__ import annotations

import io
import zipfile

import pytest
from hypothesis import example, given, strategies as st

from smriti_scale.storage import sniff
from smriti_scale.storage.headers import disposition

WORD = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("head", "content_type"),
    [
        (b"%PDF-1.7", "application/pdf"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"GIF89a", "image/gif"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"),
        (b"RIFF\x00\x00\x00\x00OTHR", "application/octet-stream"),
        (b"\x00\x00\x00\x18ftypavif", "image/avif"),
        (b"\x00\x00\x00\x18ftypisom", "video/mp4"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "application/msword"),
        (b"MZ\x90", "application/x-msdownload"),
        (b"\x7fELF", "application/x-elf"),
        (zipped("a.txt"), "application/zip"),
        (zipped("[Content_Types].xml", "_rels/.rels", "word/document.xml"), WORD),
        (zipped("word/evil.txt"), "application/zip"),
        (b"plain words\n", "text/plain"),
        ("Grüße, スムリティ".encode(), "text/plain"),
        ("\ufeffwith a mark".encode(), "text/plain"),
        ("utf-16".encode("utf-16"), "text/plain"),
        (b"\x1b[31mred", "text/plain"),
        (b"caf\xe9", "application/octet-stream"),
        (b"nul\x00", "application/octet-stream"),
        (b"", "application/x-empty"),
        (b"  <!DOCTYPE html><p>", "text/html"),
        (b"\n<ScRiPt>alert(1)", "text/html"),
        (b"<svg onload=alert(1)>", "image/svg+xml"),
        (b"<?xml version='1.0'?><svg/>", "image/svg+xml"),
        (b"<?xml version='1.0'?><a/>", "application/xml"),
        (b"1 < 2 <html", "text/plain"),
    ],
)
def test_known_kinds_are_told_by_their_first_bytes(head: bytes, content_type: str) -> None:
    assert sniff(head) == content_type


def test_a_text_cut_inside_a_character_is_still_text() -> None:
    assert sniff(("ü" * 40_000).encode()[: 32 * 1024 - 1] + b"") == "application/octet-stream"
    assert sniff((" " + "ü" * 40_000).encode()[: 32 * 1024]) == "text/plain"


@given(st.binary(max_size=200))
def test_anything_is_something(head: bytes) -> None:
    assert "/" in sniff(head)


@given(st.text(st.characters(exclude_categories=()), max_size=300))
@example("half a character: \ud800.pdf")
def test_no_name_breaks_out_of_the_header(name: str) -> None:
    header = disposition(name)
    assert header.isascii()
    assert header.isprintable()
    assert header.startswith('attachment; filename="')
    quoted = header.removeprefix('attachment; filename="')
    assert quoted.count('"') == 1
    assert "/" not in quoted.partition('"')[0]
