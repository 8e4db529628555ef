"""Why a server died, read from its exit code and its own words. Pure: text in, error out."""

from __future__ import annotations

import json
import re
from pathlib import Path

from smriti_scale.errors import DataVersionMismatch, LocalServerError, MissingSharedLibrary, PortTaken

_LIBRARY = re.compile(r"error while loading shared libraries: (\S+?): cannot open|Library not loaded: (\S+)")
_VERSION = re.compile(
    r"UPGRADE PROBLEM|invalid featureCompatibilityVersion|unsupported WiredTiger file version|"
    r"WiredTiger version incompatible|requires a newer version|not compatible with the current version|"
    r"Can't handle RDB format version",
    re.IGNORECASE,
)
_TAKEN = re.compile(r"Address already in use|bind: Address", re.IGNORECASE)
_REDIS_LINE = re.compile(r"^\d+:[A-Z] \d+ \w+ \d+ [\d:.]+ (?P<level>[.*#-]) (?P<text>.*)")
_MONGOD_ADDRESS_IN_USE, _MONGOD_NEEDS_DOWNGRADE = 48, 62

_DEBIAN_PACKAGES = {
    "libcurl.so.4": "libcurl4",
    "libssl.so.3": "libssl3",
    "libcrypto.so.3": "libssl3",
    "libssl.so.1.1": "libssl1.1",
    "libcrypto.so.1.1": "libssl1.1",
    "liblzma.so.5": "liblzma5",
    "libresolv.so.2": "libc6",
    "libgssapi_krb5.so.2": "libgssapi-krb5-2",
    "libsystemd.so.0": "libsystemd0",
    "libatomic.so.1": "libatomic1",
    "libjemalloc.so.2": "libjemalloc2",
}


def diagnose(name: str, returncode: int | None, output: str, *, log: Path) -> LocalServerError:
    """The error that says why a server died.

    Args:
        name: the server, for the sentence.
        returncode: its exit code; negative for a signal.
        output: what it wrote, its loader's messages included.
        log: where that is kept.
    """
    if missing := _LIBRARY.search(output):
        library = Path(missing[1] or missing[2]).name
        package = _DEBIAN_PACKAGES.get(library)
        cure = (
            f"on Debian and Ubuntu: apt-get install {package}"
            if package
            else f"install the package that has it (Debian and Ubuntu: apt-file search {library})"
        )
        return MissingSharedLibrary(f"{name} cannot run, the shared library {library} is missing; {cure}")
    told = "\n".join(f"  {line}" for line in telling_lines(output)) or "  (nothing written)"
    if returncode == _MONGOD_ADDRESS_IN_USE or _TAKEN.search(output):
        return PortTaken(f"{name} found its port in use:\n{told}")
    if returncode == _MONGOD_NEEDS_DOWNGRADE or _VERSION.search(output):
        return DataVersionMismatch(
            f"{name} cannot read {log.parent}: it was written by another version of the server. Start that version, "
            f"or delete the folder to begin anew:\n{told}"
        )
    end = f"died of signal {-returncode}" if returncode is not None and returncode < 0 else f"ended with {returncode}"
    return LocalServerError(f"{name} {end}; its last words, from {log}:\n{told}")


def telling_lines(output: str, *, count: int = 6) -> list[str]:
    """The last lines that tell something, as plain text: of mongod's JSON log the errors, of Redis's the warnings;
    whatever else there is when they hold none.
    """
    lines = output.splitlines()
    told = list(dict.fromkeys(plain for line in lines if (plain := _plain(line))))
    return (told or [line.strip() for line in lines if line.strip()])[-count:]


def _plain(line: str) -> str:
    if routine := _REDIS_LINE.match(line):
        return routine["text"] if routine["level"] == "#" and "WARNING" not in routine["text"] else ""
    try:
        entry = json.loads(line)
    except ValueError:
        return line.strip()
    if not isinstance(entry, dict) or entry.get("s") not in ("E", "F"):
        return ""
    attributes = entry.get("attr") or {}
    detail = attributes.get("message") or attributes.get("error") or attributes.get("reason") or ""
    if isinstance(detail, dict):
        detail = detail.get("msg") or detail.get("errmsg") or json.dumps(detail)
    return f"{entry.get('msg', '')}{f': {detail}' if detail else ''}".strip()
