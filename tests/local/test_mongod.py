"""A replica set of one's own: started, restarted, harmed, refused."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from pymongo import AsyncMongoClient, WriteConcern

from smriti_scale.errors import ConfigurationError, DataVersionMismatch, LocalServerError, PortTaken
from smriti_scale.local import LocalMongo
from smriti_scale.local._guardian import identity
from smriti_scale.local.ports import free_ports

pytestmark = pytest.mark.long

Client = AsyncMongoClient[dict[str, Any]]


def own(replicas: int = 1, **options: Any) -> LocalMongo:
    return LocalMongo(replicas, use_environment=False, **options)


async def read(uri: str) -> list[dict[str, Any]]:
    client: Client = AsyncMongoClient(uri, serverSelectionTimeoutMS=10_000)
    async with client:
        return await client.kept.things.find().to_list()


async def write(uri: str, identifier: int) -> None:
    client: Client = AsyncMongoClient(uri, serverSelectionTimeoutMS=10_000)
    async with client:
        things = client.kept.get_collection("things", write_concern=WriteConcern("majority", wtimeout=10_000))
        await things.insert_one({"_id": identifier})


async def test_one_node_is_a_replica_set_with_transactions_and_is_gone_after() -> None:
    async with own() as server:
        assert "replicaSet=" in server.uri
        client: Client = AsyncMongoClient(server.uri)
        async with client, client.start_session() as session, await session.start_transaction():
            await client.kept.things.insert_one({"_id": 1}, session=session)
        assert await read(server.uri) == [{"_id": 1}]
        (member,) = server.members
        assert await member.role() == "primary"
        pid, folder = member.pid, server.data_dir
        assert pid is not None
        assert folder is not None
    assert identity(pid) is None
    assert not folder.exists()
    with pytest.raises(LocalServerError, match="not running"):
        _ = server.uri


async def test_data_and_address_survive_a_second_start(tmp_path: Path) -> None:
    async with own(data_dir=tmp_path) as server:
        first = server.uri
        await write(first, 1)
    async with own(data_dir=tmp_path) as server:
        assert server.uri == first
        assert await read(server.uri) == [{"_id": 1}]


@pytest.mark.long
async def test_data_survives_a_start_on_another_port(tmp_path: Path) -> None:
    async with own(data_dir=tmp_path) as server:
        await write(server.uri, 1)
    (other,) = free_ports(1)
    async with own(data_dir=tmp_path, port=other) as server:
        assert [member.port for member in server.members] == [other]
        assert await read(server.uri) == [{"_id": 1}]
        await write(server.uri, 2)


@pytest.mark.long
async def test_three_nodes_find_each_other_again_after_all_their_ports_have_changed(tmp_path: Path) -> None:
    async with own(3, data_dir=tmp_path) as server:
        await write(server.uri, 1)
        first = [member.port for member in server.members]
    (tmp_path / "ports.json").unlink()
    async with own(3, data_dir=tmp_path) as server:
        assert not {member.port for member in server.members} & set(first)
        await write(server.uri, 2)
        for member in await server.secondaries():
            assert len(await read(member.uri)) >= 1


async def test_a_set_of_another_size_in_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ports.json").write_text("[20001, 20002, 20003]")
    with pytest.raises(ConfigurationError, match=r"holds 3 node\(s\), and 1 were asked for"):
        await own(data_dir=tmp_path).__aenter__()


@pytest.mark.parametrize("replicas", [0, 2, 4, -1])
def test_only_one_or_three_nodes_can_be_asked_for(replicas: int) -> None:
    with pytest.raises(ConfigurationError, match=f"1 or 3, not {replicas}"):
        LocalMongo(replicas)


async def test_a_taken_port_is_refused_by_name(mongo_server: LocalMongo) -> None:
    taken = mongo_server.members[0].port
    with pytest.raises(PortTaken, match=f"port {taken} on 127.0.0.1 is in use"):
        await own(port=taken).__aenter__()


async def test_losing_the_race_for_a_port_is_answered_with_another(
    mongo_server: LocalMongo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look at the port is made to say that it is free; mongod itself then finds it taken."""
    from smriti_scale.local import ports

    real, taken = ports.free_ports, [mongo_server.members[0].port]
    monkeypatch.setattr(ports, "free_ports", lambda count: [taken.pop()] if taken else real(count))
    async with own() as server:
        assert not taken
        assert server.members[0].port != mongo_server.members[0].port


@pytest.mark.long
async def test_data_of_another_version_is_refused_by_name(tmp_path: Path) -> None:
    """mongod guards its version document against users, but not against the oplog's own way of renaming."""
    async with own(data_dir=tmp_path, test_commands=True) as server:
        client: Client = AsyncMongoClient(server.uri)
        async with client:
            await client.admin.other.insert_one({"_id": "featureCompatibilityVersion", "version": "4.4"})
            rename = {"renameCollection": "admin.other", "to": "admin.system.version", "dropTarget": True}
            await client.admin.command("applyOps", [{"op": "c", "ns": "admin.$cmd", "o": rename}])
    with pytest.raises(DataVersionMismatch, match=r"another version of the server(?s:.*)UPGRADE PROBLEM"):
        await own(data_dir=tmp_path).__aenter__()


async def test_damaged_data_is_an_error_with_the_last_words(tmp_path: Path) -> None:
    (tmp_path / "node-0").mkdir()
    (tmp_path / "node-0" / "WiredTiger.wt").write_bytes(b"nonsense")
    (tmp_path / "node-0" / "storage.bson").write_bytes(b"nonsense")
    with pytest.raises(LocalServerError, match=r"mongod-0\.log"):
        await own(data_dir=tmp_path).__aenter__()


async def test_a_start_cancelled_half_way_leaves_nothing(tmp_path: Path) -> None:
    server = own(data_dir=tmp_path)
    start = asyncio.ensure_future(server.__aenter__())
    record = tmp_path / "mongod-0.pid.json"
    while not await asyncio.to_thread(record.exists):  # noqa: ASYNC110 - another process writes it
        await asyncio.sleep(0.01)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert not record.exists()
    async with own(data_dir=tmp_path) as again:
        await write(again.uri, 1)


async def test_a_given_server_is_used_and_left_alone(mongo_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMRITI_MONGODB_URI", mongo_uri)
    async with LocalMongo() as server:
        assert server.uri == mongo_uri
        assert not server.owned
        assert len(server.members) == 3
        assert sorted([await member.role() for member in server.members]) == ["primary", "secondary", "secondary"]
        with pytest.raises(LocalServerError, match="not ours to harm"):
            await server.kill(server.members[0])
    async with LocalMongo(uri=mongo_uri) as server:
        await server.ready()


@pytest.mark.parametrize("uri", ["http://localhost", "mongodb://", "mongodb://user:pass:word@host"])
async def test_a_given_uri_that_is_none_is_refused(uri: str) -> None:
    with pytest.raises(ConfigurationError, match="not a usable MongoDB URI"):
        await LocalMongo(uri=uri).__aenter__()


async def test_a_given_server_that_is_not_there_is_an_error_without_the_password() -> None:
    server = LocalMongo(uri="mongodb://user:hunter2@127.0.0.1:1/", startup_timeout=0.2)
    with pytest.raises(LocalServerError, match="does not answer") as caught:
        await server.__aenter__()
    assert "hunter2" not in str(caught.value)


@pytest.mark.xdist_group("fault_mongo")
async def test_a_killed_primary_is_followed_by_another_and_comes_back(fault_mongo: LocalMongo) -> None:
    await write(fault_mongo.uri, 1)
    old = await fault_mongo.primary()
    await fault_mongo.kill(old)
    assert old.pid is None
    assert await old.role() == "other"
    with pytest.raises(LocalServerError, match="died of signal 9"):
        fault_mongo.check()
    await fault_mongo.ready()
    assert (await fault_mongo.primary()).port != old.port
    await fault_mongo.restart(old)
    assert await old.role() == "secondary"
    assert await read(fault_mongo.uri) == [{"_id": 1}]


@pytest.mark.xdist_group("fault_mongo")
async def test_a_paused_node_answers_nothing_until_it_goes_on(fault_mongo: LocalMongo) -> None:
    (secondary, *_) = await fault_mongo.secondaries()
    await fault_mongo.pause(secondary)
    _, writer = await asyncio.open_connection(secondary.host, secondary.port)  # the kernel accepts
    writer.close()
    await writer.wait_closed()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(read(secondary.uri), 0.3)
    await fault_mongo.heal()
    assert await secondary.role() == "secondary"
