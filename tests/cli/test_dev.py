"""`smriti-scale dev` as a developer meets it: a program that runs until told to stop."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from redis import Redis

from smriti_scale.local._guardian import identity

pytestmark = pytest.mark.long

CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("SMRITI_")}
PROGRAM = [sys.executable, "-m", "smriti_scale.cli"]


@dataclass(frozen=True, slots=True)
class Dev:
    process: asyncio.subprocess.Process
    ready: dict[str, Any]

    @property
    def pids(self) -> list[int]:
        return [*self.ready["pids"]["mongod"], self.ready["pids"]["redis"]]

    async def end(self, number: signal.Signals) -> tuple[int, str]:
        """The exit code and what was written to stderr."""
        self.process.send_signal(number)
        _, stderr = await asyncio.wait_for(self.process.communicate(), 60)
        assert self.process.returncode is not None
        return self.process.returncode, stderr.decode()


@asynccontextmanager
async def dev(folder: Path, *arguments: str) -> AsyncIterator[Dev]:
    """The command running with `--json`; killed at the latest with the context."""
    process = await asyncio.create_subprocess_exec(
        *(*PROGRAM, "dev", "--json", *arguments),
        cwd=folder,
        env=CLEAN,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        yield Dev(process, json.loads(await asyncio.wait_for(process.stdout.readline(), 90)))
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *arguments], cwd=cwd, env=CLEAN | environment, capture_output=True, text=True, timeout=90
    )


@pytest.mark.long
async def test_ctrl_c_and_sigterm_stop_both_and_the_next_start_finds_data_and_addresses(tmp_path: Path) -> None:
    async with dev(tmp_path) as first:
        with Redis.from_url(first.ready["redis_url"]) as redis:
            redis.set("k", "v")
        client: MongoClient[dict[str, Any]] = MongoClient(first.ready["mongodb_uri"])
        with client:
            client.kept.things.insert_one({"_id": 1})
        code, _ = await first.end(signal.SIGINT)
        assert code == 0
        assert not [pid for pid in first.pids if identity(pid)]
    assert (tmp_path / ".smriti" / ".gitignore").read_text() == "*\n"
    async with dev(tmp_path) as second:
        assert second.ready["mongodb_uri"] == first.ready["mongodb_uri"]
        assert second.ready["redis_url"] == first.ready["redis_url"]
        with Redis.from_url(second.ready["redis_url"]) as redis:
            assert redis.get("k") == b"v"
        busy = run("dev", cwd=tmp_path)
        assert busy.returncode == 1
        assert f"in use by process {second.process.pid}" in busy.stderr
        os.kill(second.ready["pids"]["redis"], signal.SIGKILL)
        _, stderr = await asyncio.wait_for(second.process.communicate(), 60)
        assert second.process.returncode == 1
        assert "smriti-scale: redis died of signal 9" in stderr.decode()
        assert not [pid for pid in second.pids if identity(pid)]


@pytest.mark.long
async def test_a_three_node_set_is_left_without_a_trace_by_sigterm(tmp_path: Path) -> None:
    async with dev(tmp_path, "--replicas", "3", "--data-dir", "elsewhere") as running:
        assert len(running.ready["pids"]["mongod"]) == 3
        code, _ = await running.end(signal.SIGTERM)
        assert code == 0
        assert not [pid for pid in running.pids if identity(pid)]
    assert (tmp_path / "elsewhere" / "mongo").is_dir()


def records(folder: Path) -> list[Path]:
    """Of mongod processes that run in the folder."""
    return list(folder.rglob("mongod-0.pid.json"))


async def test_a_sigterm_while_starting_stops_at_once_with_code_0(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(*PROGRAM, "dev"), cwd=tmp_path, env=CLEAN, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    while not records(tmp_path):
        assert process.returncode is None
        await asyncio.sleep(0.02)
    process.terminate()
    await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    assert not records(tmp_path)


def test_given_servers_are_announced_in_lines_for_a_shell(tmp_path: Path, mongo_uri: str, redis_url: str) -> None:
    program = [*PROGRAM, "dev"]
    environment = CLEAN | {"SMRITI_MONGODB_URI": mongo_uri, "SMRITI_REDIS_URL": redis_url}
    with subprocess.Popen(
        program, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        told = [running.stdout.readline() for _ in range(2)]
        running.terminate()
        assert running.wait(60) == 0
    assert told == [f"export MONGODB_URI={shlex.quote(mongo_uri)}\n", f"export REDIS_URL={redis_url}\n"]
    assert not (tmp_path / ".smriti").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--replicas", "2"], "replicas is 1 or 3, not 2"),
        (["--redis-port", "70000"], "70000 is no port"),
        (["--data-dir", "/dev/null/x"], "cannot be used"),
    ],
)
def test_what_cannot_work_is_one_line_and_code_1(tmp_path: Path, arguments: list[str], told: str) -> None:
    ran = run("dev", *arguments, cwd=tmp_path)
    assert ran.returncode == 1
    (line,) = [line for line in ran.stderr.splitlines() if "smriti-scale:" in line]
    assert told in line
    assert "Traceback" not in ran.stderr


def test_the_help_names_the_commands_and_loads_none(tmp_path: Path) -> None:
    code = """
import sys
from smriti_scale.cli import COMMANDS, main
try:
    main(["--help"])
except SystemExit as end:
    assert not end.code
loaded = [command.module for command in COMMANDS.values() if command.module in sys.modules]
assert not loaded, loaded
assert "pymongo" not in sys.modules
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert " dev " in ran.stdout


def test_without_the_extra_the_command_says_which_to_install(tmp_path: Path) -> None:
    code = "import sys; sys.modules['typer'] = None; from smriti_scale.cli import main; main(['dev'])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1
    assert "pip install 'smriti_scale[cli]'" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_the_version_is_the_package_s(tmp_path: Path) -> None:
    from smriti_scale import __version__

    assert run("--version", cwd=tmp_path).stdout.strip() == __version__
