"""Text out of real documents, and out of hostile ones nothing but a sentence."""

from __future__ import annotations

import asyncio
import io
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import docx
import pypdf
import pytest
from pypdf.generic import ArrayObject, DictionaryObject, NameObject, NumberObject, StreamObject

from examples.smriti.documents.extract import ExtractionFailed, Limits, extract_text

pytestmark = pytest.mark.long

Write = Callable[[str, bytes], Path]
TIGHT = Limits(seconds=20, cpu_seconds=3)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(name: str, data: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return make


def pdf(*texts: str, password: str | None = None) -> bytes:
    """A PDF with a page for each text, in Helvetica."""
    writer = pypdf.PdfWriter()
    for text in texts:
        page = writer.add_blank_page(300, 300)
        font = DictionaryObject(
            {
                NameObject("/Type"): NameObject("/Font"),
                NameObject("/Subtype"): NameObject("/Type1"),
                NameObject("/BaseFont"): NameObject("/Helvetica"),
            }
        )
        page[NameObject("/Resources")] = DictionaryObject(
            {NameObject("/Font"): DictionaryObject({NameObject("/F1"): font})}
        )
        content = StreamObject()
        content.set_data(f"BT /F1 12 Tf 20 200 Td ({text}) Tj ET".encode())
        page[NameObject("/Contents")] = writer._add_object(content)
    if password is not None:
        writer.encrypt(password, algorithm="RC4-128")
    buffer = io.BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


def word(*paragraphs: str, table: list[list[str]] | None = None) -> bytes:
    document = docx.Document()
    for paragraph in paragraphs:
        document.add_paragraph(paragraph)
    if table:
        made = document.add_table(len(table), len(table[0]))
        for row, values in enumerate(table):
            for column, value in enumerate(values):
                made.cell(row, column).text = value
        document.add_paragraph("after the table")
    buffer = io.BytesIO()
    document.save(buffer)
    return buffer.getvalue()


def zipped(entries: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return buffer.getvalue()


async def test_a_pdf_gives_its_pages_in_order(write: Write) -> None:
    path = write("a.pdf", pdf("the first page", "the second page"))
    assert await extract_text(path, "pdf") == "the first page\nthe second page"


async def test_a_word_document_gives_paragraphs_and_tables_in_order(write: Write) -> None:
    path = write("a.docx", word("Grüße", "", "two", table=[["a", "b"], ["c", "d"]]))
    assert await extract_text(path, "docx") == "Grüße\ntwo\na\tb\nc\td\nafter the table"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
async def test_a_text_is_read_in_the_usual_encodings(write: Write, encoding: str) -> None:
    assert await extract_text(write("a.txt", "café – naïve\n".encode(encoding)), "txt") == "café – naïve"


async def test_long_documents_are_read_up_to_the_limit_only(write: Write) -> None:
    limits = Limits(characters=1000, pages=2)
    assert len(await extract_text(write("a.txt", "ü".encode() * 5000), "txt", limits=limits)) == 1000
    assert await extract_text(write("a.pdf", pdf("1", "2", "3")), "pdf", limits=limits) == "1\n2"
    assert len(await extract_text(write("a.docx", word(*["x" * 600] * 5)), "docx", limits=limits)) == 1000


async def test_a_page_without_text_gives_nothing_and_is_no_failure(write: Write) -> None:
    assert await extract_text(write("a.pdf", pdf("")), "pdf") == ""
    assert await extract_text(write("a.txt", b""), "txt") == ""


@pytest.mark.parametrize(
    ("extension", "data"),
    [
        ("pdf", b"just words"),
        ("docx", b"%PDF-1.7 not a zip"),
        ("docx", zipped({"hello.txt": b"hi"})),
        ("txt", b"%PDF-1.7\n"),
        ("txt", b"\x00\x01binary"),
    ],
    # Named, since a zip holds the time it was made.
    ids=["words as pdf", "pdf as docx", "zip as docx", "pdf as txt", "binary as txt"],
)
async def test_a_wrong_extension_is_told(write: Write, extension: str, data: bytes) -> None:
    with pytest.raises(ExtractionFailed, match="whatever its name says"):
        await extract_text(write("a", data), extension)


async def test_old_word_files_are_not_read(write: Write) -> None:
    with pytest.raises(ExtractionFailed, match=r"no text is taken from \.doc files"):
        await extract_text(write("a.doc", b"\xd0\xcf\x11\xe0"), "doc")


async def test_a_zip_bomb_is_refused_by_what_it_declares(write: Write) -> None:
    bomb = zipped({"[Content_Types].xml": b"<x/>", "word/document.xml": bytes(150 * 1024 * 1024)})
    assert len(bomb) < 1_000_000
    with pytest.raises(ExtractionFailed, match="unpacks to more"):
        await extract_text(write("a.docx", bomb), "docx")


async def test_a_zip_bomb_that_lies_about_its_size_is_stopped(write: Write) -> None:
    bomb = bytearray(zipped({"[Content_Types].xml": b"<x/>", "word/document.xml": bytes(150 * 1024 * 1024)}))
    true_size = (150 * 1024 * 1024).to_bytes(4, "little")
    assert bomb.count(true_size) == 2
    with pytest.raises(ExtractionFailed):
        await extract_text(write("a.docx", bytes(bomb.replace(true_size, (1000).to_bytes(4, "little")))), "docx")


async def test_an_xml_bomb_does_not_explode(write: Write) -> None:
    entities = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
    xml = f'<?xml version="1.0"?><!DOCTYPE d [<!ENTITY a0 "lol">{entities}]><w:document xmlns:w="x">&a11;</w:document>'
    with zipfile.ZipFile(io.BytesIO(word("text"))) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    bomb = zipped(entries | {"word/document.xml": xml.encode()})
    with pytest.raises(ExtractionFailed):
        await extract_text(write("a.docx", bomb), "docx", limits=TIGHT)


async def test_a_pdf_whose_pages_go_in_a_circle_ends(write: Write) -> None:
    writer = pypdf.PdfWriter()
    writer.add_blank_page(10, 10)
    pages = writer._root_object["/Pages"].get_object()
    assert isinstance(pages, DictionaryObject)
    pages[NameObject("/Kids")] = ArrayObject([writer._root_object.raw_get("/Pages")] * 2)
    pages[NameObject("/Count")] = NumberObject(10**9)
    buffer = io.BytesIO()
    writer.write(buffer)
    with pytest.raises(ExtractionFailed):
        await extract_text(write("a.pdf", buffer.getvalue()), "pdf", limits=TIGHT)


async def test_a_pdf_that_unpacks_without_end_is_stopped(write: Write) -> None:
    data = pdf("x")
    stream = zipped_stream(b"BT (x) Tj ET\n" * 40_000_000)
    body = data.replace(b"%%EOF", b"")
    body += (
        b"\n99 0 obj\n<< /Length "
        + str(len(stream)).encode()
        + b" /Filter [/FlateDecode] >>\nstream\n"
        + stream
        + b"\nendstream\nendobj\n"
    )
    body = body.replace(b"/Contents 5 0 R", b"/Contents 99 0 R")
    began = time.monotonic()
    try:
        text = await extract_text(write("a.pdf", body), "pdf", limits=TIGHT)
    except ExtractionFailed:
        text = ""
    assert len(text) <= TIGHT.characters
    assert time.monotonic() - began < 60


def zipped_stream(data: bytes) -> bytes:
    import zlib

    return zlib.compress(data, 1)


async def test_a_locked_pdf_is_told_and_one_that_is_only_protected_is_read(write: Write) -> None:
    with pytest.raises(ExtractionFailed, match="locked by a password"):
        await extract_text(write("a.pdf", pdf("secret", password="x")), "pdf")
    assert await extract_text(write("b.pdf", pdf("open", password="")), "pdf") == "open"


@pytest.mark.parametrize("extension", ["pdf", "docx"])
async def test_a_truncated_file_is_damaged_not_a_crash(write: Write, extension: str) -> None:
    whole = pdf("text" * 50) if extension == "pdf" else word("text" * 50)
    with pytest.raises(ExtractionFailed):
        await extract_text(write("a", whole[: len(whole) // 3]), extension, limits=TIGHT)


async def test_reading_that_takes_too_long_is_stopped_and_leaves_no_process(write: Write) -> None:
    path = write("a.pdf", b"")
    path.unlink()
    os.mkfifo(path)  # opening it waits for ever
    with pytest.raises(ExtractionFailed, match=r"longer than 0\.5 s"):
        await extract_text(path, "pdf", limits=Limits(seconds=0.5))
    assert readers_of(path) == []


async def test_a_cancelled_reading_leaves_no_process(write: Write) -> None:
    path = write("a.pdf", b"")
    path.unlink()
    os.mkfifo(path)
    reading = asyncio.create_task(extract_text(path, "pdf"))
    for _ in range(500):
        await asyncio.sleep(0.02)
        if readers_of(path):
            break
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert readers_of(path) == []


def environment_of(process: str) -> bytes:
    return Path("/proc", process, "environ").read_bytes()


def readers_of(path: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes().split(b"\0")
        except OSError:
            continue
        if str(path).encode() in words:
            found.append(process.parent.name)
    return found


async def test_the_process_that_reads_sees_no_secrets(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "do-not-leak")
    path = write("a.pdf", b"")
    path.unlink()
    os.mkfifo(path)
    reading = asyncio.create_task(extract_text(path, "pdf"))
    environment = b""
    for _ in range(500):
        await asyncio.sleep(0.02)
        if found := readers_of(path):
            environment = environment_of(found[0])
            break
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert b"PATH=" in environment
    assert b"do-not-leak" not in environment
