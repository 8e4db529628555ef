"""A small process that stands between its parent and one server, so that the server ends whenever the parent does.

Run as a script, never imported by it: `python -I -S _guardian.py RECORD REMOVE GRACE OUTPUT COMMAND…`. It starts
COMMAND, writes both process ids to RECORD, and then waits. Its stdin is a pipe from the parent: bytes on it are orders,
its end means that the parent is gone, however that came about (SIGKILL included), and the server is stopped. A library
cannot do this with signal handlers without taking them from the application, and Linux's parent-death signal alone
fires when the starting *thread* ends. It is single-threaded, so its own fork is safe.

It imports only the standard library and little of that: it starts in about 30 ms and holds about 9 MB.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from pathlib import Path

TERMINATE, KILL, PAUSE, RESUME = b"t", b"k", b"p", b"r"
_SIGNALS = {TERMINATE: signal.SIGTERM, KILL: signal.SIGKILL, PAUSE: signal.SIGSTOP, RESUME: signal.SIGCONT}
_PR_SET_PDEATHSIG = 1
_LOOK_FOR_PARENT = 1.0
"""Seconds between looks at the parent's id: a child that the parent forked may hold the pipe open after its death."""


def identity(pid: int) -> str | None:
    """What tells this process from a later one with the same id: its start time. None when it does not run."""
    try:
        if sys.platform == "linux":
            # The name (field 2) may hold spaces and brackets; fields are counted after its last bracket.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            return None if fields[0] == "Z" else fields[19]
        import subprocess

        asked = ["/bin/ps", "-o", "lstart=", "-p", str(pid)]
        seen = subprocess.run(asked, capture_output=True, text=True, check=False)  # noqa: S603 - fixed words and a number
        return seen.stdout.strip() or None
    except OSError:
        return None


def _parent_death_signal() -> object:
    """libc's prctl on Linux, looked up before the fork; None elsewhere."""
    if sys.platform != "linux":
        return None
    import ctypes

    return ctypes.CDLL(None).prctl


def _become(command: list[str], output: str, guardian: int, prctl: object) -> None:
    """In the forked child: turn into the server. Does not return."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        if callable(prctl):
            prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
            if os.getppid() != guardian:
                os._exit(125)
        null = os.open(os.devnull, os.O_RDONLY)
        log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.execv(command[0], command)  # noqa: S606 - no shell is wanted
    except OSError as error:
        os.write(2, f"cannot run {command[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def main(record: str, remove: str, grace: float, output: str, command: list[str]) -> int:
    """Start the server, obey the parent, and outlive the server; see the module."""
    parent, guardian = os.getppid(), os.getpid()
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    os.set_blocking(0, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    asked: list[int] = []
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(ignored, signal.SIG_IGN)

    prctl = _parent_death_signal()
    # A SIGTERM for the server that comes while it still is our copy must wait, and not be taken by our own handler.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    server = os.fork()
    if server == 0:
        _become(command, output, guardian, prctl)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    Path(f"{record}.new").write_text(
        json.dumps(
            {
                "server": {"pid": server, "identity": identity(server)},
                "guardian": {"pid": guardian, "identity": identity(guardian)},
            }
        )
    )
    Path(f"{record}.new").replace(record)
    _tell(f"pid {server}\n")

    stopping, orphaned, deadline = False, False, float("inf")
    while True:
        ended, status = os.waitpid(server, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > deadline:
            os.kill(server, signal.SIGKILL)
            deadline = float("inf")
        watched = [woken] if orphaned else [woken, 0]
        patience = min(_LOOK_FOR_PARENT, max(0.0, deadline - time.monotonic()))
        ready, _, _ = select.select(watched, [], [], patience)
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(woken, 512)
        if 0 in ready:
            orders = os.read(0, 512)
            orphaned = not orders
            for order in orders:
                os.kill(server, _SIGNALS[bytes([order])])
        orphaned = orphaned or os.getppid() != parent
        if (orphaned or asked) and not stopping:
            stopping, deadline = True, time.monotonic() + grace
            # An orphan's temporary folder is about to go: nothing in it is worth a clean shutdown.
            os.kill(server, signal.SIGKILL if orphaned and remove else signal.SIGTERM)
            os.kill(server, signal.SIGCONT)

    Path(record).unlink(missing_ok=True)
    if orphaned and remove:
        import shutil

        shutil.rmtree(remove, ignore_errors=True)
    _tell(f"exit {os.waitstatus_to_exitcode(status)}\n")
    return 0


def _tell(line: str) -> None:
    """Report to the parent, if it is still there."""
    with contextlib.suppress(OSError):
        os.write(1, line.encode())


if __name__ == "__main__":
    _, _record, _remove, _grace, _output, *_command = sys.argv
    sys.exit(main(_record, _remove, float(_grace), _output, _command))
