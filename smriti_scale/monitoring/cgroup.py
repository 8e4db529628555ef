"""What the kernel's files say about memory and CPU: pure readers of their text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_UNLIMITED = 1 << 60
"""Version 1 writes "no limit" as a number near 2⁶³."""


@dataclass(frozen=True, slots=True)
class Membership:
    """The groups of a process, from `/proc/self/cgroup`.

    Attributes:
        unified: its path in the version 2 hierarchy; None without one.
        controllers: its path by version 1 controller (`memory`, `cpu`, `cpuacct`).
    """

    unified: str | None
    controllers: Mapping[str, str]


def membership(text: str) -> Membership:
    """Read `/proc/self/cgroup`: a line is `id:controllers:path`, and `0::path` that of version 2."""
    unified: str | None = None
    controllers: dict[str, str] = {}
    for line in text.splitlines():
        identifier, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if identifier == "0" and not names:
            unified = path
        for name in filter(None, names.split(",")):
            controllers[name] = path
    return Membership(unified, controllers)


def ancestry(path: str) -> list[str]:
    """The path and all above it, the nearest first: a limit of any of them binds. `/a/b` → `/a/b`, `/a`, ``."""
    parts = [part for part in path.split("/") if part and part != ".."]
    return ["/".join(["", *parts[:end]]) for end in range(len(parts), -1, -1)]


def limit(text: str) -> int | None:
    """A limit in bytes: `max`, and version 1's huge number, are none."""
    text = text.strip()
    if text == "max":
        return None
    value = int(text)
    return value if 0 <= value < _UNLIMITED else None


def fields(text: str) -> dict[str, int]:
    """Files of `name value` lines: `memory.stat`, `cpu.stat`; and `/proc/meminfo` (kB are made bytes)."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        parts = line.split()
        if len(parts) >= 2 and parts[1].isdigit():
            found[parts[0].rstrip(":")] = int(parts[1]) * (1024 if parts[-1] == "kB" else 1)
    return found


def quota(text: str) -> float | None:
    """CPUs allowed, from `cpu.max` (`50000 100000`, `max 100000`) or version 1's two numbers in one text."""
    parts = text.split()
    if len(parts) < 2 or parts[0] in ("max", "-1") or int(parts[1]) <= 0:
        return None
    return int(parts[0]) / int(parts[1])


def working_set(usage: int, inactive_file: int) -> int:
    """Memory in use without the file cache that the kernel would give up first, as Kubernetes counts it."""
    return max(0, usage - inactive_file)


def machine_cpu(text: str) -> tuple[int, int]:
    """Ticks busy and in all, over all CPUs, from the first line of `/proc/stat`. Waiting for a disk is idle."""
    numbers = [int(part) for part in text.splitlines()[0].split()[1:9]]
    idle = numbers[3] + numbers[4]
    return sum(numbers) - idle, sum(numbers)


def resident(text: str, page_size: int) -> int:
    """Resident bytes, from `/proc/self/statm`."""
    return int(text.split()[1]) * page_size
