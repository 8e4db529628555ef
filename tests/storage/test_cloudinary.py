"""Cloudinary in particular: its signatures, pieces, delivery."""

from __future__ import annotations

import httpx
import pytest

from smriti_scale.errors import (
    ChecksumMismatch,
    ConfigurationError,
    ObjectExists,
    ObjectNotFound,
    StorageError,
    StorageUnavailable,
)
from smriti_scale.storage import CloudinaryStore
from smriti_scale.storage.transfer import Transfer
from smriti_scale.testing.manual_clock import ManualClock
from tests.storage.cloudinary_sink import CloudinarySink
from tests.storage.conftest import pieces

PNG = b"\x89PNG\r\n\x1a\n" + b"x" * 1000
BIG = b"%PDF-" + bytes(17 * 1024 * 1024)


def test_the_signature_is_the_one_of_cloudinarys_own_example() -> None:
    # https://cloudinary.com/documentation/authentication_signatures: the documented fields, secret and result.
    store = CloudinaryStore("demo", api_key="1234", api_secret="abcd")
    fields = store.signed(
        {"eager": "w_400,h_300,c_pad|w_260,h_200,c_crop", "public_id": "sample_image"}, timestamp=1315060510
    )
    assert fields["signature"] == "bfd09f95f331f558cbd1320e67aa8d488770583e"


async def test_a_large_file_goes_up_in_pieces_that_are_never_large(
    cloudinary_sink: CloudinarySink, cloudinary_store: CloudinaryStore
) -> None:
    await cloudinary_store.put("big.pdf", pieces(BIG))
    assert cloudinary_sink.requests.count("upload") == 3
    assert cloudinary_sink.largest_body < 9 * 1024 * 1024
    assert cloudinary_sink.assets["raw", "upload", "big.pdf"] == BIG


async def test_trouble_is_tried_again_and_told_when_it_does_not_end(
    cloudinary_sink: CloudinarySink, cloudinary_store: CloudinaryStore
) -> None:
    cloudinary_store._transfer = Transfer("cloudinary", cloudinary_store._transfer.client, backoff=0.001)
    cloudinary_sink.failures = [503, 429, 500]
    await cloudinary_store.put("a.png", PNG)
    cloudinary_sink.failures = [503] * 4
    with pytest.raises(StorageUnavailable, match="cloudinary: put failed 4 times"):
        await cloudinary_store.put("b.png", PNG)


@pytest.mark.parametrize(("data", "last"), [(PNG, 1), (BIG, 3)], ids=["one piece", "three pieces"])
async def test_an_upload_whose_answer_was_lost_is_known_as_ones_own(
    data: bytes, last: int, cloudinary_sink: CloudinarySink, cloudinary_store: CloudinaryStore
) -> None:
    cloudinary_store._transfer = Transfer("cloudinary", cloudinary_store._transfer.client, backoff=0.001)
    cloudinary_sink.losing = [last]
    stored = await cloudinary_store.put("a.png", data)
    assert stored.size == len(data)
    assert cloudinary_sink.requests.count("upload") == last + 1
    with pytest.raises(ObjectExists):
        await cloudinary_store.put("a.png", data)
    cloudinary_sink.losing = [last + 3]
    with pytest.raises(ObjectExists):  # somebody else's, though an answer was lost
        await cloudinary_store.put("a.png", PNG + b"another")


async def test_pictures_are_delivered_through_transformations(cloudinary_store: CloudinaryStore) -> None:
    await cloudinary_store.put("pics/a.png", PNG)
    url = cloudinary_store.delivery_url("pics/a.png", transformation="c_fill,w_400,h_400,q_auto,f_auto")
    assert url.endswith("/demo/image/upload/c_fill,w_400,h_400,q_auto,f_auto/pics/a.png")
    async with httpx.AsyncClient() as client:
        assert (await client.get(url)).content == PNG
    with pytest.raises(ConfigurationError, match="no picture"):
        cloudinary_store.delivery_url("a.pdf", transformation="w_400")
    with pytest.raises(ConfigurationError, match="no transformation"):
        cloudinary_store.delivery_url("a.png", transformation="w_400?x")


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
async def test_authenticated_assets_need_a_signature(cloudinary_sink: CloudinarySink, algorithm: str) -> None:
    cloudinary_sink.algorithm = algorithm
    store = cloudinary_sink.store(access="authenticated", algorithm=algorithm)
    await store.put("a.png", PNG)
    await store.put("b.pdf", b"%PDF-1")
    async with httpx.AsyncClient() as client:
        good = store.delivery_url("a.png", transformation="w_100")
        assert (await client.get(good)).content == PNG
        assert (await client.get(good.replace("w_100", "w_999"))).status_code == 401
        for key, data in (("a.png", PNG), ("b.pdf", b"%PDF-1")):
            expiring = await store.url(key, expires_in=60)
            assert (await client.get(expiring)).content == data
            changed = str(httpx.URL(expiring).copy_set_param("expires_at", "9999999999"))
            assert (await client.get(changed)).status_code == 401
    assert b"".join([piece async for piece in store.get("a.png")]) == PNG
    assert await store.delete("a.png")
    await store.aclose()


async def test_wrong_credentials_are_told(cloudinary_sink: CloudinarySink) -> None:
    store = cloudinary_sink.store(api_secret="wrong")
    with pytest.raises(StorageError, match="Invalid Signature; check api_key and api_secret"):
        await store.put("a.png", PNG)
    with pytest.raises(StorageError, match="wrong credentials"):
        await store.stat("a.png")
    await store.aclose()


async def test_damage_on_the_way_is_noticed_and_removed(
    cloudinary_sink: CloudinarySink, cloudinary_store: CloudinaryStore
) -> None:
    cloudinary_sink.damage = True
    with pytest.raises(ChecksumMismatch, match="removed"):
        await cloudinary_store.put("a.png", PNG)
    with pytest.raises(ObjectNotFound):
        await cloudinary_store.stat("a.png")


async def test_a_form_holds_for_as_long_as_was_asked_only(cloudinary_sink: CloudinarySink) -> None:
    clock = ManualClock()
    store = cloudinary_sink.store(clock=clock)
    upload = await store.presign_upload("a.png", content_type="image/png", max_size=10, expires_in=60)
    # Cloudinary takes a signature for an hour after its timestamp.
    assert int(upload.fields["timestamp"]) + 3600 == int(clock.time()) + 60
    assert (await store.presign_upload("a", content_type="x", max_size=1, expires_in=99_999)).expires_in == 3600
    await store.aclose()


async def test_an_empty_file_is_refused_by_cloudinary_itself(cloudinary_store: CloudinaryStore) -> None:
    with pytest.raises(StorageError, match="Empty file"):
        await cloudinary_store.put("a.pdf", b"")


def test_missing_credentials_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="cloud_name, api_key and api_secret"):
        CloudinaryStore("", api_key="a", api_secret="b")
