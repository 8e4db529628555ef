"""The disk's files over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from smriti_scale.storage import LocalStore, LocalStoreFiles
from smriti_scale.testing.manual_clock import ManualClock

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 10


@pytest.fixture
def store(tmp_path: Path, clock: ManualClock) -> LocalStore:
    return LocalStore(tmp_path / "files", secret=b"s" * 32, clock=clock)


@pytest.fixture
async def client(store: LocalStore) -> AsyncIterator[httpx.AsyncClient]:
    app = Starlette(routes=[Mount("/files", LocalStoreFiles(store))])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as made:
        yield made


async def test_a_signed_address_gives_the_file_with_ranges_and_a_tag(
    store: LocalStore, client: httpx.AsyncClient
) -> None:
    put = await store.put("a/b.png", PNG)
    url = await store.url("a/b.png")
    got = await client.get(url)
    assert (got.status_code, got.content) == (200, PNG)
    assert got.headers["content-type"] == "image/png"
    assert got.headers["etag"] == f'"{put.checksum}"'
    assert "content-disposition" not in got.headers
    part = await client.get(url, headers={"Range": "bytes=8-15"})
    assert (part.status_code, part.content) == (206, PNG[8:16])
    head = await client.head(url)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(PNG)))


async def test_without_a_valid_signature_nothing_is_given(
    store: LocalStore, client: httpx.AsyncClient, clock: ManualClock
) -> None:
    await store.put("a", PNG)
    url = await store.url("a", expires_in=60)
    for wrong in ("/files/a", url + "x", url.replace("/a?", "/b?"), url.replace("expires=", "expires=9")):
        assert (await client.get(wrong)).status_code == 403
    assert (await client.put(url, content=PNG)).status_code == 403
    clock.advance(61)
    assert (await client.get(url)).status_code == 403
    assert (await client.post(url)).status_code == 405


async def test_what_a_browser_could_run_is_a_download_in_a_sandbox(
    store: LocalStore, client: httpx.AsyncClient
) -> None:
    await store.put("page.png", b"<html><script>alert(1)</script>")
    await store.put("drawing", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>")
    for key in ("page.png", "drawing"):
        got = await client.get(await store.url(key))
        assert got.headers["content-type"] == "application/octet-stream"
        assert got.headers["content-disposition"].startswith("attachment")
        assert got.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in got.headers["content-security-policy"]


async def test_a_download_has_the_name_asked_for_and_nothing_more(store: LocalStore, client: httpx.AsyncClient) -> None:
    await store.put("a", PNG)
    got = await client.get(await store.url("a", download_name='../x"\r\nSet-Cookie: a=b; ü.png'))
    assert got.headers["content-disposition"].startswith('attachment; filename="x_Set-Cookie: a=b_ _.png"')
    assert "set-cookie" not in got.headers


async def test_a_client_uploads_once_within_size_and_type(store: LocalStore, client: httpx.AsyncClient) -> None:
    async def upload(key: str, content: bytes, **changed: int) -> int:
        granted = await store.presign_upload(key, content_type="image/png", max_size=changed.get("max_size", 10_000))
        assert granted.method == "PUT"
        return (await client.put(granted.url, headers=dict(granted.headers), content=content)).status_code

    assert await upload("a.png", PNG) == 201
    assert await upload("a.png", PNG) == 409
    assert await upload("b.png", b"<html>") == 415
    assert await upload("c.png", PNG, max_size=100) == 413

    async def endless() -> AsyncIterator[bytes]:
        yield PNG
        yield PNG

    granted = await store.presign_upload("d.png", content_type="image/png", max_size=len(PNG))
    assert (await client.put(granted.url, content=endless())).status_code == 413
    assert (await client.put(granted.url.replace("max=", "max=9"), content=PNG)).status_code == 403
    assert (await store.stat("a.png")).size == len(PNG)


async def test_a_signed_address_of_nothing_is_not_found(store: LocalStore, client: httpx.AsyncClient) -> None:
    assert (await client.get(await store.url("nothing"))).status_code == 404
