"""A data folder that one process owns at a time, and in which nothing of a killed owner stays alive."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

from smriti_scale.errors import LocalServerError
from smriti_scale.local._guardian import identity

_LOCK = "owner.lock"
_RECORDS = "*.pid.json"
_PREFIX = "smriti-scale-"


class DataFolder:
    """A folder under lock, made when absent. A temporary one is deleted when released.

    Args:
        path: the folder; None makes a temporary one.

    Raises:
        LocalServerError: another living process owns the folder, or it cannot be made.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.temporary = path is None
        try:
            if path is None:
                _sweep(Path(tempfile.gettempdir()))
                self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
            else:
                self.path = Path(path).absolute()
                self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise LocalServerError(f"the data folder {path} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.read(self._lock, 32).decode() or "unknown"
            os.close(self._lock)
            raise LocalServerError(
                f"the data folder {self.path} is in use by process {owner}: stop it, or choose another folder"
            ) from None
        os.truncate(self._lock, 0)
        os.write(self._lock, str(os.getpid()).encode())
        try:
            for record in sorted(self.path.rglob(_RECORDS)):
                _reap(record)
        except BaseException:
            os.close(self._lock)
            raise

    def release(self) -> None:
        """Give the folder up; delete it if it is temporary."""
        if self.temporary:
            shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _sweep(folder: Path) -> None:
    """Remove temporary folders of programs that were killed together with their guardians, and what runs in them."""
    for left in folder.glob(f"{_PREFIX}*"):
        try:
            if left.is_symlink() or left.stat().st_uid != os.geteuid():
                continue
            lock = os.open(left / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            if not os.fstat(lock).st_size:
                continue  # its owner has made it this moment, is about to lock it, and must find it free
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for record in sorted(left.glob(_RECORDS)):
                _reap(record)
            shutil.rmtree(left, ignore_errors=True)
        except OSError:
            pass  # in use
        finally:
            os.close(lock)


def _reap(record: Path) -> None:
    """End what a killed owner left running. The lock is ours, so no living owner is robbed of its server."""
    try:
        left = json.loads(record.read_text())
        processes = [(int(left[role]["pid"]), left[role]["identity"]) for role in ("server", "guardian")]
    except (OSError, ValueError, KeyError, TypeError):
        record.unlink(missing_ok=True)
        return
    if _lives(*processes[0]):
        for number in (signal.SIGTERM, signal.SIGCONT):
            _signal(processes[0][0], number)
    # The guardian, if it lives, is about to end too, and would take a new server's record with it if not awaited.
    for (pid, known), patience in zip(processes, (15.0, 2.0), strict=True):
        deadline = time.monotonic() + patience
        while _lives(pid, known):
            if time.monotonic() > deadline:
                _signal(pid, signal.SIGKILL)
                deadline = float("inf")
            time.sleep(0.02)
    record.unlink(missing_ok=True)


def _lives(pid: int, known: str | None) -> bool:
    """Whether that very process runs: its id and its start time agree, so a stranger is never taken for it."""
    return known is not None and identity(pid) == known


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
