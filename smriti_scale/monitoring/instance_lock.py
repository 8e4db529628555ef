"""Of all worker processes of one instance, one tells the alerts."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from smriti_scale.errors import ConfigurationError

_log = logging.getLogger("smriti_scale.monitoring")

NAME = "scale-alerts.lock"


class InstanceLock:
    """A lock file that one process holds until it ends, however it ends; then another takes it.

    It is `flock(2)`, so it holds among the processes of one machine and vanishes with its holder. It does not outlive a
    fork: a child asks for itself.

    Args:
        directory: where the file is made; all processes of the instance name the same one.
    """

    def __init__(self, directory: str | Path) -> None:
        self.path = Path(directory) / NAME
        self._file = -1
        self._owner = 0

    @classmethod
    def from_environment(cls) -> InstanceLock | None:
        """In `PROMETHEUS_MULTIPROC_DIR`, where prometheus_client keeps all processes' figures; None where it is unset:
        then each process stands for itself."""
        directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        return cls(directory) if directory else None

    @property
    def held(self) -> bool:
        """Whether this process holds it."""
        return self._file >= 0 and self._owner == os.getpid()

    def acquire(self) -> bool:
        """Take the lock if it is free; never waits. True while this process holds it.

        Raises:
            ConfigurationError: the file cannot be made.
        """
        if self.held:
            return True
        import fcntl  # not on Windows, where prometheus_client has no processes to sum either

        if self._file >= 0:  # inherited by fork: the open file is the parent's, and so is its lock
            os.close(self._file)
            self._file = -1
        try:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(f"the lock file {self.path} cannot be made: {error.strerror}") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            return False
        self._file, self._owner = file, os.getpid()
        _log.info("this process tells the alerts of its instance", extra={"lock": str(self.path)})
        return True

    def release(self) -> None:
        """Give it up, if this process holds it."""
        if self.held:
            os.close(self._file)
        self._file = -1
