"""A Redis of one's own: started, restarted, harmed, refused."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from pathlib import Path

import pytest
import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError

from smriti_scale.errors import (
    BinaryNotFound,
    DataVersionMismatch,
    LocalServerError,
    MissingSharedLibrary,
    PortTaken,
)
from smriti_scale.local import LocalRedis
from smriti_scale.local._guardian import identity


def own(**options: object) -> LocalRedis:
    return LocalRedis(use_environment=False, **options)  # type: ignore[arg-type] # each test gives what fits


async def get(uri: str, key: str) -> bytes | None:
    async with redis.asyncio.Redis.from_url(uri, retry=None) as client:
        answer = await client.get(key)
        assert not isinstance(answer, str)
        return answer


async def put(uri: str, key: str, value: str) -> None:
    async with redis.asyncio.Redis.from_url(uri, retry=None) as client:
        await client.set(key, value)


async def test_it_answers_inside_the_context_and_is_gone_after() -> None:
    async with own() as server:
        await put(server.uri, "k", "v")
        assert await get(server.uri, "k") == b"v"
        pid, folder = server.pid, server.data_dir
        assert pid is not None
        assert folder is not None
        assert folder.is_dir()
    assert identity(pid) is None
    assert not folder.exists()
    with pytest.raises(LocalServerError, match="not running"):
        _ = server.uri


async def test_an_error_inside_the_context_stops_it_too() -> None:
    pids: list[int | None] = []

    async def fail_within(server: LocalRedis) -> None:
        async with server:
            pids.append(server.pid)
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        await fail_within(own())
    assert [pid and identity(pid) for pid in pids] == [None]


async def test_data_and_address_survive_a_second_start(tmp_path: Path) -> None:
    async with own(data_dir=tmp_path) as server:
        first = server.uri
        await put(server.uri, "k", "v")
    async with own(data_dir=tmp_path) as server:
        assert server.uri == first
        assert await get(server.uri, "k") == b"v"


async def test_a_port_of_the_last_run_that_is_taken_meanwhile_is_replaced(tmp_path: Path) -> None:
    async with own(data_dir=tmp_path) as server:
        port = server.port
    with socket.create_server(("127.0.0.1", port)):
        async with own(data_dir=tmp_path) as server:
            assert server.port != port


async def test_losing_the_race_for_a_port_is_answered_with_another(
    redis_server: LocalRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look at the port is made to say that it is free; redis-server itself then finds it taken, by a Redis."""
    from smriti_scale.local import ports

    real, taken = ports.free_ports, [redis_server.port]
    monkeypatch.setattr(ports, "free_ports", lambda count: [taken.pop()] if taken else real(count))
    async with own() as server:
        assert not taken
        assert server.port != redis_server.port


async def test_many_start_side_by_side_on_ports_of_their_own() -> None:
    servers = [own() for _ in range(6)]
    try:
        await asyncio.gather(*(server.__aenter__() for server in servers))
        assert len({server.port for server in servers}) == 6
    finally:
        await asyncio.gather(*(server.__aexit__(None, None, None) for server in servers))


async def test_a_port_asked_for_is_used_and_a_taken_one_refused() -> None:
    async with own() as other:
        with pytest.raises(PortTaken, match=f"port {other.port} on 127.0.0.1 is in use"):
            await own(port=other.port).__aenter__()
        port = other.port
    async with own(port=port) as server:
        assert server.uri == f"redis://127.0.0.1:{port}/0"


def listening(port: int) -> set[str]:
    """Addresses on which the kernel's tables show a listener at the port, in their own notation."""
    rows = [row.split() for table in ("tcp", "tcp6") for row in Path(f"/proc/net/{table}").read_text().splitlines()]
    return {row[1] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A"}


async def test_it_listens_on_loopback_alone() -> None:
    async with own() as server:
        assert listening(server.port) == {f"0100007F:{server.port:04X}"}


async def test_a_folder_in_use_is_refused_with_the_owner_s_process(tmp_path: Path) -> None:
    async with own(data_dir=tmp_path):
        with pytest.raises(LocalServerError, match=f"in use by process {os.getpid()}"):
            await own(data_dir=tmp_path).__aenter__()


async def test_data_of_a_newer_redis_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "dump.rdb").write_bytes(b"REDIS0099\xff" + bytes(8))
    with pytest.raises(DataVersionMismatch, match=f"cannot read {tmp_path}.*(?s:.*)RDB format version 99"):
        await own(data_dir=tmp_path).__aenter__()


async def test_damaged_data_is_an_error_with_the_last_words(tmp_path: Path) -> None:
    (tmp_path / "dump.rdb").write_bytes(b"nonsense")
    with pytest.raises(LocalServerError, match=r"redis\.log") as caught:
        await own(data_dir=tmp_path).__aenter__()
    assert type(caught.value) is LocalServerError


async def test_a_missing_shared_library_is_named_with_its_package(tmp_path: Path) -> None:
    """The binary is a script that says what the loader of a slim image says."""
    binary = tmp_path / "redis-server"
    binary.write_text(
        "#!/bin/sh\n"
        "echo 'redis-server: error while loading shared libraries: libssl.so.3: "
        "cannot open shared object file: No such file or directory' >&2\n"
        "exit 127\n"
    )
    binary.chmod(0o755)
    with pytest.raises(MissingSharedLibrary, match=r"libssl\.so\.3 is missing.*apt-get install libssl3"):
        await own(binary=binary).__aenter__()


async def test_a_binary_that_cannot_run_is_an_error_not_a_hang(tmp_path: Path) -> None:
    binary = tmp_path / "redis-server"
    binary.write_bytes(b"\x7fELF nothing like a program")
    binary.chmod(0o755)
    with pytest.raises(LocalServerError, match="Exec format error"):
        await own(binary=binary).__aenter__()
    with pytest.raises(BinaryNotFound, match="absent"):
        await own(binary=tmp_path / "absent").__aenter__()


def folders_of_this_process() -> list[Path]:
    """Temporary data folders that this process has made and not removed."""
    locks = Path(tempfile.gettempdir()).glob("smriti-scale-*/owner.lock")
    return [lock.parent for lock in locks if lock.read_text() == str(os.getpid())]


async def test_a_server_that_never_answers_is_stopped_at_the_deadline(tmp_path: Path) -> None:
    binary = tmp_path / "redis-server"
    binary.write_text("#!/bin/sh\nexec sleep 600\n")
    binary.chmod(0o755)
    before = folders_of_this_process()
    with pytest.raises(LocalServerError, match=r"did not answer within 0\.3 s"):
        await own(binary=binary, startup_timeout=0.3).__aenter__()
    assert folders_of_this_process() == before


async def test_a_cancelled_start_ends_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    binary = tmp_path / "redis-server"
    binary.write_text("#!/bin/sh\nexec sleep 600\n")
    binary.chmod(0o755)
    before = folders_of_this_process()
    server = own(binary=binary, startup_timeout=600)
    start = asyncio.ensure_future(server.__aenter__())
    await asyncio.sleep(0.3)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(start, 30)
    assert folders_of_this_process() == before


async def test_the_loop_runs_on_while_a_server_starts() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.001)

    counting = asyncio.ensure_future(count())
    async with own():
        counting.cancel()
    assert turns >= 5


async def test_it_can_be_killed_paused_and_healed(fault_redis: LocalRedis) -> None:
    await fault_redis.pause()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(get(fault_redis.uri, "k"), 0.2)
    await fault_redis.resume()
    assert await get(fault_redis.uri, "k") is None
    await fault_redis.kill()
    assert fault_redis.pid is None
    with pytest.raises(LocalServerError, match="died of signal 9"):
        fault_redis.check()
    with pytest.raises(RedisConnectionError):
        await get(fault_redis.uri, "k")
    await fault_redis.heal()
    assert await get(fault_redis.uri, "k") is None


async def test_a_given_server_is_used_and_left_alone(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, redis_prefix: str
) -> None:
    monkeypatch.setenv("SMRITI_REDIS_URL", redis_url)
    async with LocalRedis() as server:
        assert server.uri == redis_url
        assert not server.owned
        assert server.pid is None
        with pytest.raises(LocalServerError, match="not ours to harm"):
            await server.kill()
    assert await get(redis_url, f"{redis_prefix}absent") is None
    async with LocalRedis(use_environment=False) as server:
        assert server.uri != redis_url


async def test_a_given_server_that_is_not_there_is_an_error() -> None:
    with pytest.raises(LocalServerError, match=r"127\.0\.0\.1:1 did not answer"):
        await LocalRedis(uri="redis://127.0.0.1:1/0", startup_timeout=0.2).__aenter__()
