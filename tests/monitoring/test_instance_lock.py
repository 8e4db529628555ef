"""One process of an instance tells the alerts."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from smriti_scale.errors import ConfigurationError
from smriti_scale.monitoring import Alerts, Finding, InstanceLock, Notice
from smriti_scale.testing import ManualClock
from tests.monitoring.sinks import until

HOLDER = textwrap.dedent("""
    import sys
    from smriti_scale.monitoring import InstanceLock
    print(InstanceLock(sys.argv[1]).acquire(), flush=True)
    sys.stdin.read()
""")


def holder(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_one_holds_it_and_when_it_is_killed_the_next_takes_it(tmp_path: Path) -> None:
    lock = InstanceLock(tmp_path)
    with holder(tmp_path) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        assert not lock.acquire()
        assert not lock.held
        other.kill()
        other.wait()
    assert lock.acquire()
    assert lock.acquire()
    assert not InstanceLock(tmp_path).acquire()
    lock.release()
    assert InstanceLock(tmp_path).acquire()


def test_a_forked_child_does_not_think_that_it_holds_it(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import os, sys
        from smriti_scale.monitoring import InstanceLock
        lock = InstanceLock(sys.argv[1])
        assert lock.acquire()
        child = os.fork()
        if child == 0:
            os._exit(10 * lock.held + lock.acquire())
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert lock.held and not InstanceLock(sys.argv[1]).acquire()
    """)
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, timeout=60)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be made"):
        InstanceLock(tmp_path / "absent").acquire()


def test_alone_there_is_no_lock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    assert InstanceLock.from_environment() is None
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    lock = InstanceLock.from_environment()
    assert lock is not None
    assert lock.path.parent == tmp_path


async def test_of_two_processes_one_tells_and_the_other_goes_on_where_it_left_off(tmp_path: Path) -> None:
    told: list[tuple[str, str, str]] = []
    clock = ManualClock()

    def alerts_of(process: str) -> Alerts:
        async def remember(notice: Notice) -> None:
            told.append((process, notice.kind, notice.alert.key))

        return Alerts([remember], lock=InstanceLock(tmp_path), clock=clock)

    first, second = alerts_of("first"), alerts_of("second")
    await first.start()
    await second.start()
    for alerts in (first, second):
        alerts.raise_alert(Finding("x", "page", "x"))
        alerts.observe()
    await until(lambda: told)
    assert [len(alerts.active()) for alerts in (first, second)] == [1, 1]  # both can show it
    await first.aclose()
    second.observe()
    second.raise_alert(Finding("y", "page", "y"))
    second.observe()
    await until(lambda: len(told) == 2)
    await second.aclose()
    assert told == [("first", "raised", "x"), ("second", "raised", "y")]
