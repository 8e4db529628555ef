"""What holds for the whole suite."""

from __future__ import annotations

import contextlib
import threading

import pytest

from smriti_scale.errors import LocalServerError
from smriti_scale.testing.plugin import _SERVERS

_starting = pytest.StashKey[threading.Thread]()


def pytest_make_parametrize_id(val: object) -> str | None:
    """Long bytes are named by their length: a zip holds the time it was made, and workers must agree on names."""
    return f"{len(val)} bytes" if isinstance(val, bytes) and len(val) > 24 else None


def pytest_sessionstart(session: pytest.Session) -> None:
    """Where there are workers, start the servers while those collect: nearly every test waits for one."""
    config = session.config
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None) or config.option.collectonly:
        return

    def start() -> None:
        with contextlib.suppress(LocalServerError):  # kept for the tests that ask
            config.stash[_SERVERS].mongo()
            config.stash[_SERVERS].redis()

    config.stash[_starting] = threading.Thread(target=start, name="starts the servers")
    config.stash[_starting].start()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Servers are stopped after this: not while they start."""
    if (thread := session.config.stash.get(_starting, None)) is not None:
        thread.join()
