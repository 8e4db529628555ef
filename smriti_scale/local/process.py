"""One server process: started through its guardian, watched, told to stop. No event loop is needed or touched."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path

from smriti_scale.errors import LocalServerError
from smriti_scale.local import _guardian
from smriti_scale.local.diagnosis import diagnose
from smriti_scale.local.folder import DataFolder

_GRACE = 10.0
"""Seconds a server gets to stop by itself before it is killed."""


class ServerProcess:
    """A server that lives in one folder and is known by one name there.

    Args:
        name: for its log and pid record, for instance `"mongod-0"`.
        folder: the locked data folder.
    """

    def __init__(self, name: str, folder: DataFolder) -> None:
        self.name = name
        self.log = folder.path / f"{name}.log"
        self.pid: int | None = None
        self.returncode: int | None = None
        self.paused = False
        self._folder = folder
        self._record = folder.path / f"{name}.pid.json"
        self._guardian: subprocess.Popen[bytes] | None = None
        self._heard = b""
        self._mutex = threading.RLock()  # faults are injected from worker threads

    def spawn(self, command: list[str]) -> None:
        """Start the command. Returns once it has a process id, not once it is ready."""
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".log.old"))
        self.pid = self.returncode = None
        self.paused, self._heard = False, b""
        self._guardian = subprocess.Popen(
            [
                *(sys.executable or "python3", "-I", "-S", _guardian.__file__),
                *(os.fspath(self._record), os.fspath(self._folder.path) if self._folder.temporary else ""),
                *(str(_GRACE), os.fspath(self.log)),
                *command,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C in a terminal goes to the whole group: the parent stops us in order
        )
        deadline = time.monotonic() + 30.0
        while self.pid is None and self.returncode is None:
            self._listen(0.1)
            if time.monotonic() > deadline:
                self.stop(now=True)
                raise LocalServerError(f"{self.name}: no process after 30 s; is the machine overloaded?")

    def alive(self) -> bool:
        """Whether the server runs (paused counts as running)."""
        self._listen(0.0)
        return self._guardian is not None

    def require_alive(self) -> None:
        """
        Raises:
            LocalServerError: the server has died; of the kind that says why, with the log's telling lines.
        """
        if not self.alive():
            raise diagnose(self.name, self.returncode, self.output(), log=self.log)

    def output(self) -> str:
        """What the server has written since it was started."""
        try:
            return self.log.read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing is answered."""
        self._order(_guardian.PAUSE)
        self.paused = True

    def resume(self) -> None:
        """SIGCONT."""
        self._order(_guardian.RESUME)
        self.paused = False

    def stop(self, *, now: bool = False) -> None:
        """End the server and wait until it has ended; killed at once (`now`) or after a grace of 10 s."""
        self.begin_stop(now=now)
        self._await_exit(_GRACE)
        if self._guardian is not None:
            self._order(_guardian.KILL)
            self._await_exit(30.0)
        if self._guardian is not None:  # the guardian hangs: the parent-death signal ends the server with it
            self._guardian.kill()
            self._close()

    def begin_stop(self, *, now: bool = False) -> None:
        """Ask the server to end, without waiting: several servers then stop side by side."""
        self._order(_guardian.KILL if now else _guardian.TERMINATE)
        self._order(_guardian.RESUME)

    def _order(self, order: bytes) -> None:
        with self._mutex:
            if self._guardian is not None and self._guardian.stdin is not None:
                with contextlib.suppress(BrokenPipeError):
                    self._guardian.stdin.write(order)

    def _await_exit(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._guardian is not None and (left := deadline - time.monotonic()) > 0:
            self._listen(left)

    def _listen(self, seconds: float) -> None:
        """Take in what the guardian says, waiting at most so long for it."""
        with self._mutex:
            if self._guardian is None or self._guardian.stdout is None:
                return
            poll = select.poll()
            poll.register(self._guardian.stdout, select.POLLIN)
            if not poll.poll(seconds * 1000):
                return
            said = os.read(self._guardian.stdout.fileno(), 512)
            *lines, self._heard = (self._heard + said).split(b"\n")
            for line in lines:
                word, _, number = line.partition(b" ")
                if word == b"pid":
                    self.pid = int(number)
                elif word == b"exit":
                    self.returncode = int(number)
            if not said or self.returncode is not None:
                self._close()

    def _close(self) -> None:
        """Reap the guardian and drop its pipes, so that neither a zombie nor an open file is left."""
        guardian, self._guardian = self._guardian, None
        if guardian is None:
            return
        if self.returncode is None:
            self.returncode = -9
        for pipe in (guardian.stdin, guardian.stdout):
            if pipe is not None:
                pipe.close()
        try:
            guardian.wait(10.0)
        except subprocess.TimeoutExpired:
            guardian.kill()
            guardian.wait()


def stop_all(processes: list[ServerProcess], *, now: bool) -> None:
    """Stop the servers side by side."""
    for process in processes:
        process.begin_stop(now=now)
    for process in processes:
        process.stop(now=now)


def log_lines(path: Path, count: int) -> list[str]:
    """The last lines of a log that may not exist."""
    try:
        return path.read_text(errors="replace").splitlines()[-count:]
    except FileNotFoundError:
        return []
