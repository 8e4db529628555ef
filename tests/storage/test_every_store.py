"""What every store must do, tried on each: a disk, S3 over HTTP, Cloudinary's protocol over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from smriti_scale.errors import (
    InvalidObjectName,
    ObjectExists,
    ObjectNotFound,
    ObjectTooLarge,
    UnacceptableContent,
)
from smriti_scale.events import Event, Events, ObjectStored
from smriti_scale.storage import LocalStore, ObjectStore, new_key, verify_upload
from smriti_scale.storage.base import Source
from tests.storage.conftest import pieces

PDF = b"%PDF-1.7\n" + bytes(range(256)) * 200
MIB = 1024 * 1024
BIG = b"%PDF-1.7\n" + bytes(9 * MIB)  # two parts


@pytest.fixture(params=["local", "s3", "cloudinary"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "local":
        return LocalStore(tmp_path / "files", secret=b"s" * 32)
    made: ObjectStore = request.getfixturevalue(f"{request.param}_store")
    return made


async def read(store: ObjectStore, key: str) -> bytes:
    return b"".join([piece async for piece in store.get(key)])


class Upload:
    """Like Starlette's `UploadFile`: an async `read`."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read(self, size: int = -1, /) -> bytes:
        taken, self._data = self._data[:size], self._data[size:]
        return taken


async def test_a_small_object_goes_and_comes_back_whole(store: ObjectStore) -> None:
    assert isinstance(store, ObjectStore)
    sources: list[Source] = [PDF, pieces(PDF, 777), Upload(PDF)]
    for n, source in enumerate(sources):
        put = await store.put(f"documents/{n}.pdf", source, content_types=("application/pdf",))
        assert (put.key, put.size, put.content_type) == (f"documents/{n}.pdf", len(PDF), "application/pdf")
        assert await read(store, put.key) == PDF
        found = await store.stat(put.key)
        assert (found.size, found.content_type) == (put.size, put.content_type)
        assert found.modified_at is not None


async def test_a_large_object_goes_in_parts_and_comes_back_whole(store: ObjectStore) -> None:
    put = await store.put("big.pdf", pieces(BIG, 300_001))
    assert put.size == len(BIG)
    assert (await store.stat("big.pdf")).size == len(BIG)
    assert await read(store, "big.pdf") == BIG


@pytest.mark.long
@pytest.mark.parametrize("size", [8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 16 * MIB, 33 * MIB])
async def test_sizes_around_the_part_size_are_kept_exactly(store: ObjectStore, size: int) -> None:
    data = b"%PDF-" + b"x" * (size - 5)
    await store.put("edge.pdf", pieces(data, 1_000_000))
    assert await read(store, "edge.pdf") == data


async def test_nothing_is_overwritten(store: ObjectStore) -> None:
    await store.put("a.pdf", PDF)
    for data in (b"%PDF-other", BIG):
        with pytest.raises(ObjectExists, match=r"a\.pdf"):
            await store.put("a.pdf", data)
    assert await read(store, "a.pdf") == PDF


async def test_too_large_or_of_another_type_leaves_nothing(store: ObjectStore) -> None:
    with pytest.raises(ObjectTooLarge):
        await store.put("a.pdf", pieces(BIG), max_size=9_000_000)
    with pytest.raises(ObjectTooLarge):
        await store.put("a.pdf", pieces(PDF), max_size=1000)
    with pytest.raises(UnacceptableContent, match="text/html"):
        await store.put("a.pdf", b"<html>", content_types=("application/pdf",))
    with pytest.raises(ObjectNotFound):
        await store.stat("a.pdf")


async def test_a_source_that_fails_midway_leaves_nothing(store: ObjectStore) -> None:
    async def breaks() -> AsyncIterator[bytes]:
        async for piece in pieces(BIG):
            yield piece
        raise ConnectionResetError("the client went away")

    with pytest.raises(ConnectionResetError):
        await store.put("a.pdf", breaks())
    with pytest.raises(ObjectNotFound):
        await read(store, "a.pdf")


async def test_what_is_not_there_is_not_found_and_can_be_deleted(store: ObjectStore) -> None:
    for missing in (store.stat("no.pdf"), read(store, "no.pdf")):
        with pytest.raises(ObjectNotFound, match=r"no\.pdf"):
            await missing
    assert await store.delete("no.pdf") is False
    await store.put("a.pdf", PDF)
    assert await store.delete("a.pdf") is True
    assert await store.delete("a.pdf") is False
    with pytest.raises(ObjectNotFound):
        await store.stat("a.pdf")


@pytest.mark.parametrize("key", ["../up.pdf", "/a.pdf", "", "a?b", "a\nb"])
async def test_names_that_could_mean_something_else_are_refused(store: ObjectStore, key: str) -> None:
    for use in (store.put(key, b"x"), store.stat(key), store.delete(key), store.url(key), read(store, key)):
        with pytest.raises(InvalidObjectName):
            await use


async def test_a_reader_may_stop_early(store: ObjectStore) -> None:
    await store.put("big.pdf", pieces(BIG))
    stream: Any = store.get("big.pdf")
    assert BIG.startswith(await anext(stream))
    await stream.aclose()
    assert await read(store, "big.pdf") == BIG


async def test_many_at_once_do_not_mix(store: ObjectStore) -> None:
    data = {new_key("d", suffix=".pdf"): b"%PDF-" + bytes([n]) * (50_000 + n) for n in range(12)}
    await asyncio.gather(*(store.put(key, pieces(content, 9_999)) for key, content in data.items()))
    assert await asyncio.gather(*(read(store, key) for key in data)) == list(data.values())


async def test_an_upload_that_was_made_directly_is_checked_afterwards(store: ObjectStore) -> None:
    await store.put("good.pdf", PDF)
    good = await verify_upload(store, "good.pdf", content_types=("application/pdf",), max_size=100_000)
    assert (good.size, good.content_type) == (len(PDF), "application/pdf")
    await store.put("page.pdf", b"<script>alert(1)</script>")
    with pytest.raises(UnacceptableContent, match="text/html"):
        await verify_upload(store, "page.pdf", content_types=("application/pdf",), max_size=100_000)
    with pytest.raises(ObjectTooLarge):
        await verify_upload(store, "good.pdf", max_size=1000)
    for gone in ("page.pdf", "good.pdf"):
        with pytest.raises(ObjectNotFound):
            await store.stat(gone)


@pytest.mark.parametrize("store", ["s3", "cloudinary"], indirect=True)
async def test_a_client_can_upload_by_the_form_and_download_by_the_address(store: ObjectStore) -> None:
    upload = await store.presign_upload("direct.pdf", content_type="application/pdf", max_size=1_000_000)
    assert upload.method == "POST"
    async with httpx.AsyncClient() as client:
        files = {upload.file_field: ("whatever.pdf", PDF, "application/pdf")}
        sent = await client.post(upload.url, data=dict(upload.fields), files=files)
        assert sent.status_code in (200, 204), sent.text
        await verify_upload(store, "direct.pdf", content_types=("application/pdf",), max_size=1_000_000)
        got = await client.get(await store.url("direct.pdf", download_name="my notes.pdf"))
        assert got.content == PDF


async def test_what_was_stored_is_told_to_listeners(tmp_path: Path) -> None:
    seen: list[Event] = []
    store = LocalStore(tmp_path, events=Events(seen.append))
    await store.put("a", b"12345")
    [event] = seen
    assert isinstance(event, ObjectStored)
    assert (event.store, event.size) == ("local", 5)
