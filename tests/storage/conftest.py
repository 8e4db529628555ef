"""Servers that stores talk to over real HTTP: moto's S3, and a sink that speaks Cloudinary's protocol."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import uvicorn

from smriti_scale.storage import CloudinaryStore, S3Store
from tests.storage.cloudinary_sink import CloudinarySink


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
async def s3_options(s3_endpoint: str) -> dict[str, Any]:
    """Arguments of an `S3Store` with a fresh bucket."""
    bucket = f"bucket-{secrets.token_hex(6)}"
    async with httpx.AsyncClient() as client:
        response = await client.put(f"{s3_endpoint}/{bucket}")
        assert response.status_code == 200, response.text
    return {"bucket": bucket, "endpoint": s3_endpoint, "access_key": "AKIATEST", "secret_key": "secret"}


@pytest.fixture
async def s3_store(s3_options: dict[str, Any]) -> AsyncIterator[S3Store]:
    store = S3Store(**s3_options)
    yield store
    await store.aclose()


@pytest.fixture
def cloudinary_sink() -> Iterator[CloudinarySink]:
    sink = CloudinarySink(cloud="demo", api_key="123", api_secret="shh")
    config = uvicorn.Config(sink.app, host="127.0.0.1", port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        threading.Event().wait(0.01)
    sink.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    yield sink
    server.should_exit = True
    thread.join(10)


@pytest.fixture
async def cloudinary_store(cloudinary_sink: CloudinarySink) -> AsyncIterator[CloudinaryStore]:
    store = cloudinary_sink.store()
    yield store
    await store.aclose()


async def pieces(data: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    """The data as a request's stream would bring it."""
    for start in range(0, len(data), size):
        await asyncio.sleep(0)
        yield data[start : start + size]
