"""Direct use, and values in Redis that cannot be used."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import pytest
import redis.asyncio
from hypothesis import given, settings, strategies as st
from pydantic import BaseModel

from smriti_scale.cache import BoundCodec, Cache, JSONCodec
from smriti_scale.cache.entry import Record
from smriti_scale.cache.wire import pack, unpack
from smriti_scale.errors import CacheKeyError, ConfigurationError, UncacheableValue
from smriti_scale.events import CacheRejected, Event, Events
from smriti_scale.testing.manual_clock import ManualClock
from tests.cache.conftest import MakeCache, until


class Post(BaseModel):
    title: str


async def test_what_is_set_can_be_got_for_its_ttl(any_cache: Cache, clock: ManualClock) -> None:
    assert await any_cache.get("k", "nothing") == "nothing"
    await any_cache.set("k", {"a": [1, None]}, 10)
    assert await any_cache.get("k") == {"a": [1, None]}
    clock.advance(10)
    assert await any_cache.get("k") is None


async def test_models_need_their_type_both_ways(any_cache: Cache) -> None:
    with pytest.raises(UncacheableValue, match="as_type="):
        await any_cache.set("k", Post(title="t"), 10)
    await any_cache.set("k", Post(title="t"), 10, as_type=Post)
    assert await any_cache.get("k", as_type=Post) == Post(title="t")


async def test_many_keys_at_once(any_cache: Cache) -> None:
    await any_cache.set_many({"a": 1, "b": 2}, 10, tags=["t"])
    assert await any_cache.get_many(["a", "b", "c"]) == {"a": 1, "b": 2}
    await any_cache.delete("a", "c")
    assert await any_cache.get_many(["a", "b"]) == {"b": 2}
    await any_cache.invalidate_tags("t")
    assert await any_cache.get_many(["a", "b"]) == {}
    await any_cache.set_many({}, 10)
    await any_cache.delete()


async def test_get_or_set_loads_once(any_cache: Cache) -> None:
    calls = 0

    async def load() -> list[int]:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.01)
        return [calls]

    results = await asyncio.gather(*(any_cache.get_or_set("k", load, 10, tags=["t"]) for _ in range(10)))
    assert results == [[1]] * 10
    await any_cache.invalidate_tags("t")
    assert await any_cache.get_or_set("k", load, 10, stale=5, tags_from=lambda _: ["u"]) == [2]
    await any_cache.invalidate_tags("u")
    assert await any_cache.get_or_set("k", load, lambda value: value[0]) == [3]
    with pytest.raises(TypeError):
        await any_cache.get_or_set("k", load, 10, nonsense=1)


async def test_what_is_set_takes_the_place_of_what_is_being_loaded(any_cache: Cache) -> None:
    entered, gate = asyncio.Event(), asyncio.Event()

    async def load() -> str:
        entered.set()
        await gate.wait()
        return "loaded"

    loading = asyncio.create_task(any_cache.get_or_set("k", load, 10))
    await entered.wait()
    await any_cache.set("k", "set", 10)
    gate.set()
    assert await loading == "loaded"
    assert await any_cache.get("k") == "set"


async def test_a_functions_entry_can_be_reached_by_its_key(any_cache: Cache) -> None:
    @any_cache.cached(60)
    async def posts(n: int) -> list[Post]:
        return [Post(title="x")] * n

    await posts(1)
    assert await any_cache.get(posts.key(1), as_type=list[Post]) == [Post(title="x")]
    assert await any_cache.get(posts.key(1), as_type=list[int]) is None


async def test_a_promise_not_to_change_a_value_binds_only_who_made_it(memory_cache: Cache) -> None:
    @memory_cache.cached(60, shared=True)
    async def numbers() -> list[int]:
        return [1]

    shared = await numbers()
    assert await memory_cache.get(numbers.key(), as_type=list[int]) is not shared


async def test_a_large_value_is_compressed_in_redis(redis_cache: MakeCache, redis_client: redis.asyncio.Redis) -> None:
    text = "smriti " * 20_000
    cache = redis_cache(max_entries=0)
    await cache.set("k", text, 60)
    (name,) = [key async for key in redis_client.scan_iter(match=f"{cache.name}:1:e:*")]
    assert await redis_client.strlen(name) < len(text) / 10
    assert await cache.get("k") == text


def a_record(payload: bytes = b"payload" * 10, **changes: Any) -> Record:
    fields: dict[str, Any] = {
        "born": 1.0,
        "fresh_until": 2.0,
        "stale_until": 3.0,
        "fallback_until": 4.0,
        "delta": 0.5,
        "fingerprint": "any",
        "tags": (("*", b"1-a"), ("t\u00e9", b"2-b")),
        "payload": payload,
    }
    return Record(**{**fields, **changes})


@settings(max_examples=40)
@given(st.binary(max_size=500), st.booleans())
def test_a_record_survives_its_bytes(payload: bytes, compress: bool) -> None:
    record = a_record(payload)
    assert unpack(pack(record, compress_over=0 if compress else None)) == record


@settings(max_examples=40)
@given(st.binary(max_size=300))
def test_foreign_bytes_are_no_record(raw: bytes) -> None:
    assert unpack(raw) is None
    assert unpack(b"\x93sc1" + raw) is None


@settings(max_examples=40)
@given(st.data(), st.booleans())
def test_no_altered_byte_goes_unnoticed(data: st.DataObject, compress: bool) -> None:
    raw = bytearray(pack(a_record(), compress_over=0 if compress else None))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    assert unpack(bytes(raw)) is None
    assert unpack(bytes(raw[:place])) is None


def test_a_length_that_lies_does_not_inflate_without_bound() -> None:
    import zlib

    raw = pack(a_record(b"x" * 10_000_000), compress_over=0)
    head = bytearray(raw)
    struct.pack_into("<I", head, struct.calcsize("<4sIBdddddI"), 10)
    head[4:8] = zlib.adler32(bytes(head[8:])).to_bytes(4, "little")
    assert unpack(bytes(head)) is None


class Reversed(JSONCodec):
    """Another codec, whose bytes the default one cannot read."""

    def bind(self, type_: Any) -> BoundCodec[Any]:
        class Bound:
            fingerprint = "any"

            def dumps(self, value: Any) -> tuple[bytes, Any]:
                return str(value).encode()[::-1], value

            def loads(self, raw: bytes) -> Any:
                return raw[::-1].decode()

        return Bound()


async def test_a_codec_can_be_given(redis_cache: MakeCache) -> None:
    one, other = redis_cache(codec=Reversed(), max_entries=0), redis_cache(codec=Reversed(), max_entries=0)
    await one.set("k", "abc", 60)
    assert await other.get("k") == "abc"


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        (b"", "foreign"),
        (b"not an entry", "foreign"),
        (pack(a_record(b'"x"'), compress_over=None)[:-1], "foreign"),
        (pack(a_record(b"t1", fingerprint="other", tags=()), compress_over=None), "type"),
        (pack(a_record(b"t{", tags=(), fallback_until=1e12), compress_over=None), "decode"),
        (pack(a_record(b"?", tags=(), fallback_until=1e12), compress_over=None), "decode"),
        ("list", None),
    ],
)
async def test_a_value_that_cannot_be_used_is_a_miss_counted_and_deleted(
    redis_cache: MakeCache, redis_client: redis.asyncio.Redis, stored: Any, reason: str | None
) -> None:
    seen: list[Event] = []
    cache = redis_cache(events=Events(seen.append))
    await cache.start()
    name = f"{cache.name}:1:e:{{k}}"
    if stored == "list":
        await redis_client.lpush(name, "x")
    else:
        await redis_client.set(name, stored)

    async def load() -> str:
        return "right"

    if reason is not None:
        assert await cache.get("k") is None
        assert CacheRejected(cache.name, "direct", reason) in seen
        assert cache.stats().rejected == 1
        await until(lambda: not cache._tiers._tasks)
        assert not await redis_client.exists(name)
    assert await cache.get_or_set("k", load, 60) == "right"
    assert await redis_cache().get("k") == "right"


async def test_a_value_of_a_changed_model_is_a_miss(redis_cache: MakeCache) -> None:
    def release(cache: Cache, version: int) -> Any:
        fields: dict[str, Any] = {"name": str} if version == 1 else {"name": str, "verified": bool}
        defaults = {} if version == 1 else {"verified": False}
        user = type("User", (BaseModel,), {"__annotations__": fields, "__module__": __name__, **defaults})

        @cache.cached(60, key="user", as_type=user)
        async def load() -> Any:
            return user(name="a", **({} if version == 1 else {"verified": True}))

        return load

    assert (await release(redis_cache(), 1)()).name == "a"
    assert (await release(redis_cache(), 2)()).verified is True  # not the default that the old value would get


async def test_a_result_that_cannot_be_stored_is_a_clear_error(any_cache: Cache) -> None:
    @any_cache.cached(60)
    async def handle() -> Any:
        return object()

    with pytest.raises(UncacheableValue, match="has no JSON form") as caught:
        await handle()
    assert "the result of tests.cache.test_direct" in caught.value.__notes__[0]
    with pytest.raises(UncacheableValue):
        await handle()  # and holds up nobody


@pytest.mark.parametrize(
    "options",
    [
        {"namespace": ""},
        {"namespace": "{x}"},
        {"max_entries": -1},
        {"max_bytes": -1},
        {"max_entries": 0},
        {"max_loads": 0},
        {"lease": 0},
        {"timeout": -1},
        {"max_partition_stale": -1},
        {"url": "http://localhost"},
    ],
)
def test_settings_that_cannot_work_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Cache(**options)


@pytest.mark.parametrize("key", ["", None, 7])
async def test_a_key_that_cannot_be_one_is_refused(memory_cache: Cache, key: Any) -> None:
    with pytest.raises(CacheKeyError):
        await memory_cache.get(key)
    with pytest.raises(CacheKeyError):
        await memory_cache.set(key, 1, 1)
    with pytest.raises(CacheKeyError):
        await memory_cache.invalidate(key)


@pytest.mark.parametrize("key", ["a{b}c", "}{", "%", "%7B", "é " * 100, "\n\0", "a b"])
async def test_a_key_may_hold_anything(redis_cache: MakeCache, key: str) -> None:
    writer, reader = redis_cache(), redis_cache()
    await writer.set(key, key, 60, tags=[key])
    assert await reader.get(key) == key
    await writer.invalidate_tags(key)
    assert await writer.get(key) is None


async def test_ping_answers_for_health_checks(any_cache: Cache) -> None:
    await any_cache.ping()


async def test_the_cache_is_open_again_after_it_was_closed(any_cache: Cache) -> None:
    await any_cache.set("k", 1, 60)
    await any_cache.aclose()
    await any_cache.aclose()
    await any_cache.set("k", 2, 60)
    assert await any_cache.get("k") == 2
