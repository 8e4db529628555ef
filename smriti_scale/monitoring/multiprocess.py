"""Several processes of one instance: prometheus_client keeps their figures in files, by process id, and sums them.

A process that was killed leaves the files of its gauges behind. Nobody but a parent hears of a death, so whoever
reads first looks which processes still live.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smriti_scale.errors import ConfigurationError

if TYPE_CHECKING:
    from prometheus_client import Metric

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

_LIVE_GAUGES = re.compile(r"^gauge_live[a-z]*_(\d+)\.db$")


def shared_folder() -> Path | None:
    """Where the processes' figures are; None when this process keeps its own in memory.

    prometheus_client decides by the environment, once, when it is imported.

    Raises:
        ConfigurationError: the variable has been set since then, or taken away.
    """
    from prometheus_client import values

    named = os.environ.get(VARIABLE)
    shares = values.ValueClass.__name__ == "MmapedValue"
    if shares != bool(named):
        raise ConfigurationError(
            f"{VARIABLE} was {'not ' if named else ''}set when prometheus_client was imported, and is "
            f"{'' if named else 'not '}now: set it before the program starts"
        )
    return Path(named) if named else None


def alive(pid: int) -> bool:
    """Whether a process runs. One that has ended and was not yet waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return False
    except (OSError, IndexError):
        return True
    else:
        return state not in ("Z", "X")
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def forget_the_dead(folder: Path) -> None:
    """Remove the gauges of processes that are gone; what they counted stays, since counters never go back."""
    known: dict[str, bool] = {}
    for file in folder.iterdir():
        match = _LIVE_GAUGES.match(file.name)
        if match is None:
            continue
        pid = match[1]
        if pid not in known:
            known[pid] = alive(int(pid))
        if not known[pid]:
            file.unlink(missing_ok=True)  # another process may have been faster


class SharedCollector:
    """What all processes together have, the living and, for counters, the dead."""

    def __init__(self, folder: Path) -> None:
        from prometheus_client.multiprocess import MultiProcessCollector

        self._folder = folder
        self._collector: Any = MultiProcessCollector(None, str(folder))  # type: ignore[no-untyped-call]

    def collect(self) -> Iterable[Metric]:
        """Read the files. Takes milliseconds: not on the event loop."""
        forget_the_dead(self._folder)
        metrics: Iterable[Metric] = self._collector.collect()
        return metrics
