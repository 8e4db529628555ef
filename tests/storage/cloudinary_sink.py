"""A server that speaks Cloudinary's upload, admin and delivery protocol, as its documentation tells it.

Signatures are checked by code of its own, from the documented rule, not by the store's.
"""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from smriti_scale.storage import CloudinaryStore


@dataclass
class CloudinarySink:
    cloud: str
    api_key: str
    api_secret: str
    algorithm: str = "sha1"
    url: str = ""
    assets: dict[tuple[str, str, str], bytes] = field(default_factory=dict)
    partial: dict[str, bytearray] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    largest_body: int = 0
    failures: list[int] = field(default_factory=list)
    """Statuses to answer the next requests with, in place of doing them."""
    losing: list[int] = field(default_factory=list)
    """Numbers of the uploads that are done, but whose answers are lost."""
    damage: bool = False
    """Whether stored bytes are changed on the way."""

    @property
    def app(self) -> Starlette:
        base = f"/v1_1/{self.cloud}"
        return Starlette(
            routes=[
                Route(f"{base}/{{kind}}/upload", self.upload, methods=["POST"]),
                Route(f"{base}/{{kind}}/destroy", self.destroy, methods=["POST"]),
                Route(f"{base}/{{kind}}/download", self.download),
                Route(f"{base}/resources/{{kind}}/{{type}}/{{public_id:path}}", self.resource),
                Route(f"/{self.cloud}/{{kind}}/{{type}}/{{rest:path}}", self.deliver),
            ]
        )

    def store(self, **options: Any) -> CloudinaryStore:
        return CloudinaryStore(
            self.cloud,
            **{
                "api_key": self.api_key,
                "api_secret": self.api_secret,
                "api_url": self.url,
                "delivery_url": self.url,
                **options,
            },
        )

    def refuse(self, fields: dict[str, str]) -> Response | None:
        signed = {
            name: value
            for name, value in fields.items()
            if name not in ("file", "api_key", "signature", "resource_type", "cloud_name") and value
        }
        text = "&".join(f"{name}={value}" for name, value in sorted(signed.items())) + self.api_secret
        if hashlib.new(self.algorithm, text.encode()).hexdigest() != fields.get("signature"):
            return self.error(401, "Invalid Signature")
        if fields.get("api_key") != self.api_key:
            return self.error(401, "unknown api_key")
        if abs(time.time() - int(fields["timestamp"])) > 3600:
            return self.error(400, "Stale request")
        return None

    @staticmethod
    def error(status: int, message: str) -> Response:
        return JSONResponse({"error": {"message": message}}, status, {"X-Cld-Error": message})

    async def upload(self, request: Request) -> Response:
        self.requests.append("upload")
        number = self.requests.count("upload")
        body = await request.body()
        self.largest_body = max(self.largest_body, len(body))
        if self.failures:
            return self.error(self.failures.pop(0), "trouble")
        async with request.form(max_part_size=20_000_000) as form:
            fields = {name: value for name, value in form.items() if isinstance(value, str)}
            if (refused := self.refuse(fields)) is not None:
                return refused
            file = form["file"]
            assert isinstance(file, UploadFile)
            data = await file.read()
        place = (request.path_params["kind"], fields["type"], fields["public_id"])
        if "content-range" in request.headers:
            matched = re.fullmatch(r"bytes (\d+)-(\d+)/(-1|\d+)", request.headers["content-range"])
            assert matched is not None
            start, end, total = map(int, matched.groups())
            assert end - start + 1 == len(data)
            held = self.partial.setdefault(request.headers["x-unique-upload-id"], bytearray())
            held[start : end + 1] = data
            if total == -1:
                return JSONResponse({"done": False, "bytes": len(held)})
            assert total == len(held)
            data = bytes(held)
        if not data:
            return self.error(400, "Empty file")
        existing = place in self.assets
        if not existing or fields.get("overwrite") != "false":
            self.assets[place] = data[:-1] + b"?" if self.damage else data
        stored = self.assets[place]
        if number in self.losing:
            return self.error(502, "the answer was lost")
        return JSONResponse(
            {
                "public_id": place[2],
                "bytes": len(stored),
                "etag": hashlib.md5(stored).hexdigest(),
                "created_at": "2026-01-02T03:04:05Z",
                **({"existing": True} if existing else {}),
            }
        )

    async def destroy(self, request: Request) -> Response:
        form = await request.form()
        fields = {name: str(value) for name, value in form.items()}
        if (refused := self.refuse(fields)) is not None:
            return refused
        place = (request.path_params["kind"], fields["type"], fields["public_id"])
        return JSONResponse({"result": "not found" if self.assets.pop(place, None) is None else "ok"})

    async def download(self, request: Request) -> Response:
        fields = dict(request.query_params)
        if (refused := self.refuse(fields)) is not None:
            return refused
        if int(fields["expires_at"]) < time.time():
            return self.error(401, "expired")
        found = self.assets.get((request.path_params["kind"], fields["type"], fields["public_id"]))
        return self.error(404, "not found") if found is None else Response(found)

    async def resource(self, request: Request) -> Response:
        import base64

        expected = base64.b64encode(f"{self.api_key}:{self.api_secret}".encode()).decode()
        if request.headers.get("authorization") != f"Basic {expected}":
            return self.error(401, "wrong credentials")
        parameters = request.path_params
        found = self.assets.get((parameters["kind"], parameters["type"], parameters["public_id"]))
        if found is None:
            return self.error(404, "Resource not found")
        return JSONResponse({"bytes": len(found), "created_at": "2026-01-02T03:04:05Z"})

    async def deliver(self, request: Request) -> Response:
        self.requests.append("deliver")
        if self.failures:
            return self.error(self.failures.pop(0), "trouble")
        kind, delivered, rest = (request.path_params[name] for name in ("kind", "type", "rest"))
        if delivered == "authenticated":
            import base64

            matched = re.match(r"s--([^/]+)--/(.*)", rest)
            assert matched is not None
            digest = hashlib.new(self.algorithm, (matched[2] + self.api_secret).encode()).digest()
            if not base64.urlsafe_b64encode(digest).decode().startswith(matched[1]):
                return self.error(401, "wrong signature")
            rest = matched[2]
        rest = re.sub(r"^(?:[a-z]{1,2}_[^/]*)/", "", rest)
        public_id = rest if kind == "raw" else rest.rpartition(".")[0]
        found = self.assets.get((kind, delivered, public_id))
        if found is None:
            return self.error(404, "Resource not found")
        start = 0
        if matched := re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", "")):
            start = int(matched[1])
        return Response(found[start:], 206 if start else 200)
