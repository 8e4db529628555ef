"""Compression in one line: the same answer plain, coded for a browser, and as a static file coded ahead of time."""

import asyncio
import tempfile
from pathlib import Path

import httpx
from fastapi import FastAPI

from smriti_scale.compression import StaticAssets, build_assets, no_compression, setup_compression

app = FastAPI()
setup_compression(app, minimum_size=1000)


@app.get("/posts")
async def posts() -> list[dict[str, str]]:
    return [{"id": str(n), "text": "what a day it was"} for n in range(500)]


@app.get("/account")
@no_compression  # a secret beside the visitor's own text: see BREACH in the docs
async def account(search: str = "") -> dict[str, str]:
    return {"token": "s3cret" * 300, "search": search}


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "static"
        source.mkdir()
        (source / "app.css").write_text("body { color: teal }\n" * 200)
        build_assets(source, Path(folder) / "dist")
        assets = StaticAssets(Path(folder) / "dist")
        app.mount("/static", assets)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://local") as client:
            for accept in ("identity", "gzip", "gzip, deflate, br, zstd"):
                for path in ("/posts", "/account", assets.url("app.css")):
                    async with client.stream("GET", path, headers={"Accept-Encoding": accept}) as answer:
                        size = sum([len(chunk) async for chunk in answer.aiter_raw()])
                        coding = answer.headers.get("content-encoding", "plain")
                        print(f"{path:40} {accept:24} {coding:6} {size:>6} bytes")


if __name__ == "__main__":
    asyncio.run(main())
