"""The text of an uploaded document. The file is a stranger's: it is read in a process of its own, within limits.

A zip that unpacks to terabytes, a PDF whose pages go round in a circle, a parser that runs wild: whatever happens
happens to that process, which the kernel stops at its limits of memory and time. It can write no files.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

_READER = Path(__file__).with_name("reader.py")
_UNREADABLE = 3
READABLE = frozenset({"pdf", "docx", "txt"})


class ExtractionFailed(Exception):
    """The document has no text that could be taken out; the message says why and is fit to show."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What reading one document may cost.

    Args:
        seconds: from start to end.
        cpu_seconds: of computing.
        memory: bytes of address space.
        unpacked: bytes that a docx may unpack to.
        pages: of a PDF; those beyond are left out.
        characters: of text; those beyond are left out.
    """

    seconds: float = 30.0
    cpu_seconds: int = 20
    memory: int = 768 * 1024 * 1024
    unpacked: int = 100 * 1024 * 1024
    pages: int = 2_000
    characters: int = 500_000


DEFAULT_LIMITS = Limits()


async def extract_text(path: Path, extension: str, *, limits: Limits = DEFAULT_LIMITS) -> str:
    """The text of the file at `path`.

    Args:
        path: the file.
        extension: `pdf`, `docx` or `txt`; the bytes must agree.
        limits: what it may cost.

    Returns:
        The text, at most `limits.characters` of it; empty when there is none (a scanned page).

    Raises:
        ExtractionFailed: the file is damaged, locked, of another kind, or went over the limits.
    """
    if extension not in READABLE:
        raise ExtractionFailed(f"no text is taken from .{extension} files")
    arguments = [
        extension,
        str(path),
        *map(str, (limits.cpu_seconds, limits.memory, limits.unpacked, limits.pages, limits.characters)),
    ]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", str(_READER), *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd="/",
        env={"PATH": os.defpath, "LANG": "C.UTF-8"},  # no secrets of ours
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(limits.seconds):
            output, complaint = await _read(process, 4 * limits.characters)
            status = await process.wait()
    except TimeoutError:
        raise ExtractionFailed(f"reading took longer than {limits.seconds:g} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    if status == 0:
        return output.decode(errors="replace")
    if status == _UNREADABLE:
        raise ExtractionFailed(complaint.decode(errors="replace").strip()[:500])
    raise ExtractionFailed("reading went over the limits of memory or time")


async def _read(process: asyncio.subprocess.Process, most: int) -> tuple[bytes, bytes]:
    """Output and complaint, neither beyond its bound however much comes."""

    async def up_to(stream: asyncio.StreamReader | None, bound: int) -> bytes:
        kept = bytearray()
        while stream is not None and (piece := await stream.read(65_536)):
            kept += piece[: bound - len(kept)]
        return bytes(kept)

    return await asyncio.gather(up_to(process.stdout, most), up_to(process.stderr, 4_096))
