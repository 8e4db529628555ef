"""An app served by a real uvicorn in a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

RAN_OUT = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(port: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + RAN_OUT
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert process.poll() is None, process.stdout.read() if process.stdout else ""
            assert time.monotonic() < deadline
            time.sleep(0.05)


@dataclass
class Served:
    """A running server."""

    process: subprocess.Popen[str]
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stopped(self) -> str:
        """Stop it; what it has written."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.communicate(timeout=RAN_OUT)[0]


@contextmanager
def served_by(command: list[str], app: str, folder: Path, environment: Mapping[str, str]) -> Iterator[Served]:
    """`command` gets `--port N` and serves `served_app:app`."""
    (folder / "served_app.py").write_text(app)
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, *command, "served_app:app", "--port", str(port)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])},
    )
    try:
        wait_for_port(port, process)
        yield Served(process, port)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=RAN_OUT)


@contextmanager
def served_by_uvicorn(app: str, folder: Path, *options: str, **environment: str) -> Iterator[Served]:
    with served_by(["-m", "uvicorn", *options], app, folder, environment) as server:
        yield server
