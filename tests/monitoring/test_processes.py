"""Several processes of one instance: their figures are summed, and those of the dead go as far as they should."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from smriti_scale.monitoring.multiprocess import VARIABLE, alive, forget_the_dead

pytestmark = pytest.mark.long

WORKER = """
import asyncio, sys
from smriti_scale.monitoring import Monitoring
from smriti_scale.monitoring.exposition import Exposition

monitoring = Monitoring()
metrics = monitoring.metrics
asyncio.run(monitoring.look())
for line in sys.stdin:
    match line.split():
        case ["serve", count]:
            for _ in range(int(count)):
                metrics.http_requests["GET", "/", "200"].inc()
                metrics.http_duration["GET", "/"].observe(0.03)
        case ["begin"]:
            metrics.http_in_progress.inc()
            metrics.mongo_pool["a:1", "in_use"].set(4)
            metrics.breaker_state[("limiter",)].set(2)
        case ["depth", depth]:
            metrics.queue_depth[("default",)].set(int(depth))
        case ["show"]:
            page, _ = asyncio.run(Exposition(metrics).render())
            print(page.decode() + "# end", flush=True)
            continue
    print("done", flush=True)
"""


class Worker:
    """One process with a monitoring of its own."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            env={**os.environ, VARIABLE: str(folder), "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.do("nothing")

    def do(self, command: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        lines: list[str] = []
        for line in self.process.stdout:
            if line in ("done\n", "# end\n"):
                return "".join(lines)
            lines.append(line)
        raise AssertionError("the worker died")

    def figures(self) -> dict[str, float]:
        lines = [line for line in self.do("show").splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def kill(self, *, reap: bool = True) -> None:
        self.process.send_signal(signal.SIGKILL)
        if reap:
            self.process.wait(30)
        else:  # a zombie: it has ended, and its parent has not looked
            os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)


@contextmanager
def workers(folder: Path, count: int) -> Iterator[list[Worker]]:
    made = [Worker(folder) for _ in range(count)]
    try:
        yield made
    finally:
        for worker in made:
            worker.process.kill()
            worker.process.communicate()


REQUESTS = 'scale_http_requests_total{method="GET",route="/",status="200"}'
IN_USE = 'scale_mongo_pool_connections{node="a:1",state="in_use"}'
BREAKER = 'scale_breaker_state{breaker="limiter"}'
DEPTH = 'scale_queue_depth{queue="default"}'


def test_any_process_shows_the_figures_of_all(tmp_path: Path) -> None:
    with workers(tmp_path / "made by the first", 3) as (one, two, three):
        for worker, count in ((one, 1), (two, 10), (three, 100)):
            worker.do(f"serve {count}")
            worker.do("begin")
        one.do("depth 9")
        two.do("depth 5")
        for worker in (one, three):
            figures = worker.figures()
            assert figures[REQUESTS] == 111
            assert figures['scale_http_request_duration_seconds_count{method="GET",route="/"}'] == 111
            assert figures['scale_http_request_duration_seconds_bucket{le="0.05",method="GET",route="/"}'] == 111
            assert figures["scale_http_requests_in_progress"] == 3
            assert figures[IN_USE] == 12
            assert figures[BREAKER] == 2  # of one truth, the worst
            assert figures[DEPTH] == 5  # of one truth, the latest
            assert 0 < figures["scale_memory_used_ratio"] < 1
            assert not any("pid=" in name for name in figures)


@pytest.mark.parametrize("reap", [True, False], ids=["reaped", "zombie"])
def test_of_a_killed_process_only_what_was_counted_stays(tmp_path: Path, reap: bool) -> None:
    with workers(tmp_path, 2) as (living, dead):
        living.do("serve 1")
        dead.do("serve 10")
        dead.do("begin")
        resident = living.figures()["scale_process_resident_bytes"]
        assert living.figures()["scale_http_requests_in_progress"] == 1
        dead.kill(reap=reap)
        figures = living.figures()
        assert figures["scale_http_requests_in_progress"] == 0
        assert IN_USE not in figures
        assert BREAKER not in figures
        assert figures[REQUESTS] == 11
        assert 0 < figures["scale_process_resident_bytes"] < resident
        assert not [file.name for file in tmp_path.glob(f"gauge_live*_{dead.process.pid}.db")]


def test_a_process_that_gets_a_dead_ones_id_begins_with_nothing_in_progress(tmp_path: Path) -> None:
    with workers(tmp_path, 2) as (living, dead):
        dead.do("begin")
        dead.kill()
        left = tmp_path / f"gauge_livesum_{dead.process.pid}.db"
        code = (
            "import os, sys\nfrom pathlib import Path\n"
            f"os.rename({str(left)!r}, Path({str(tmp_path)!r}) / f'gauge_livesum_{{os.getpid()}}.db')\n"
            "from smriti_scale.monitoring import Metrics\n"
            "print(Metrics().gathered().get_sample_value('scale_http_requests_in_progress'))"
        )
        ran = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, VARIABLE: str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
        )
        assert ran.stdout == "0.0\n", ran.stderr
        assert living.figures()["scale_http_requests_in_progress"] == 0


@pytest.mark.parametrize("late", [True, False], ids=["set too late", "taken away"])
def test_a_folder_named_too_late_is_an_error_rather_than_half_the_figures(tmp_path: Path, late: bool) -> None:
    change = f"os.environ[{VARIABLE!r}] = {str(tmp_path)!r}" if late else f"del os.environ[{VARIABLE!r}]"
    code = (
        f"import os, prometheus_client\n{change}\n"
        "from smriti_scale.errors import ConfigurationError\nfrom smriti_scale.monitoring import Metrics\n"
        "try:\n    Metrics()\nexcept ConfigurationError as error:\n    print(error)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    if not late:
        environment[VARIABLE] = str(tmp_path)
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert re.search(r"set it before the program starts", ran.stdout), ran.stderr


def test_only_the_gauges_of_the_dead_are_removed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    here = os.getpid()
    names = [f"gauge_livesum_{here}.db", f"counter_{gone.pid}.db", "gauge_livesum_x.db", "notes.txt"]
    for name in [*names, f"gauge_livesum_{gone.pid}.db", f"gauge_livemostrecent_{gone.pid}.db"]:
        (tmp_path / name).touch()
    forget_the_dead(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(names)
    assert alive(here)
    assert not alive(gone.pid)
