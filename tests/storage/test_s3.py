"""S3 in particular: signatures, faults on the way, uploads in parts."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import given, strategies as st

from smriti_scale.errors import (
    ChecksumMismatch,
    ConfigurationError,
    ObjectExists,
    StorageError,
    StorageUnavailable,
)
from smriti_scale.events import Event, Events, StorageFailed
from smriti_scale.storage import S3Store
from smriti_scale.storage.s3_etag import PartsTag
from smriti_scale.storage.transfer import Transfer
from tests.storage.conftest import pieces

BIG = b"%PDF-1.7\n" + bytes(9 * 1024 * 1024)


class Flaky(httpx.AsyncBaseTransport):
    """Real HTTP, with faults: `plan` says for each request whether to fail before it, after it, or how to answer."""

    def __init__(self, plan: dict[int, Any]) -> None:
        self.plan = plan
        self.sent: list[httpx.Request] = []
        self._real = httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        number = len(self.sent)
        self.sent.append(request)
        fault = self.plan.get(number)
        if fault == "before":
            raise httpx.ConnectError("refused")
        if isinstance(fault, int):
            return httpx.Response(fault, request=request)
        response = await self._real.handle_async_request(request)
        if fault == "after":
            await response.aread()
            await response.aclose()
            raise httpx.ReadError("the connection broke")
        if fault == "midway":
            return httpx.Response(response.status_code, headers=response.headers, stream=Breaking(response))
        return response

    async def aclose(self) -> None:
        await self._real.aclose()


class Breaking(httpx.AsyncByteStream):
    """A body that ends too early, by a broken connection."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        sent = 0
        async for piece in self._response.aiter_raw(100_000):
            yield piece
            sent += len(piece)
            if sent >= 1_000_000:
                raise httpx.ReadError("the connection broke")

    async def aclose(self) -> None:
        await self._response.aclose()


@pytest.fixture
async def flaky(s3_options: dict[str, Any]) -> AsyncIterator[Any]:
    made: list[httpx.AsyncClient] = []

    def make(plan: dict[int, Any], **options: Any) -> tuple[S3Store, Flaky]:
        transport = Flaky(plan)
        made.append(httpx.AsyncClient(transport=transport))
        store = S3Store(**s3_options, client=made[-1], **options)
        store._transfer = Transfer("s3", made[-1], backoff=0.001, **options)
        return store, transport

    yield make
    for client in made:
        await client.aclose()


async def read(store: S3Store, key: str) -> bytes:
    return b"".join([piece async for piece in store.get(key)])


async def test_trouble_at_the_store_is_tried_again(flaky: Any) -> None:
    store, transport = flaky({0: 503, 1: "before", 3: 500, 4: "before"})
    await store.put("a", b"hello")
    assert [request.method for request in transport.sent] == ["HEAD"] * 3 + ["PUT"] * 3
    assert await read(store, "a") == b"hello"


async def test_a_put_whose_answer_was_lost_is_recognised_as_ones_own(flaky: Any) -> None:
    store, _ = flaky({1: "after"})
    assert (await store.put("a", b"hello")).size == 5
    assert await read(store, "a") == b"hello"


async def test_credentials_that_may_not_list_the_bucket_store_and_delete_all_the_same(flaky: Any) -> None:
    store, transport = flaky({0: 403, 2: 403, 4: 403, 8: 403})
    await store.put("a", b"hello")
    with pytest.raises(ObjectExists):
        await store.put("a", b"other")
    assert await store.delete("a")
    assert await store.delete("never/there") is False
    assert [request.method for request in transport.sent] == ["HEAD", "PUT"] * 2 + ["HEAD", "DELETE"] * 2
    with pytest.raises(StorageError, match="ListBucket"):
        await store.stat("a")


async def test_parts_and_completion_whose_answers_were_lost_are_sent_again(flaky: Any) -> None:
    store, transport = flaky({2: "after", 3: 503, 6: "after", 7: 404})
    await store.put("a", pieces(BIG))
    assert [request.method for request in transport.sent] == ["HEAD", "POST", *["PUT"] * 4, "POST", "POST", "HEAD"]
    assert await read(store, "a") == BIG


async def test_trouble_that_does_not_end_is_an_error_and_the_upload_is_given_up(flaky: Any) -> None:
    seen: list[Event] = []
    store, transport = flaky(dict.fromkeys(range(3, 500), 503), events=Events(seen.append))
    with pytest.raises(StorageUnavailable, match="put failed 4 times, last: status 503"):
        await store.put("a", pieces(BIG))
    assert transport.sent[-1].method == "DELETE"
    assert "uploadId" in str(transport.sent[-1].url)
    assert isinstance(seen[0], StorageFailed)


async def test_a_source_that_fails_aborts_the_upload(flaky: Any) -> None:
    store, transport = flaky({})

    async def breaks() -> AsyncIterator[bytes]:
        async for piece in pieces(BIG):
            yield piece
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await store.put("a", breaks())
    assert transport.sent[-1].method == "DELETE"


async def test_a_cancelled_upload_is_aborted(flaky: Any) -> None:
    store, transport = flaky({})
    stalled = asyncio.Event()

    async def stalls() -> AsyncIterator[bytes]:
        async for piece in pieces(BIG):
            yield piece
        stalled.set()
        await asyncio.Event().wait()

    putting = asyncio.create_task(store.put("a", stalls()))
    await stalled.wait()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert transport.sent[-1].method == "DELETE"


async def test_a_download_that_breaks_is_resumed_where_it_broke(flaky: Any) -> None:
    store, transport = flaky({})
    await store.put("a", pieces(BIG))
    transport.plan = {len(transport.sent): "midway", len(transport.sent) + 1: 503, len(transport.sent) + 2: "midway"}
    assert await read(store, "a") == BIG
    resumed = [request.headers["range"] for request in transport.sent if "range" in request.headers]
    assert len(resumed) == 3
    assert all("if-match" in request.headers for request in transport.sent if "range" in request.headers)


async def test_two_uploads_of_one_key_leave_one_object(s3_store: S3Store) -> None:
    outcomes = await asyncio.gather(
        *(s3_store.put("a", pieces(bytes([n]) * 1000)) for n in range(6)), return_exceptions=True
    )
    assert sum(isinstance(outcome, ObjectExists) for outcome in outcomes) == 5


async def test_an_object_that_was_changed_in_the_bucket_is_noticed(s3_store: S3Store) -> None:
    await s3_store.put("a", b"hello")
    async with httpx.AsyncClient() as client:
        headers = {"x-amz-meta-sha256": hashlib.sha256(b"hello").hexdigest()}
        url = s3_store._signer.presign("PUT", "a", headers=headers)
        assert (await client.put(url, headers=headers, content=b"hallo")).status_code == 200
    with pytest.raises(ChecksumMismatch):
        await read(s3_store, "a")


async def test_a_bucket_that_does_not_exist_is_told(s3_options: dict[str, Any]) -> None:
    store = S3Store(**{**s3_options, "bucket": "no-such-bucket"})
    with pytest.raises(StorageError, match="bucket"):
        await store.put("a", b"x")
    await store.aclose()


async def test_public_buckets_have_plain_addresses(s3_options: dict[str, Any]) -> None:
    store = S3Store(**s3_options, public_url="https://cdn.example.com/")
    assert await store.url("a/b.pdf") == "https://cdn.example.com/a/b.pdf"
    await store.aclose()


async def test_amazons_own_addresses_carry_the_bucket_as_host_and_a_signature() -> None:
    store = S3Store("pics", region="eu-central-1", access_key="AKIA", secret_key="s", session_token="t")
    url = httpx.URL(await store.url("a.png", expires_in=60, download_name="x.png"))
    assert url.host == "pics.s3.eu-central-1.amazonaws.com"
    assert url.params["X-Amz-Expires"] == "60"
    assert url.params["X-Amz-Security-Token"] == "t"
    assert url.params["response-content-disposition"] == 'attachment; filename="x.png"'
    assert len(url.params["X-Amz-Signature"]) == 64
    upload = await store.presign_upload("a.png", content_type="image/png", max_size=10)
    assert upload.fields["Content-Type"] == "image/png"
    await store.aclose()


def test_half_of_the_credentials_or_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="or neither"):
        S3Store("b", access_key="a")
    with pytest.raises(ConfigurationError, match="must begin with https"):
        S3Store("b", access_key="a", secret_key="b", endpoint="minio:9000")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with pytest.raises(ConfigurationError, match="found no credentials"):
        S3Store("b")


@given(st.lists(st.binary(max_size=40), max_size=12), st.integers(1, 16))
def test_the_tag_of_parts_does_not_depend_on_how_the_bytes_come(chunks: list[bytes], part_size: int) -> None:
    tag = PartsTag(part_size)
    for chunk in chunks:
        tag.update(chunk)
    data = b"".join(chunks)
    digests = [hashlib.md5(data[at : at + part_size]).digest() for at in range(0, len(data), part_size)]
    assert tag.value() == f"{hashlib.md5(b''.join(digests)).hexdigest()}-{len(digests)}"
