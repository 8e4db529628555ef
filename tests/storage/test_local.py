"""Files on a real disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from smriti_scale.errors import (
    ChecksumMismatch,
    ConfigurationError,
    InvalidObjectName,
    ObjectExists,
    ObjectNotFound,
    ObjectTooLarge,
    UnacceptableContent,
)
from smriti_scale.storage import LocalStore, ObjectStore, new_key
from smriti_scale.testing.manual_clock import ManualClock

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "files", secret=b"s" * 32)


async def read(store: ObjectStore, key: str) -> bytes:
    return b"".join([piece async for piece in store.get(key)])


def left_aside(store: LocalStore) -> list[str]:
    return [path.name for path in (store.root / ".incoming").iterdir()]


async def pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        await asyncio.sleep(0)
        yield data[start : start + size]


async def test_what_was_put_comes_back_with_its_size_type_and_checksum(store: LocalStore) -> None:
    assert isinstance(store, ObjectStore)
    put = await store.put("images/a.png", pieces(PNG, 1000), content_types=("image/png",))
    assert (put.size, put.content_type) == (len(PNG), "image/png")
    assert await read(store, "images/a.png") == PNG
    found = await store.stat("images/a.png")
    assert (found.size, found.content_type, found.checksum) == (put.size, put.content_type, put.checksum)
    assert left_aside(store) == []


async def test_an_object_is_never_overwritten_even_by_two_at_once(store: LocalStore) -> None:
    outcomes = await asyncio.gather(
        *(store.put("a", pieces(bytes([n]) * 100_000, 999)) for n in range(8)), return_exceptions=True
    )
    assert sum(isinstance(outcome, ObjectExists) for outcome in outcomes) == 7
    assert len(set(await read(store, "a"))) == 1
    assert left_aside(store) == []


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/passwd",
        "../up",
        "a/../../up",
        "a//b",
        ".hidden",
        "a/.b",
        "a\\b",
        "a\0b",
        "C:x",
        "a b",
        "ü",
        "x" * 513,
        "a/",
    ],
)
async def test_a_key_cannot_lead_out_of_the_store(store: LocalStore, key: str) -> None:
    for use in (store.put(key, b"x"), store.stat(key), store.delete(key), store.url(key), read(store, key)):
        with pytest.raises(InvalidObjectName):
            await use


async def test_a_link_that_someone_planted_is_not_followed(store: LocalStore, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (store.root / "a~").symlink_to(secret)
    with pytest.raises(ObjectNotFound):
        await read(store, "a")


async def test_too_many_bytes_stop_the_reading_and_leave_nothing(store: LocalStore) -> None:
    asked = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal asked
        while True:
            asked += 1
            yield bytes(100_000)

    with pytest.raises(ObjectTooLarge, match="1,000,000 bytes"):
        await store.put("a", endless(), max_size=1_000_000)
    assert asked == 11
    assert left_aside(store) == []
    with pytest.raises(ObjectNotFound):
        await store.stat("a")


async def test_the_limit_is_inclusive(store: LocalStore) -> None:
    await store.put("a", bytes(1000), max_size=1000)
    with pytest.raises(ObjectTooLarge):
        await store.put("b", bytes(1001), max_size=1000)


async def test_the_bytes_decide_the_type_not_the_name(store: LocalStore) -> None:
    with pytest.raises(UnacceptableContent, match="text/html"):
        await store.put("photo.png", b"<html><script>alert(1)</script>", content_types=("image/png",))
    assert left_aside(store) == []


async def test_deleting_twice_is_as_good_as_once(store: LocalStore) -> None:
    await store.put("a", b"x")
    assert await store.delete("a") is True
    assert await store.delete("a") is False
    with pytest.raises(ObjectNotFound):
        await store.stat("a")


async def test_damage_on_the_disk_is_noticed(store: LocalStore) -> None:
    await store.put("a", b"hello")
    store.path_of("a").write_bytes(b"hallo")
    with pytest.raises(ChecksumMismatch):
        await read(store, "a")


async def test_a_reader_that_is_cancelled_midway_leaves_nothing_behind(store: LocalStore) -> None:
    started = asyncio.Event()

    async def stalls() -> AsyncIterator[bytes]:
        yield bytes(100_000)
        started.set()
        await asyncio.Event().wait()

    putting = asyncio.create_task(store.put("a", stalls()))
    await started.wait()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert left_aside(store) == []


async def test_an_object_and_a_folder_may_share_a_name(store: LocalStore) -> None:
    await store.put("a", b"1")
    await store.put("a/b", b"2")
    assert (await read(store, "a"), await read(store, "a/b")) == (b"1", b"2")


async def test_signed_addresses_hold_for_their_key_method_and_time_only(tmp_path: Path) -> None:
    clock = ManualClock()
    store = LocalStore(tmp_path, secret=b"s" * 32, clock=clock)
    url = await store.url("a/b.png", expires_in=60)
    assert url.startswith("/files/a/b.png?")
    query = dict(pair.split("=") for pair in url.partition("?")[2].split("&"))
    assert store.verified("GET", "a/b.png", query)
    assert not store.verified("PUT", "a/b.png", query)
    assert not store.verified("GET", "a/c.png", query)
    assert not store.verified("GET", "a/b.png", query | {"expires": str(int(query["expires"]) + 1)})
    assert not store.verified("GET", "a/b.png", query | {"signature": "ü"})
    assert not store.verified("GET", "a/b.png", {})
    clock.advance(61)
    assert not store.verified("GET", "a/b.png", query)


async def test_addresses_need_a_secret_of_some_length(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="secret"):
        await LocalStore(tmp_path).url("a")
    with pytest.raises(ConfigurationError, match="16"):
        LocalStore(tmp_path, secret=b"short")


def test_fresh_keys_cannot_be_guessed_and_hold_only_safe_characters() -> None:
    keys = {new_key("documents", suffix=".pdf") for _ in range(100)}
    assert len(keys) == 100
    assert all(len(key) == len("documents/.pdf") + 32 for key in keys)
    with pytest.raises(InvalidObjectName):
        new_key("a", suffix="/../x")
