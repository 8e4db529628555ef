"""S3 and whatever speaks its language (MinIO, R2, Ceph, Spaces): presigned requests over httpx.

Up to 8 MB go up in one request, more in parts of 8 MB, of which two are under way and none is kept longer. The
server checks every part against its MD5; nothing is overwritten (`If-None-Match: *`).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import math
import re
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import quote
from xml.sax.saxutils import escape

from smriti_scale.clock import SYSTEM_CLOCK, Clock
from smriti_scale.errors import ChecksumMismatch, ObjectExists, ObjectNotFound, StorageError
from smriti_scale.events import Events, ObjectStored
from smriti_scale.storage.base import (
    CHUNK,
    DEFAULT_MAX_SIZE,
    CheckedStream,
    DirectUpload,
    Source,
    StoredObject,
    check_key,
)
from smriti_scale.storage.headers import disposition
from smriti_scale.storage.s3_etag import PartsTag
from smriti_scale.storage.s3_signing import S3Signer
from smriti_scale.storage.transfer import Call, Transfer, make_client

if TYPE_CHECKING:
    import httpx

PART_SIZE = 8 * 1024 * 1024
_MAX_PARTS = 10_000
_PARALLEL = 2
_UPLOAD_ID = re.compile(r"<UploadId>([^<]+)</UploadId>")
_CODE = re.compile(r"<Code>([^<]+)</Code>")


class S3Store:
    """Keeps objects in a bucket.

    Args:
        bucket: the bucket's name.
        region: its region.
        endpoint: the address of an S3-compatible service; None is AWS.
        access_key: with `secret_key`; None takes what botocore finds (environment, profile, role).
        secret_key: see `access_key`.
        session_token: for temporary credentials.
        public_url: where the bucket can be read without a signature, such as a CDN; then `url` is that plus the key.
        timeout: seconds for one request to make progress.
        client: an httpx client of yours, which stays yours to close.
        clock: the source of time.
        events: receives `ObjectStored` and `StorageFailed`.

    Raises:
        ConfigurationError: there are no credentials, or the endpoint is no address.
        MissingExtraError: botocore or httpx is not installed.
    """

    def __init__(
        self,
        bucket: str,
        *,
        region: str = "us-east-1",
        endpoint: str | None = None,
        access_key: str | None = None,
        secret_key: str | None = None,
        session_token: str | None = None,
        public_url: str | None = None,
        timeout: float = 30.0,
        client: httpx.AsyncClient | None = None,
        clock: Clock = SYSTEM_CLOCK,
        events: Events | None = None,
    ) -> None:
        self._signer = S3Signer(
            bucket,
            region=region,
            endpoint=endpoint,
            access_key=access_key,
            secret_key=secret_key,
            session_token=session_token,
        )
        self._owns_client = client is None
        self._transfer = Transfer("s3", client or make_client("s3", timeout), clock=clock, events=events)
        self._public_url = public_url.rstrip("/") if public_url else None
        self._clock = clock
        self._events = events

    async def put(
        self,
        key: str,
        source: Source,
        *,
        content_types: tuple[str, ...] | None = None,
        max_size: int = DEFAULT_MAX_SIZE,
    ) -> StoredObject:
        """Store the bytes of `source`; see `ObjectStore.put`."""
        check_key(key)
        began = self._clock.monotonic()
        part_size = max(PART_SIZE, math.ceil(max_size / _MAX_PARTS))
        stream = CheckedStream(source, max_size=max_size, content_types=content_types, chunk=part_size)
        pieces = aiter(stream)
        first = await anext(pieces, b"")
        await self._ready()
        if await self._is_taken(key):
            raise ObjectExists(f"{key!r} is taken; stores do not overwrite")
        if len(first) < part_size:
            await self._put_whole(key, first, stream)
        else:
            await self._put_parts(key, first, pieces, stream, part_size)
        if self._events:
            self._events.emit(ObjectStored("s3", stream.size, self._clock.monotonic() - began))
        return StoredObject(
            key=key,
            size=stream.size,
            content_type=stream.content_type,
            checksum=stream.checksum,
            modified_at=datetime.fromtimestamp(self._clock.time(), UTC),
        )

    async def get(self, key: str) -> AsyncIterator[bytes]:
        """The bytes, piece by piece; see `ObjectStore.get`. Checked where S3 says what they should be."""
        check_key(key)
        await self._ready()
        whole = hashlib.sha256()
        parts: PartsTag | None = None
        expected: httpx.Headers | None = None

        def call(offset: int) -> Call:
            headers = {"Range": f"bytes={offset}-"} if offset else {}
            if offset and expected is not None and "etag" in expected:
                headers["If-Match"] = expected["etag"]
            return Call("GET", lambda: self._signer.presign("GET", key), headers)

        def check(response: httpx.Response) -> None:
            nonlocal expected, parts
            self._check(response, key, "get")
            if expected is None:
                expected = response.headers
                if (size := expected.get("x-amz-meta-part-size", "")).isdecimal() and not _encrypted(expected):
                    parts = PartsTag(int(size))

        async for piece in self._transfer.stream(call, operation="get", check=check, chunk=CHUNK):
            if parts is not None:
                parts.update(piece)
            else:
                whole.update(piece)
            yield piece
        given: Mapping[str, str] = expected or {}
        if parts is not None:
            intact = given.get("etag", "").strip('"') == parts.value()
        else:
            intact = given.get("x-amz-meta-sha256") in (None, whole.hexdigest())
        if not intact:
            raise ChecksumMismatch(f"{key!r} as S3 gave it is not what was stored")

    async def stat(self, key: str) -> StoredObject:
        """What is known about an object; see `ObjectStore.stat`."""
        check_key(key)
        await self._ready()
        found = await self._head(key)
        if found is None:
            raise ObjectNotFound(f"there is no object {key!r}")
        return StoredObject(
            key=key,
            size=int(found["content-length"]),
            content_type=found.get("content-type", "application/octet-stream"),
            checksum=found.get("x-amz-meta-sha256"),
            modified_at=parsedate_to_datetime(found["last-modified"]) if "last-modified" in found else None,
        )

    async def delete(self, key: str) -> bool:
        """Remove an object; see `ObjectStore.delete`. True also where the credentials may not know what is there."""
        check_key(key)
        await self._ready()
        taken = await self._is_taken(key)
        response, _ = await self._send("DELETE", key, operation="delete")
        if response.status_code != 404:
            self._check(response, key, "delete")
        return taken is not False

    async def url(self, key: str, *, expires_in: int = 3600, download_name: str | None = None) -> str:
        """A presigned address, or the public one; see `ObjectStore.url`."""
        check_key(key)
        if self._public_url is not None:
            return f"{self._public_url}/{quote(key)}"
        await self._ready()
        query = {} if download_name is None else {"response-content-disposition": disposition(download_name)}
        return self._signer.presign("GET", key, query=query, expires_in=expires_in)

    async def presign_upload(
        self, key: str, *, content_type: str, max_size: int, expires_in: int = 600
    ) -> DirectUpload:
        """A form that S3 holds to key, type and size; see `ObjectStore.presign_upload`."""
        check_key(key)
        await self._ready()
        url, fields = self._signer.presign_post(
            key, content_type=content_type, max_size=max_size, expires_in=expires_in
        )
        return DirectUpload(method="POST", url=url, key=key, expires_in=expires_in, fields=fields)

    async def aclose(self) -> None:
        """Close connections, unless the client was given."""
        if self._owns_client:
            await self._transfer.aclose()

    async def _put_whole(self, key: str, body: bytes, stream: CheckedStream) -> None:
        headers = {
            "If-None-Match": "*",
            "Content-Type": stream.content_type,
            "Content-MD5": _md5(body)[1],
            "x-amz-meta-sha256": stream.checksum,
        }
        response, attempt = await self._send("PUT", key, headers=headers, content=body, operation="put")
        # A try that was answered by a broken connection may have arrived all the same: then what is there is ours.
        if response.status_code == 412 and attempt > 1:
            found = await self._head(key)
            if found is not None and found.get("x-amz-meta-sha256") == stream.checksum:
                return
        self._check(response, key, "put")

    async def _put_parts(
        self, key: str, first: bytes, rest: AsyncIterator[bytes], stream: CheckedStream, part_size: int
    ) -> None:
        headers = {"Content-Type": stream.content_type, "x-amz-meta-part-size": str(part_size)}
        response, _ = await self._send("POST", key, query={"uploads": ""}, headers=headers, operation="put")
        self._check(response, key, "put")
        upload = _UPLOAD_ID.search(response.text)
        if upload is None:
            raise StorageError("S3 began a multipart upload without an UploadId")
        upload_id = upload[1]
        tags: dict[int, str] = {}
        window = asyncio.Semaphore(_PARALLEL)

        async def send(number: int, body: bytes) -> None:
            try:
                tags[number] = await self._put_part(key, upload_id, number, body)
            finally:
                window.release()

        try:
            async with asyncio.TaskGroup() as sending:
                number, body = 1, first
                while body:
                    await window.acquire()
                    sending.create_task(send(number, body))
                    number, body = number + 1, await anext(rest, b"")
            await self._complete(key, upload_id, tags, stream.size)
        except BaseException as error:
            # Parts of an upload that is never completed cost money until someone notices.
            await asyncio.shield(self._abort(key, upload_id))
            if isinstance(error, BaseExceptionGroup):
                raise error.exceptions[0] from None
            raise

    async def _put_part(self, key: str, upload_id: str, number: int, body: bytes) -> str:
        digest, encoded = await asyncio.to_thread(_md5, body)
        query = {"partNumber": str(number), "uploadId": upload_id}
        response, _ = await self._send(
            "PUT", key, query=query, headers={"Content-MD5": encoded}, content=body, operation="put"
        )
        self._check(response, key, "put")
        tag: str = response.headers["etag"]
        if not _encrypted(response.headers) and tag.strip('"') != digest:
            raise ChecksumMismatch(f"part {number} of {key!r} arrived at S3 as something else")
        return tag

    async def _complete(self, key: str, upload_id: str, tags: Mapping[int, str], size: int) -> None:
        listed = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(tag)}</ETag></Part>"
            for number, tag in sorted(tags.items())
        )
        response, attempt = await self._send(
            "POST",
            key,
            query={"uploadId": upload_id},
            headers={"If-None-Match": "*", "Content-Type": "application/xml"},
            content=f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode(),
            operation="put",
        )
        if response.status_code in (404, 412) and attempt > 1:  # a try whose answer was lost may have completed it
            found = await self._head(key)
            if found is not None and int(found["content-length"]) == size and "x-amz-meta-part-size" in found:
                return
        self._check(response, key, "put")
        if (code := _CODE.search(response.text)) is not None:  # an error may come with status 200 here
            raise self._transfer.unavailable("put", code[1])

    async def _abort(self, key: str, upload_id: str) -> None:
        try:
            await self._send("DELETE", key, query={"uploadId": upload_id}, operation="abort")
        except StorageError:
            return  # the bucket's lifecycle rule for unfinished uploads is the second net

    async def _is_taken(self, key: str) -> bool | None:
        """Whether there is such an object; None where the credentials may not know.

        Who may not list the bucket is answered 403 in place of 404. What writes is conditional in any case.
        """
        response, _ = await self._send("HEAD", key, operation="stat")
        if response.status_code in (403, 404):
            return None if response.status_code == 403 else False
        self._check(response, key, "stat")
        return True

    async def _head(self, key: str) -> httpx.Headers | None:
        response, _ = await self._send("HEAD", key, operation="stat")
        if response.status_code == 404:
            return None
        self._check(response, key, "stat")
        return response.headers

    async def _send(
        self,
        method: str,
        key: str,
        *,
        operation: str,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> tuple[httpx.Response, int]:
        def signed() -> str:
            return self._signer.presign(method, key, query=query, headers=headers)

        return await self._transfer.send(Call(method, signed, headers or {}, content), operation=operation)

    def _check(self, response: httpx.Response, key: str, operation: str) -> None:
        status = response.status_code
        if status < 300:
            return
        if status == 404:
            raise ObjectNotFound(f"there is no object {key!r}, or no such bucket")
        if status == 412:
            raise ObjectExists(f"{key!r} is taken; stores do not overwrite")
        code = _CODE.search(response.text) if response.is_closed else None
        advice = ""
        if status == 403:
            advice = "; check the credentials and what they may do"
            if operation in ("stat", "get"):
                advice += " (without s3:ListBucket this is also the answer for what is not there)"
        raise StorageError(f"S3 refused to {operation} {key!r}: {code[1] if code else status}{advice}")

    async def _ready(self) -> None:
        if self._signer.may_block:
            await asyncio.to_thread(self._signer.refresh)


def _encrypted(headers: Mapping[str, str]) -> bool:
    """Whether the object's tag is no MD5."""
    return "x-amz-server-side-encryption-customer-algorithm" in headers or headers.get(
        "x-amz-server-side-encryption", ""
    ).startswith("aws:kms")


def _md5(body: bytes) -> tuple[str, str]:
    digest = hashlib.md5(body, usedforsecurity=False)
    return digest.hexdigest(), base64.b64encode(digest.digest()).decode()
