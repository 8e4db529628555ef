"""However the program that holds a server ends, the server ends with it. Real programs, real signals."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from smriti_scale.local import LocalRedis
from smriti_scale.local._guardian import identity
from smriti_scale.local.folder import DataFolder
from tests.local.processes import all_gone, holder

pytestmark = pytest.mark.long


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGHUP])
async def test_a_signal_to_the_program_ends_its_server_and_removes_the_folder(number: signal.Signals) -> None:
    async with holder("redis") as held:
        assert all(identity(pid) for pid in held.servers + held.guardians)
        held.process.send_signal(number)
        await held.process.wait()
        assert await all_gone(held.servers + held.guardians)
        assert not held.folder.exists()


@pytest.mark.parametrize("then", ["return", "raise", "exit", "vanish"])
async def test_every_way_out_of_the_program_ends_its_server(then: str) -> None:
    async with holder("redis", then=then) as held:
        await asyncio.wait_for(held.process.wait(), 30)
        assert await all_gone(held.servers + held.guardians)
        assert not held.folder.exists()


async def test_a_forked_child_that_lives_on_does_not_keep_the_server() -> None:
    """The child inherits the pipe whose end the guardian waits for."""
    async with holder("redis", then="fork") as held:
        assert held.forked is not None
        try:
            held.process.kill()
            await held.process.wait()
            assert await all_gone(held.servers + held.guardians)
            assert identity(held.forked) is not None
        finally:
            os.kill(held.forked, signal.SIGKILL)


async def test_mongod_ends_with_a_killed_program_too_and_its_data_stays(tmp_path: Path) -> None:
    async with holder("mongo", folder=tmp_path / "data") as held:
        held.process.kill()
        await held.process.wait()
        assert await all_gone(held.servers + held.guardians)
        assert (held.folder / "node-0").is_dir()


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
async def test_a_server_whose_guardian_is_killed_dies_at_once_and_its_folder_goes_at_the_next_start() -> None:
    async with holder("redis") as held:
        for pid in held.guardians:
            os.kill(pid, signal.SIGKILL)
        assert await all_gone(held.servers)
    async with LocalRedis(use_environment=False):
        assert not held.folder.exists()


async def test_an_orphan_in_a_temporary_folder_is_ended_at_the_next_start() -> None:
    async with holder("redis") as held:
        for pid in held.guardians:
            os.kill(pid, signal.SIGSTOP)
    async with LocalRedis(use_environment=False) as server:
        assert await all_gone(held.servers + held.guardians)
        assert not held.folder.exists()
        assert server.data_dir is not None
        assert server.data_dir.exists()


def test_a_folder_in_use_or_just_made_is_not_swept() -> None:
    in_use = DataFolder(None)
    just_made = Path(tempfile.mkdtemp(prefix="smriti-scale-"))
    (just_made / "owner.lock").touch()
    try:
        DataFolder(None).release()
        assert in_use.path.exists()
        assert just_made.exists()
    finally:
        in_use.release()
        shutil.rmtree(just_made)


async def test_what_outlives_its_program_is_ended_at_the_next_start(tmp_path: Path) -> None:
    """The guardian is stopped, so that it sees nothing; then the program is killed. The orphan is real."""
    async with holder("redis", folder=tmp_path / "data") as held:
        for pid in held.guardians:
            os.kill(pid, signal.SIGSTOP)
        held.process.kill()
        await held.process.wait()
        assert all(identity(pid) for pid in held.servers)

        server = LocalRedis(data_dir=tmp_path / "data", use_environment=False)
        async with server:
            assert server.pid not in held.servers
            assert await all_gone(held.servers + held.guardians, seconds=0.5)


def test_a_stranger_with_a_recorded_process_id_is_left_alone(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        for recorded in ("12345", None):
            note = {"pid": stranger.pid, "identity": recorded}
            (tmp_path / "redis.pid.json").write_text(json.dumps({"server": note, "guardian": note}))
            DataFolder(tmp_path).release()
            assert not (tmp_path / "redis.pid.json").exists()
            assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"server": 1}', '{"server": {"pid": "x"}}'])
def test_a_damaged_record_is_dropped(tmp_path: Path, content: str) -> None:
    (tmp_path / "redis.pid.json").write_text(content)
    DataFolder(tmp_path).release()
    assert not (tmp_path / "redis.pid.json").exists()
