from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from motor.motor_asyncio import AsyncIOMotorDatabase

from examples.smriti.app import create_app
from examples.smriti.posts.uploads import LARGEST
from tests.examples.smriti.conftest import SettingsFactory, client_of, data_of, error_of, join_through

Database = AsyncIOMotorDatabase[dict[str, Any]]
Join = Callable[..., Any]

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 64
PDF = b"%PDF-1.4\n%%EOF\n"


async def test_an_image_is_stored_served_and_removed_with_its_post(client: AsyncClient, join: Join) -> None:
    person = await join()
    answer = await person.client.post(
        "/api/posts/", data={"content_type": "image", "text_content": "look"}, files={"image": ("Sun.PNG", PNG)}
    )
    post = data_of(answer, 201)["post"]
    assert (post["contentType"], post["textContent"]) == ("image", "look")
    path = urlsplit(post["imageUrl"]).path
    served = await client.get(path)
    assert served.content == PNG
    assert served.headers["content-type"] == "image/png"
    assert served.headers["x-content-type-options"] == "nosniff"
    data_of(await person.client.delete(f"/api/posts/{post['postId']}"))
    assert (await client.get(path)).status_code == 404


async def test_a_document_begins_pending(join: Join) -> None:
    person = await join()
    answer = await person.client.post(
        "/api/posts/", data={"content_type": "document"}, files={"document": ("notes.txt", b"plain words")}
    )
    post = data_of(answer, 201)["post"]
    assert (post["documentType"], post["documentStatus"]) == ("txt", "pending")
    assert post["documentUrl"].endswith(".txt")


@pytest.mark.parametrize(
    ("kind", "field", "name", "content"),
    [
        ("image", "image", "x.exe", PNG),
        ("image", "image", "png", PNG),
        ("image", "image", "x.png", b"not an image"),
        ("image", "image", "x.png", b""),
        ("image", "image", "x.jpg", PNG),
        ("image", "document", "x.png", PNG),
        ("document", "document", "x.png", PNG),
        ("document", "document", "x.pdf", b"MZ\x90\0 a program"),
        ("document", "document", "x.txt", b"\x7fELF\0\0"),
        ("document", "image", "x.pdf", PDF),
    ],
)
async def test_a_file_that_is_not_what_it_should_be_is_400(
    join: Join, motor_db: Database, kind: str, field: str, name: str, content: bytes
) -> None:
    person = await join()
    answer = await person.client.post("/api/posts/", data={"content_type": kind}, files={field: (name, content)})
    error_of(answer, 400)
    assert await motor_db.posts.count_documents({}) == 0


async def test_ten_mebibytes_are_taken_and_one_byte_more_is_not(join: Join) -> None:
    person = await join()
    for size, status in ((LARGEST, 201), (LARGEST + 1, 400)):
        content = PNG + b"\0" * (size - len(PNG))
        answer = await person.client.post(
            "/api/posts/", data={"content_type": "image"}, files={"image": ("x.png", content)}
        )
        assert answer.status_code == status


async def test_a_body_without_end_is_refused_on_the_way(app: FastAPI, join: Join) -> None:
    person = await join()
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        yield (
            b'--b\r\nContent-Disposition: form-data; name="content_type"\r\n\r\nimage\r\n'
            b'--b\r\nContent-Disposition: form-data; name="image"; filename="x.png"\r\n\r\n'
        )
        while sent < 200 * 1024 * 1024:
            sent += 1024 * 1024
            yield b"\0" * (1024 * 1024)

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    error_of(await person.client.post("/api/posts/", content=endless(), headers=headers), 400)
    assert sent < 30 * 1024 * 1024


async def test_files_of_other_kinds_are_ignored(join: Join) -> None:
    person = await join()
    data = {"content_type": "note", "text_content": "words"}
    post = data_of(await person.client.post("/api/posts/", data=data, files={"image": ("x.exe", b"MZ")}), 201)["post"]
    assert post["imageUrl"] is None


async def test_no_path_leads_out_of_the_store(client: AsyncClient) -> None:
    for key in ("../../etc/passwd", "..%2f..%2fetc%2fpasswd", "smriti/documents/" + "0" * 32 + ".png", "x", ""):
        assert (await client.get(f"/files/{key}")).status_code == 404


async def test_without_a_store_files_are_500_and_notes_still_work(smriti_settings: SettingsFactory) -> None:
    app = create_app(smriti_settings(storage="none"))
    async with app.router.lifespan_context(app):
        person = await join_through(client_of(app))
        answer = await person.client.post(
            "/api/posts/", data={"content_type": "image"}, files={"image": ("x.png", PNG)}
        )
        error_of(answer, 500)
        await person.note()
        await person.client.aclose()


async def test_a_batch_stores_what_it_can(join: Join) -> None:
    person = await join()
    posts = [
        {"queueId": "1", "contentType": "note", "textContent": "words"},
        {"queueId": "2", "contentType": "note"},
        {"queueId": "3", "contentType": "link", "linkUrl": "https://example.org", "title": "a link"},
        {"queueId": "4", "contentType": "image"},
    ]
    results = data_of(await person.client.post("/api/posts/batch", json={"posts": posts}))["results"]
    assert [(each["queueId"], each["success"]) for each in results] == [
        ("1", True),
        ("2", False),
        ("3", True),
        ("4", False),
    ]
    assert all(("error" in each) != each["success"] for each in results)
    assert len(data_of(await person.client.get("/api/posts/me"))["posts"]) == 2
    refused: list[dict[str, Any]] = [{}, {"posts": []}, {"posts": posts * 3}, {"posts": [{}]}]
    for wrong in refused:
        error_of(await person.client.post("/api/posts/batch", json=wrong), 400)


async def test_both_spellings_of_published_clients_are_served(client: AsyncClient, join: Join) -> None:
    person = await join("asha")
    for path in ("/api/auth/check-username/asha", "/auth/check-username/asha", "/api/api/auth/check-username/asha"):
        assert (await client.get(path)).json()["available"] is False
    for path in ("/health", "/health/db"):
        assert (await client.get(path)).status_code == 200
    for path in ("/circles", "/api/api/posts?limit=5", "/posts/me"):
        assert (await person.client.get(path)).status_code == 200


@pytest.mark.parametrize(
    ("kind", "name", "content"),
    [
        ("image", "x.jpg", b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(32)),
        ("image", "x.JPEG", b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(32)),
        ("image", "x.png", PNG),
        ("image", "x.gif", b"GIF89a" + bytes(32)),
        ("image", "x.webp", b"RIFF\x24\0\0\0WEBPVP8 " + bytes(32)),
        ("document", "x.pdf", PDF),
        ("document", "x.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(512)),
        ("document", "x.docx", b"PK\x03\x04" + bytes(64)),
        ("document", "my.notes.TXT", b"plain words"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_every_kind_that_is_named_is_taken(join: Join, kind: str, name: str, content: bytes) -> None:
    person = await join()
    answer = await person.client.post("/api/posts/", data={"content_type": kind}, files={kind: (name, content)})
    post = data_of(answer, 201)["post"]
    assert post[f"{kind}Url"].endswith(name.rpartition(".")[2].lower())
