"""1,000 tasks, and something dies midway: all are done, each with one effect, within seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smriti_scale.local import LocalMongo
from tests.tasks.kill_run import AofRedis, Victim, run

pytestmark = pytest.mark.long


@pytest.fixture
def aof_redis(tmp_path: Path) -> Iterator[AofRedis]:
    folder = tmp_path / "redis"
    folder.mkdir()
    server = AofRedis(folder)
    server.start()
    yield server
    server.kill()


@pytest.mark.parametrize("victim", ["worker", "redis"])
async def test_a_thousand_tasks_survive_with_one_effect_each(
    victim: Victim, aof_redis: AofRedis, own_mongo: Any, tmp_path: Path
) -> None:
    mongo: LocalMongo = await own_mongo(replicas=1)  # of its own: a busy machine must not call an election as well
    outcome = await run("ours", victim, redis=aof_redis, mongo_uri=mongo.uri, database="kill", folder=tmp_path)
    log = (tmp_path / "worker.log").read_text()
    assert (outcome.done, outcome.twice, outcome.dead) == (1000, 0, 0), log[-4000:]
    assert outcome.parked == 0
