"""Memory and CPU, from the kernel's files as containers and machines have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from smriti_scale.monitoring import cgroup
from smriti_scale.monitoring.system import Memory, System
from smriti_scale.testing import ManualClock

MEMINFO = (
    "MemTotal:        8000000 kB\nMemFree:          500000 kB\nMemAvailable:    6000000 kB\nHugePages_Total:       0\n"
)
STAT = "cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 100 0 100 700 100 0 0 0 0 0\n"
V1_UNLIMITED = "9223372036854771712\n"


def tree(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


MACHINE = {"proc/meminfo": MEMINFO, "proc/stat": STAT}
V2 = {
    **MACHINE,
    "proc/self/cgroup": "0::/\n",
    "sys/fs/cgroup/memory.current": "600000000\n",
    "sys/fs/cgroup/memory.max": "1000000000\n",
    "sys/fs/cgroup/memory.stat": "anon 300000000\nfile 250000000\ninactive_file 200000000\n",
    "sys/fs/cgroup/cpu.max": "50000 100000\n",
    "sys/fs/cgroup/cpu.stat": "usage_usec 1000000\nuser_usec 1\n",
}
V1 = {
    **MACHINE,
    "proc/self/cgroup": "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/\n",
    # In the container its group is the mount's root, though the path is the host's.
    "sys/fs/cgroup/memory/memory.usage_in_bytes": "600000000\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "1000000000\n",
    "sys/fs/cgroup/memory/memory.stat": "inactive_file 5\ntotal_inactive_file 200000000\n",
    "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
    "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
    "sys/fs/cgroup/cpuacct/cpuacct.usage": "1000000000\n",
}


@pytest.mark.parametrize("files", [V2, V1], ids=["version 2", "version 1"])
def test_a_container_is_measured_against_its_own_limits(
    files: dict[str, str], tmp_path: Path, clock: ManualClock
) -> None:
    tree(tmp_path, files)
    system = System(tmp_path, clock=clock)
    assert system.memory() == Memory(used=400_000_000, limit=1_000_000_000, of="container")
    clock.advance(10)  # half a CPU for ten seconds: five seconds there were, of which two were used
    spent = {"sys/fs/cgroup/cpu.stat": "usage_usec 3000000\n", "sys/fs/cgroup/cpuacct/cpuacct.usage": "3000000000\n"}
    tree(tmp_path, spent)
    assert system.cpu_ratio() == pytest.approx(0.4)


def test_the_nearest_limit_above_a_nested_group_counts(tmp_path: Path) -> None:
    files = {
        **MACHINE,
        "proc/self/cgroup": "0::/kubepods/pod1/container\n",
        "sys/fs/cgroup/kubepods/pod1/container/memory.max": "max\n",
        "sys/fs/cgroup/kubepods/pod1/container/memory.current": "1\n",
        "sys/fs/cgroup/kubepods/pod1/memory.max": "2000000000\n",
        "sys/fs/cgroup/kubepods/pod1/memory.current": "500000000\n",
    }
    tree(tmp_path, files)
    assert System(tmp_path).memory() == Memory(500_000_000, 2_000_000_000, "container")


@pytest.mark.parametrize(
    "unlimited",
    [
        {**V2, "sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/cpu.max": "max 100000\n"},
        {**V2, "sys/fs/cgroup/memory.max": "64000000000\n", "sys/fs/cgroup/cpu.max": "max 100000\n"},
        {
            **V1,
            "sys/fs/cgroup/memory/memory.limit_in_bytes": V1_UNLIMITED,
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
        },
        MACHINE,
    ],
    ids=["version 2 without limits", "a limit beyond the machine", "version 1 without limits", "no groups"],
)
def test_without_limits_it_is_the_machine_that_can_be_used_up(
    unlimited: dict[str, str], tmp_path: Path, clock: ManualClock
) -> None:
    tree(tmp_path, unlimited)
    system = System(tmp_path, clock=clock)
    assert system.memory() == Memory(2_048_000_000, 8_192_000_000, "machine")
    clock.advance(10)
    tree(tmp_path, {"proc/stat": "cpu  130 0 130 720 120 0 0 0 0 0\n"})
    assert system.cpu_ratio() == pytest.approx(60 / 100)


def test_where_nothing_is_told_nothing_is_claimed(tmp_path: Path) -> None:
    system = System(tmp_path)
    assert system.memory() is None
    assert system.cpu_ratio() is None
    assert system.resident_bytes() > 0  # by getrusage


def test_nothing_is_claimed_of_cpu_without_time_passing_or_across_a_changed_quota(
    tmp_path: Path, clock: ManualClock
) -> None:
    tree(tmp_path, V2)
    system = System(tmp_path, clock=clock)
    assert system.cpu_ratio() is None
    clock.advance(10)
    tree(tmp_path, {"sys/fs/cgroup/cpu.max": "100000 100000\n"})
    assert system.cpu_ratio() is None
    clock.advance(10)
    tree(tmp_path, {"sys/fs/cgroup/cpu.stat": "usage_usec 900000000\n"})
    assert system.cpu_ratio() == 1.0  # a burst above the quota is no more than all of it


def test_files_that_make_no_sense_are_as_good_as_none(tmp_path: Path) -> None:
    tree(tmp_path, {**V2, "sys/fs/cgroup/memory.max": "plenty\n", "sys/fs/cgroup/cpu.max": "\n"})
    assert System(tmp_path).memory() == Memory(2_048_000_000, 8_192_000_000, "machine")


@pytest.mark.parametrize(
    ("path", "expected"), [("/", [""]), ("/a/b", ["/a/b", "/a", ""]), ("/../..", [""]), ("/../x", ["/x", ""])]
)
def test_a_group_and_those_above_it(path: str, expected: list[str]) -> None:
    assert cgroup.ancestry(path) == expected


def test_the_parsers_read_what_kernels_write() -> None:
    assert cgroup.membership("4:memory:/a:b\n3:cpu,cpuacct:/c\n0::/d\n") == cgroup.Membership(
        "/d", {"memory": "/a:b", "cpu": "/c", "cpuacct": "/c"}
    )
    assert cgroup.membership("") == cgroup.Membership(None, {})
    assert (cgroup.limit("max\n"), cgroup.limit("123\n"), cgroup.limit(V1_UNLIMITED)) == (None, 123, None)
    assert (cgroup.quota("max 100000"), cgroup.quota("150000 100000"), cgroup.quota("")) == (None, 1.5, None)
    assert cgroup.fields("MemTotal:  2 kB\nnr 7\nodd\n") == {"MemTotal": 2048, "nr": 7}
    assert cgroup.machine_cpu("cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 …") == (27, 36)
    assert cgroup.resident("1000 250 10 1 0 20 0\n", 4096) == 1_024_000
    assert cgroup.working_set(100, 300) == 0
