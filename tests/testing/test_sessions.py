"""The plugin in whole pytest runs, each a program of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pymongo import MongoClient
from redis import Redis

from smriti_scale.local._guardian import identity

pytestmark = pytest.mark.long

WITHOUT = {name: value for name, value in os.environ.items() if not name.startswith(("SMRITI_", "PYTEST_"))}


def run_pytest(folder: Path, code: str, *arguments: str, **environment: str) -> str:
    """The output of a passing run of one test file."""
    (folder / "test_inner.py").write_text(code)
    (folder / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", *arguments],
        cwd=folder,
        env={**WITHOUT, **environment},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_loading_the_plugin_loads_no_driver(tmp_path: Path) -> None:
    code = """
import sys
import smriti_scale.testing.plugin
heavy = {"pymongo", "motor", "redis", "bson", "starlette", "pydantic"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_run_that_needs_no_server_starts_none(tmp_path: Path) -> None:
    run_pytest(
        tmp_path,
        """
def test_nothing_runs(pytestconfig, clock):
    from smriti_scale.testing.plugin import _SERVERS
    servers = pytestconfig.stash[_SERVERS]
    assert servers._mongo is None and servers._redis is None
""",
    )


@pytest.mark.long
def test_data_of_a_test_is_gone_after_it(tmp_path: Path, mongo_uri: str, redis_url: str) -> None:
    code = """
import pathlib
import pytest

@pytest.mark.parametrize("number", range(2))
async def test_leaves_data(number, db, pymongo_db, redis_client, redis_prefix):
    assert db.name == pymongo_db.name
    await db.things.insert_one({})
    await redis_client.set(redis_prefix + "k", "v")
    with pathlib.Path("left.txt").open("a") as left:
        left.write(f"{db.name} {redis_prefix}\\n")
"""
    run_pytest(tmp_path, code, SMRITI_MONGODB_URI=mongo_uri, SMRITI_REDIS_URL=redis_url)
    left = [line.split() for line in (tmp_path / "left.txt").read_text().splitlines()]
    assert len({name for name, _ in left}) == len({prefix for _, prefix in left}) == 2
    client: MongoClient[dict[str, object]] = MongoClient(mongo_uri)
    with client, Redis.from_url(redis_url) as keys:
        assert not {name for name, _ in left} & set(client.list_database_names())
        assert not [key for _, prefix in left for key in keys.scan_iter(match=f"{prefix}*", count=10_000)]


@pytest.mark.long
def test_workers_share_the_servers_and_nothing_is_left_when_they_end(tmp_path: Path) -> None:
    code = """
import json, os, pathlib
import pytest

@pytest.mark.parametrize("number", range(8))
async def test_note(number, mongo_uri, redis_url, motor_client, redis_client, worker_id):
    status = await motor_client.admin.command("serverStatus")
    info = await redis_client.info("server")
    note = {"worker": worker_id, "mongo": mongo_uri, "redis": redis_url, "pids": [status["pid"], info["process_id"]]}
    pathlib.Path(f"note-{number}.json").write_text(json.dumps(note))
"""
    run_pytest(tmp_path, code, "-n", "2", "--dist", "load")
    notes = [json.loads(path.read_text()) for path in tmp_path.glob("note-*.json")]
    assert len(notes) == 8
    assert {note["worker"] for note in notes} == {"gw0", "gw1"}
    assert len({note["mongo"] for note in notes}) == len({note["redis"] for note in notes}) == 1
    assert not [pid for note in notes for pid in note["pids"] if identity(pid)]


@pytest.mark.long
def test_a_server_that_cannot_start_fails_each_test_with_its_reason(tmp_path: Path) -> None:
    code = """
import pytest
from smriti_scale.errors import LocalServerError

def test_says_why(request):
    for _ in range(3):
        with pytest.raises(LocalServerError, match="did not answer"):
            request.getfixturevalue("redis_url")
"""
    (tmp_path / "conftest.py").write_text(
        "import smriti_scale.local.redis as r\n"
        "start = r.LocalRedis.__init__\n"
        "def quick(self, **options):\n"
        "    start(self, **options | {'startup_timeout': 0.2})\n"
        "r.LocalRedis.__init__ = quick\n"
    )
    run_pytest(tmp_path, code, SMRITI_REDIS_URL="redis://127.0.0.1:1/0")
