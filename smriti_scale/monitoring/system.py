"""Memory and CPU as what may be used up: the container's where it has a limit, the machine's where not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from smriti_scale.clock import SYSTEM_CLOCK, Clock
from smriti_scale.monitoring import cgroup

_ROOT = Path("/")


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory in use and there is, in bytes; `of` tells whose: `container` or `machine`."""

    used: int
    limit: int
    of: str

    @property
    def ratio(self) -> float:
        """Share in use, 0…1."""
        return self.used / self.limit if self.limit else 0.0


@dataclass(frozen=True, slots=True)
class _CPU:
    """A reading: what was used up and could have been, in one unit that does not matter."""

    used: float
    available: float
    of: str


class System:
    """Reads the kernel's files: cgroup version 2 or 1, else the whole machine's. Not on the event loop.

    Where there are none (macOS, Windows), memory and CPU are unknown.

    Args:
        root: where the file systems are mounted.
        clock: the source of time.
    """

    def __init__(self, root: Path = _ROOT, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._root = root
        self._now = clock.monotonic
        self._membership = cgroup.membership(self._read("proc/self/cgroup") or "")
        self._last = self._cpu()

    def memory(self) -> Memory | None:
        """Memory in use, without file cache that can be given up; None when unknown."""
        machine = self._machine_memory()
        container = self._container_memory()
        # A limit beyond the machine's memory is none.
        if container is not None and (machine is None or container.limit < machine.limit):
            return container
        return machine

    def cpu_ratio(self) -> float | None:
        """Share of CPU time in use since the last call, 0…1; None when unknown."""
        last, self._last = self._last, self._cpu()
        now = self._last
        if last is None or now is None or last.of != now.of or now.available <= last.available:
            return None
        return min(1.0, max(0.0, (now.used - last.used) / (now.available - last.available)))

    def resident_bytes(self) -> int:
        """Memory that this process holds; at its peak where the present is not told."""
        text = self._read("proc/self/statm")
        if text is not None:
            return cgroup.resident(text, os.sysconf("SC_PAGE_SIZE"))
        try:
            import resource
            import sys
        except ImportError:
            return 0
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    # --- memory

    def _container_memory(self) -> Memory | None:
        for folder in self._unified():
            limit = self._number(folder / "memory.max")
            usage = self._number(folder / "memory.current")
            if limit is not None and usage is not None:
                inactive = self._fields(folder / "memory.stat").get("inactive_file", 0)
                return Memory(cgroup.working_set(usage, inactive), limit, "container")
        for folder in self._controller("memory"):
            limit = self._number(folder / "memory.limit_in_bytes")
            usage = self._number(folder / "memory.usage_in_bytes")
            if limit is not None and usage is not None:
                inactive = self._fields(folder / "memory.stat").get("total_inactive_file", 0)
                return Memory(cgroup.working_set(usage, inactive), limit, "container")
        return None

    def _machine_memory(self) -> Memory | None:
        found = self._fields(Path("proc/meminfo"))
        total, available = found.get("MemTotal"), found.get("MemAvailable")
        return None if total is None or available is None else Memory(total - available, total, "machine")

    # --- CPU

    def _cpu(self) -> _CPU | None:
        return self._container_cpu() or self._machine_cpu()

    def _container_cpu(self) -> _CPU | None:
        for folder in self._unified():
            cpus = cgroup.quota(self._read(folder / "cpu.max") or "")
            used = self._fields(folder / "cpu.stat").get("usage_usec")
            if cpus is not None and used is not None:
                return _CPU(used / 1e6, self._now() * cpus, f"{folder}:{cpus}")
        for folder in self._controller("cpu"):
            numbers = [self._read(folder / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period")]
            cpus = cgroup.quota(" ".join(numbers))
            if cpus is None:
                continue
            for accounts in (folder, *self._controller("cpuacct")):
                spent = self._number(accounts / "cpuacct.usage")
                if spent is not None:
                    return _CPU(spent / 1e9, self._now() * cpus, f"{folder}:{cpus}")
        return None

    def _machine_cpu(self) -> _CPU | None:
        text = self._read("proc/stat")
        if text is None:
            return None
        used, available = cgroup.machine_cpu(text)
        return _CPU(used, available, "machine")

    # --- files

    def _unified(self) -> Iterator[Path]:
        """Folders of the process's group and those above it in version 2, the nearest first."""
        path = self._membership.unified
        if path is not None:
            for mount in ("sys/fs/cgroup", "sys/fs/cgroup/unified"):
                for above in cgroup.ancestry(path):
                    yield Path(f"{mount}{above}")

    def _controller(self, name: str) -> Iterator[Path]:
        """The same for a controller of version 1. In a container the path may be the host's, so the mount counts."""
        path = self._membership.controllers.get(name)
        if path is not None:
            for mount in (name, "cpu,cpuacct"):
                for above in cgroup.ancestry(path):
                    yield Path(f"sys/fs/cgroup/{mount}{above}")

    def _number(self, path: Path) -> int | None:
        text = self._read(path)
        try:
            return None if text is None else cgroup.limit(text)
        except ValueError:
            return None

    def _fields(self, path: Path) -> dict[str, int]:
        return cgroup.fields(self._read(path) or "")

    def _read(self, path: str | Path) -> str | None:
        try:
            return (self._root / path).read_text()
        except (OSError, ValueError):
            return None
