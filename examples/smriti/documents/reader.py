"""Runs alone, in a process of its own: prints the text of one document. See `extract`, which starts it.

Exit code 3: the document cannot be read, and the last line on stderr says why.
"""

from __future__ import annotations

import contextlib
import re
import resource
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_ENTRIES = 5_000
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


class Unreadable(Exception):
    """Why the document cannot be read."""


def main() -> None:
    """Read what the command line names, within the limits it names."""
    kind, path, cpu_seconds, memory, unpacked, pages, characters = sys.argv[1:]
    confine(int(cpu_seconds), int(memory))
    try:
        if kind == "pdf":
            parts = of_pdf(path, int(pages))
        elif kind == "docx":
            parts = of_docx(path, int(unpacked))
        else:
            parts = of_txt(path, int(characters))
        sys.stdout.buffer.write(joined(parts, int(characters)).encode(errors="replace"))
        sys.stdout.buffer.flush()
    except Unreadable as why:
        complain(str(why))
    except MemoryError:
        complain("the document needs too much memory")
    except RecursionError:
        complain("the document is nested too deeply")
    except Exception as error:  # noqa: BLE001 - parsers raise anything on hostile files; this process ends either way
        complain(f"the document is damaged ({type(error).__name__})")


def complain(why: str) -> None:
    """Say why, and end."""
    print(why, file=sys.stderr)  # noqa: T201 - this is the answer
    raise SystemExit(3)


def confine(cpu_seconds: int, memory: int) -> None:
    """Bound what this process may take; no files may be written and no process started."""
    import signal

    signal.alarm(cpu_seconds * 3)  # also where nobody is left to stop us
    limits = {
        resource.RLIMIT_CPU: cpu_seconds,
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 64,
    }
    for limit, value in limits.items():
        # macOS refuses some; the parent's deadline holds there too.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(limit, (value, value))


def joined(parts: Iterator[str], most: int) -> str:
    """The parts as lines, without control characters, up to `most` characters. What is not needed is not read."""
    kept: list[str] = []
    room = most
    for part in parts:
        clean = _CONTROL.sub("", part).strip()
        if not clean:
            continue
        kept.append(clean[:room])
        room -= len(clean) + 1
        if room <= 0:
            break
    return "\n".join(kept)[:most]


def of_txt(path: str, characters: int) -> Iterator[str]:
    """A text in UTF-8, UTF-16 with its mark, or what Windows wrote in the West."""
    with Path(path).open("rb") as file:
        data = file.read(4 * characters)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        yield data[: len(data) & ~1].decode("utf-16", errors="replace")
        return
    if b"\0" in data or data.startswith((b"%PDF-", b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise Unreadable("the file is no text, whatever its name says")
    try:
        yield data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The bound may have cut a character; a Latin text fails earlier.
        if error.start >= len(data) - 3:
            yield data[: error.start].decode("utf-8-sig")
        else:
            yield data.decode("cp1252", errors="replace")


def of_pdf(path: str, pages: int) -> Iterator[str]:
    """The pages of a PDF, one after the other."""
    with Path(path).open("rb") as file:
        if b"%PDF-" not in file.read(1024):
            raise Unreadable("the file is no PDF, whatever its name says")
        import logging

        logging.disable()
        from pypdf import PdfReader

        reader = PdfReader(file)
        if reader.is_encrypted and not unlocked(reader):
            raise Unreadable("the document is locked by a password")
        for number, page in enumerate(reader.pages):
            if number >= pages:
                return
            yield page.extract_text()


def unlocked(reader: Any) -> bool:
    """Whether the empty password opens it; documents that are only protected against changes open so."""
    try:
        return bool(reader.decrypt(""))
    except Exception:  # noqa: BLE001 - a cipher that is not supported is as good as a lock
        return False


def of_docx(path: str, unpacked: int) -> Iterator[str]:
    """Paragraphs and tables of a Word document, in their order."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if len(entries) > _ENTRIES or sum(entry.file_size for entry in entries) > unpacked:
                raise Unreadable("the document unpacks to more than is allowed")
            if "word/document.xml" not in archive.namelist():
                raise Unreadable("the file is no Word document, whatever its name says")
    except zipfile.BadZipFile:
        raise Unreadable("the file is no Word document, whatever its name says") from None
    from docx import Document
    from docx.table import Table

    for block in Document(path).iter_inner_content():
        if isinstance(block, Table):
            for row in block.rows:
                yield "\t".join(cell.text for cell in row.cells)
        else:
            yield block.text


if __name__ == "__main__":
    main()
