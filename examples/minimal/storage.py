"""Files: stored in pieces, judged by their bytes, never overwritten, served by signed addresses."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator

from smriti_scale.errors import ObjectExists, ObjectTooLarge, UnacceptableContent
from smriti_scale.storage import LocalStore, new_key


async def upload(content: bytes) -> AsyncIterator[bytes]:
    """As a request's stream would bring it."""
    for start in range(0, len(content), 1000):
        yield content[start : start + 1000]


async def main() -> None:
    """Store a picture, and try what must not work."""
    with tempfile.TemporaryDirectory() as folder:
        store = LocalStore(folder, secret=b"32 random bytes, kept in secret!")
        picture = b"\x89PNG\r\n\x1a\n" + bytes(5000)
        key = new_key("pictures", suffix=".png")
        stored = await store.put(key, upload(picture), content_types=("image/png",), max_size=10_000)
        print(f"stored {stored.size} bytes of {stored.content_type}")
        print("served at", (await store.url(key)).partition("?")[0].replace(key, "…"))
        for attempt in (
            store.put(key, picture),
            store.put(new_key(), b"<script>", content_types=("image/png",)),
            store.put(new_key(), upload(picture), max_size=100),
        ):
            try:
                await attempt
            except (ObjectExists, ObjectTooLarge, UnacceptableContent) as error:
                print(f"refused: {str(error).replace(key, '…')}")
        print("deleted:", await store.delete(key), await store.delete(key))


if __name__ == "__main__":
    asyncio.run(main())
