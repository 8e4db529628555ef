"""One server process: started through its guardian, watched, told to stop. No event loop is needed or touched."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from smriti_scale.errors import LocalServerError
from smriti_scale.local import _guardian
from smriti_scale.local.diagnosis import diagnose
from smriti_scale.local.folder import DataFolder

_STANDSTILL = 5.0

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
        self._began, self._ended = threading.Event(), threading.Event()
        self._speaking = threading.Lock()

    def spawn(self, command: list[str]) -> None:
        """Start the command. Returns once it has a process id, not once it is ready."""
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".log.old"))
        self.pid = self.returncode = None
        self.paused = False
        self._began, self._ended = threading.Event(), threading.Event()
        temporary = os.fspath(self._folder.path) if self._folder.temporary else ""
        arguments = [os.fspath(self._record), temporary, str(_GRACE), os.fspath(self.log), *command]
        self._guardian = subprocess.Popen(  # noqa: S603 - our own script, and a binary the user chose
            [sys.executable, "-I", "-S", _guardian.__file__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C in a terminal goes to the whole group: the parent stops us in order
        )
        threading.Thread(target=self._follow, args=(self._guardian,), name=f"{self.name}-guardian", daemon=True).start()
        if not self._began.wait(30.0):
            self.stop(now=True)
            raise LocalServerError(f"{self.name}: no process after 30 s; is the machine overloaded?")

    def alive(self) -> bool:
        """Whether the server runs (paused counts as running)."""
        return self._guardian is not None and not self._ended.is_set()

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
        """SIGSTOP: connections stay open and nothing is answered. Returns once the server stands still; blocks."""
        self._order(_guardian.PAUSE)
        self.paused = True
        self._await_stop()

    def resume(self) -> None:
        """SIGCONT."""
        self._order(_guardian.RESUME)
        self.paused = False

    def _await_stop(self) -> None:
        """The guardian passes the signal on, and the kernel acts on it a moment later. Other systems than Linux do
        not tell the state of a process; there the moment has to do."""
        deadline = time.monotonic() + _STANDSTILL
        while self.alive() and time.monotonic() < deadline:
            try:
                state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                time.sleep(_STANDSTILL / 20)
                return
            if state in "Tt":
                return
            time.sleep(0.001)

    def begin_stop(self, *, now: bool = False) -> None:
        """Ask the server to end, without waiting: several servers then stop side by side."""
        self._order(_guardian.KILL if now else _guardian.TERMINATE)
        self._order(_guardian.RESUME)

    def stop(self, *, now: bool = False) -> None:
        """End the server and wait until it has ended; killed at once (`now`) or after a grace of 10 s."""
        if self._guardian is None:
            return
        self.begin_stop(now=now)
        if self._ended.wait(_GRACE):
            return
        self._order(_guardian.KILL)
        if not self._ended.wait(_GRACE):
            self._guardian.kill()  # it hangs, and its death is the server's too
            self._ended.wait()

    def _order(self, order: bytes) -> None:
        with self._speaking:
            if self._guardian is not None and self._guardian.stdin is not None and not self._guardian.stdin.closed:
                with contextlib.suppress(BrokenPipeError):
                    self._guardian.stdin.write(order)

    def _follow(self, guardian: subprocess.Popen[bytes]) -> None:
        """In a thread: take in what the guardian says until it ends, then leave neither a zombie nor an open pipe."""
        if guardian.stdin is None or guardian.stdout is None:
            return
        with guardian.stdout as said:
            for line in said:
                word, _, number = line.partition(b" ")
                if word == b"pid":
                    self.pid = int(number)
                    self._began.set()
                elif word == b"exit":
                    self.returncode = int(number)
        with self._speaking:
            guardian.stdin.close()
        guardian.wait()
        self._ended.set()
        self._began.set()


def stop_all(processes: list[ServerProcess], *, now: bool) -> None:
    """Stop the servers side by side."""
    for process in processes:
        process.begin_stop(now=now)
    for process in processes:
        process.stop(now=now)
