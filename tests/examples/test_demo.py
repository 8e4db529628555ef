"""The demo as a newcomer runs it: the tour passes, and however it ends, nothing is left running."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from tests.examples.smriti.serving import free_port

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("demo")]

ROOT = Path(__file__).parents[2]


async def start(data_dir: Path, *options: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "examples.smriti.demo", "--port", str(free_port()), "--data-dir", str(data_dir)),
        *options,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def until(process: asyncio.subprocess.Process, words: str) -> str:
    """What it prints, up to a line with these words."""
    printed = ""
    assert process.stdout is not None
    while words not in printed:
        line = await asyncio.wait_for(process.stdout.readline(), 180)
        assert line, f"it ended before it said {words!r}:\n{printed}"
        printed += line.decode()
    return printed


def left_running(data_dir: Path) -> list[str]:
    """Processes that have the demo's folder in their command line or environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                about = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
            if str(data_dir).encode() in about:
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:120])
    return found


async def test_the_tour_passes_and_nothing_is_left_running(tmp_path: Path) -> None:
    process = await start(tmp_path, "--once")
    printed, _ = await asyncio.wait_for(process.communicate(), 240)
    text = printed.decode()
    assert process.returncode == 0, text
    assert text.count("✓") >= 13
    assert "✗" not in text
    assert left_running(tmp_path) == []


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_stops_everything_while_it_serves(tmp_path: Path, ending: signal.Signals) -> None:
    process = await start(tmp_path)
    printed = await until(process, "Redis       redis://")
    assert re.search(r"Serving on http://127\.0\.0\.1:\d+", printed)
    process.send_signal(ending)
    rest, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, rest.decode()
    assert left_running(tmp_path) == []


async def test_a_taken_port_is_said_at_once(tmp_path: Path) -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    process = await start(tmp_path, "--port", str(port))
    printed, _ = await asyncio.wait_for(process.communicate(), 60)
    server.close()
    assert process.returncode == 1
    assert f"port {port} is in use" in " ".join(printed.decode().split())
    assert not (tmp_path / "mongo").exists()
