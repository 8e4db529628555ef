"""Static files: built once with hashed names and variants, then sent as they are."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from smriti_scale.compression import CompressionMiddleware, StaticAssets, UnknownAsset, build_assets
from smriti_scale.errors import ConfigurationError, ScaleError
from tests.http_asgi import Answer, ask, decode

CSS = b"body { color: teal; }\n" * 200
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "static"
    (source / "css").mkdir(parents=True)
    (source / "css" / "app.css").write_bytes(CSS)
    (source / "logo.png").write_bytes(PNG)
    (source / "tiny.txt").write_bytes(b"tiny")
    (source / "data.csv.gz").write_bytes(b"\x1f\x8b" + bytes(600))
    (source / ".env").write_bytes(b"SECRET=1")
    return source


@pytest.fixture
def built(source: Path, tmp_path: Path) -> Path:
    build_assets(source, tmp_path / "dist")
    return tmp_path / "dist"


async def fetch(folder: Path, path: str, *, method: str = "GET", **headers: str) -> Answer:
    app = Starlette(routes=[Mount("/static", StaticAssets(folder))])
    return await ask(
        app, path, method=method, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )


def test_a_build_names_files_by_their_content_and_adds_smaller_variants(source: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    manifest = build_assets(source, tmp_path / "dist", progress=lambda *step: seen.append(step))
    assert sorted(manifest) == ["css/app.css", "data.csv.gz", "logo.png", "tiny.txt"]
    assert [done for _, done, _ in seen] == [1, 2, 3, 4]
    asset = manifest["css/app.css"]
    assert asset.path == f"css/app.{hashlib.blake2b(CSS, digest_size=12).hexdigest()}.css"
    assert set(asset.encodings) == {"br", "zstd", "gzip"}
    for coding, suffix in (("br", ".br"), ("zstd", ".zst"), ("gzip", ".gz")):
        coded = (tmp_path / "dist" / (asset.path + suffix)).read_bytes()
        assert len(coded) == asset.encodings[coding]
        assert decode(coded, coding) == CSS
    assert manifest["logo.png"].encodings == manifest["tiny.txt"].encodings == {}
    assert asset.integrity == "sha384-" + base64.b64encode(hashlib.sha384(CSS).digest()).decode()


def test_a_second_build_writes_only_what_changed_and_keeps_old_names(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "dist"
    before = build_assets(source, target)["css/app.css"].path
    untouched = (target / build_assets(source, target)["logo.png"].path).stat().st_mtime_ns
    (source / "css" / "app.css").write_bytes(b"p { margin: 0 }")
    after = build_assets(source, target)
    assert (target / before).read_bytes() == CSS
    assert (target / after["css/app.css"].path).read_bytes() == b"p { margin: 0 }"
    assert not (target / "css" / "app.css.br").exists(), "a variant of the earlier content"
    assert (target / after["logo.png"].path).stat().st_mtime_ns == untouched


def test_a_build_refuses_folders_that_would_feed_on_themselves(source: Path) -> None:
    with pytest.raises(ConfigurationError, match="outside"):
        build_assets(source, source / "dist")
    with pytest.raises(ConfigurationError, match="no folder"):
        build_assets(source / "absent", source.parent / "dist")


@pytest.mark.parametrize(
    ("accept", "coding"), [("zstd, br, gzip", "br"), ("gzip", "gzip"), ("zstd", "zstd"), ("x", None)]
)
async def test_a_hashed_file_is_sent_coded_and_kept_for_good(built: Path, accept: str, coding: str | None) -> None:
    answer = await fetch(built, StaticAssets(built).url("css/app.css"), accept_encoding=accept)
    assert answer.headers.get("content-encoding") == coding
    assert answer.headers["vary"] == "Accept-Encoding"
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["content-type"].startswith("text/css")
    assert answer.plain == CSS


async def test_each_variant_has_its_tag_and_revalidates_by_it(built: Path) -> None:
    path = StaticAssets(built).url("css/app.css")
    tags = {
        coding: (await fetch(built, path, accept_encoding=coding)).headers["etag"] for coding in ("br", "gzip", "x")
    }
    assert len(set(tags.values())) == 3
    for coding, tag in tags.items():
        again = await fetch(built, path, accept_encoding=coding, if_none_match=tag)
        assert (again.status, again.body) == (304, b"")
        assert again.headers["etag"] == tag
        assert again.headers["vary"] == "Accept-Encoding"
    assert (await fetch(built, path, accept_encoding="br", if_none_match=tags["gzip"])).status == 200


async def test_ranges_are_those_of_the_variant_sent(built: Path) -> None:
    path = StaticAssets(built).url("css/app.css")
    whole = await fetch(built, path, accept_encoding="br")
    part = await fetch(built, path, accept_encoding="br", range="bytes=5-14", if_range=whole.headers["etag"])
    assert part.status == 206
    assert part.body == whole.body[5:15]
    assert part.headers["content-encoding"] == "br"
    other = await fetch(built, path, accept_encoding="gzip", range="bytes=5-14", if_range=whole.headers["etag"])
    assert other.status == 200
    assert other.plain == CSS


async def test_the_plain_name_is_revalidated_every_time(built: Path) -> None:
    answer = await fetch(built, "/static/css/app.css", accept_encoding="br")
    assert answer.headers["cache-control"] == "public, no-cache"
    assert answer.headers["content-encoding"] == "br"
    assert answer.plain == CSS


async def test_a_variant_older_than_its_file_is_not_sent(built: Path) -> None:
    (built / "css" / "app.css").write_bytes(b"new " * 300)
    later = (built / "css" / "app.css").stat().st_mtime_ns + 10**9
    os.utime(built / "css" / "app.css", ns=(later, later))
    answer = await fetch(built, "/static/css/app.css", accept_encoding="br")
    assert answer.plain == b"new " * 300


async def test_an_archive_is_not_taken_for_a_coded_file(built: Path) -> None:
    answer = await fetch(built, "/static/data.csv.gz", accept_encoding="gzip")
    assert "content-encoding" not in answer.headers
    assert answer.headers["content-type"] == "application/gzip"


async def test_behind_the_compression_middleware_a_variant_still_revalidates(built: Path) -> None:
    app = CompressionMiddleware(Starlette(routes=[Mount("/static", StaticAssets(built))]))
    path = StaticAssets(built).url("css/app.css")
    first = await ask(app, path, headers={"accept-encoding": "br"})
    again = await ask(app, path, headers={"accept-encoding": "br", "if-none-match": first.headers["etag"]})
    assert (first.plain, again.status) == (CSS, 304)


@pytest.mark.parametrize(
    "path",
    [
        "/static/absent.css",
        "/static/.env",
        "/static/../secret",
        "/static/..%2fsecret",
        "/static/css",
        "/static/" + "x" * 5000,
        "/static/a\0b",
        "/static/manifest.json",
        "/static//etc/passwd",
    ],
)
async def test_what_is_no_file_of_the_folder_is_not_found(built: Path, path: str) -> None:
    (built.parent / "secret").write_bytes(b"secret")
    (built / ".env").write_bytes(b"secret")
    assert (await fetch(built, path)).status == 404


async def test_only_reading_is_allowed_and_head_has_no_body(built: Path) -> None:
    path = StaticAssets(built).url("css/app.css")
    assert (await fetch(built, path, method="POST")).status == 405
    head = await fetch(built, path, method="HEAD", accept_encoding="br")
    whole = await fetch(built, path, accept_encoding="br")
    assert head.body == b""
    assert head.headers["content-length"] == whole.headers["content-length"]


def test_addresses_name_the_cdn_and_unknown_files_their_neighbour(built: Path) -> None:
    assets = StaticAssets(built, url_path="/assets/", cdn="https://cdn.example.com/")
    assert assets.url("logo.png").startswith("https://cdn.example.com/assets/logo.")
    assert assets.integrity("logo.png").startswith("sha384-")
    with pytest.raises(UnknownAsset, match=r"did you mean 'css/app\.css'"):
        assets.url("css/ap.css")
    assert issubclass(UnknownAsset, (ScaleError, KeyError))


def test_without_a_manifest_names_stay_as_they_are(source: Path) -> None:
    assets = StaticAssets(source)
    assert assets.url("css/app.css") == "/static/css/app.css"
    with pytest.raises(UnknownAsset):
        assets.url("css/absent.css")
    with pytest.raises(UnknownAsset):
        assets.url("../static/css/app.css")


def test_a_broken_build_is_told_at_start(built: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no folder"):
        StaticAssets(tmp_path / "absent")
    with pytest.raises(ConfigurationError, match="https://"):
        StaticAssets(built, cdn="cdn.example.com")
    manifest = built / "manifest.json"
    gone = built / json.loads(manifest.read_bytes())["assets"]["logo.png"]["path"]
    gone.unlink()
    with pytest.raises(ConfigurationError, match="not in the folder"):
        StaticAssets(built)
    manifest.write_text("[]")
    with pytest.raises(ConfigurationError, match="build the assets again"):
        StaticAssets(built)
