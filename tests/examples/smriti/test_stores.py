"""An upload from end to end on each store that a setting names: kept, read for search, served, removed."""

from __future__ import annotations

from typing import Any

import pytest
from httpx import AsyncClient

from examples.smriti.app import create_app
from smriti_scale.errors import ObjectNotFound
from tests.examples.smriti.conftest import SettingsFactory, client_of, data_of, error_of, join_through
from tests.storage.cloudinary_sink import CloudinarySink
from tests.storage.conftest import cloudinary_sink, s3_endpoint, s3_options  # noqa: F401 - fixtures, for pytest to find

pytestmark = pytest.mark.long


@pytest.fixture
def of_local() -> dict[str, Any]:
    return {"storage": "local"}


@pytest.fixture
def of_s3(s3_options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:  # noqa: F811
    """Settings for moto's S3; its keys come from the environment, as S3's do."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_options["access_key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_options["secret_key"])
    return {"storage": "s3", "s3_bucket": s3_options["bucket"], "s3_endpoint": s3_options["endpoint"]}


@pytest.fixture
def of_cloudinary(cloudinary_sink: CloudinarySink) -> dict[str, Any]:  # noqa: F811
    return {
        "storage": "cloudinary",
        "cloudinary_cloud_name": cloudinary_sink.cloud,
        "cloudinary_api_key": cloudinary_sink.api_key,
        "cloudinary_api_secret": cloudinary_sink.api_secret,
        "cloudinary_api_url": cloudinary_sink.url,
        "cloudinary_delivery_url": cloudinary_sink.url,
    }


@pytest.fixture(params=["of_local", "of_s3", "of_cloudinary"])
def store(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The settings of each store in turn."""
    settings: dict[str, Any] = request.getfixturevalue(request.param)
    return settings


async def test_an_upload_is_kept_read_served_and_removed(
    smriti_settings: SettingsFactory, store: dict[str, Any]
) -> None:
    # Without Redis tasks run where they are published: the document is read before the answer.
    app = create_app(smriti_settings(redis_url=None, **store))
    async with app.router.lifespan_context(app), client_of(app) as client:
        person = await join_through(client)
        letter = b"The smell of rain on dry earth is called petrichor."
        sent = await client.post(
            "/api/posts/", data={"content_type": "document"}, files={"document": ("a letter.txt", letter)}
        )
        post = data_of(sent, 201)["post"]
        found = data_of(await client.get("/api/posts/search", params={"q": "petrichor"}))["posts"]
        assert [(each["postId"], each["documentStatus"]) for each in found] == [(post["postId"], "ready")]
        assert await served_from(client, post["documentUrl"]) == letter

        data_of(await client.delete(f"/api/posts/{post['postId']}"))
        with pytest.raises(ObjectNotFound):
            await app.state.services.files.store.stat(post["documentPublicId"])
        assert person.id


async def served_from(client: AsyncClient, url: str) -> bytes:
    """The bytes behind a post's address, by way of the store's own where it has one."""
    answer = await client.get("/files/" + url.partition("/files/")[2])
    if answer.status_code == 302:
        async with AsyncClient() as outside:
            answer = await outside.get(answer.headers["Location"])
    assert answer.status_code == 200, answer.text
    return answer.content


async def test_a_store_that_is_away_is_500_and_nothing_is_stored(
    smriti_settings: SettingsFactory, of_s3: dict[str, Any]
) -> None:
    app = create_app(smriti_settings(**{**of_s3, "s3_endpoint": "http://127.0.0.1:1"}))
    async with app.router.lifespan_context(app), client_of(app) as client:
        await join_through(client)
        sent = await client.post("/api/posts/", data={"content_type": "document"}, files={"document": ("x.txt", b"x")})
        error_of(sent, 500)
        assert data_of(await client.get("/api/posts/me"))["posts"] == []
