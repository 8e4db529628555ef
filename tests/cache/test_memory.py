"""The memory tier keeps within its bounds and forgets what was not used."""

from __future__ import annotations

import gc
import resource
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from smriti_scale.cache import Cache
from smriti_scale.cache.changes import Changes
from smriti_scale.cache.entry import Entry, make_policy, make_record
from smriti_scale.cache.stores.memory import MemoryStore

POLICY = make_policy(100)


def entry(key: str, *tags: str) -> Entry:
    record = make_record(b"x", policy=POLICY, lifetime=100, now=0, delta=0, fingerprint="", tags=(), random=0)
    made = Entry(key, record, now_wall=0, now=0)
    made.tags = tags
    return made


operations = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 20), st.integers(0, 5000), st.sets(st.sampled_from("abc"))),
        st.tuples(st.just("use"), st.integers(0, 20)),
        st.tuples(st.just("drop"), st.integers(0, 20)),
        st.tuples(st.just("drop_tag"), st.sampled_from("abc")),
        st.tuples(st.just("clear")),
    ),
    max_size=60,
)


@settings(max_examples=40)
@given(operations)
def test_the_bounds_hold_and_the_indexes_agree_whatever_happens(steps: list[tuple[object, ...]]) -> None:
    store = MemoryStore(max_entries=8, max_bytes=12_000)
    for name, *arguments in steps:
        if name == "put":
            number, size, tags = arguments
            store.put(entry(f"k{number}", *tags), value_bytes=size)  # type: ignore[misc, arg-type]
        elif name == "use":
            if found := store.get(f"k{arguments[0]}"):
                found.used = True
        elif name == "drop":
            store.drop(f"k{arguments[0]}")
        elif name == "drop_tag":
            store.drop_tags([str(arguments[0])])
        else:
            store.clear()
        kept = [found for number in range(21) if (found := store.get(f"k{number}"))]
        assert len(kept) == len(store) <= 8
        assert sum(found.size for found in kept) == store.bytes <= 12_000
        assert {tag: {found.key for found in kept if tag in found.tags} for found in kept for tag in found.tags} == (
            store._by_tag
        )


def test_what_was_used_outlives_what_was_not() -> None:
    store = MemoryStore(max_entries=3, max_bytes=10**6)
    for key in "abc":
        store.put(entry(key), value_bytes=1)
    used = store.get("a")
    assert used is not None
    used.used = True
    store.put(entry("d"), value_bytes=1)
    assert [key for key in "abcd" if store.get(key)] == ["a", "c", "d"]
    assert store.evictions == 1


def test_an_entry_that_leaves_is_dead_to_whoever_still_holds_it() -> None:
    store = MemoryStore(max_entries=1, max_bytes=10**6)
    first = entry("a")
    hot: dict[object, Entry] = {("a",): first}
    first.hot, first.hot_key = hot, ("a",)
    store.put(first, value_bytes=1)
    store.put(entry("b"), value_bytes=1)
    assert first.until == float("-inf")
    assert hot == {}


async def test_a_value_larger_than_memory_is_served_and_not_kept() -> None:
    async with Cache(max_bytes=5000) as cache:

        @cache.cached(60)
        async def large(x: int) -> str:
            return "x" * 10_000

        assert len(await large(1)) == len(await large(1)) == 10_000
        assert cache.stats().memory_entries == 0
        assert cache.stats().loads == 2


@pytest.mark.long
@pytest.mark.parametrize("shared", [False, True])
async def test_distinct_keys_stay_inside_the_byte_bound(shared: bool) -> None:
    count, bound = 1_500, 2**20
    gc.collect()
    tracemalloc.start()
    try:
        async with Cache(max_entries=10**9, max_bytes=bound) as cache:

            @cache.cached(3600, tags=["all", "one:{n}"], shared=shared)
            async def row(n: int) -> dict[str, int | str]:
                return {"n": n, "name": f"name {n}", "text": "x" * (n % 200)}

            before = tracemalloc.get_traced_memory()[0]
            for n in range(count):
                await row(n)
            gc.collect()
            held = tracemalloc.get_traced_memory()[0] - before
            stats = cache.stats()
            assert stats.loads == count
            assert stats.memory_bytes <= bound
            assert stats.evictions >= count - stats.memory_entries > 0
            assert held <= bound * 1.1, f"{held / stats.memory_entries:.0f} bytes an entry"
    finally:
        tracemalloc.stop()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the process's memory as Linux tells it")
async def test_a_million_distinct_keys_stay_inside_the_byte_bound() -> None:
    bound = 64 * 2**20
    gc.collect()
    before = resident_bytes()
    async with Cache(max_entries=10**9, max_bytes=bound) as cache:
        for first in range(0, 1_000_000, 1000):
            rows = {f"row:{n}": {"n": n, "text": "x" * (n % 200)} for n in range(first, first + 1000)}
            await cache.set_many(rows, 3600, tags=["rows", f"page:{first}"])
        stats = cache.stats()
        assert stats.memory_bytes <= bound
        assert stats.evictions == 1_000_000 - stats.memory_entries > 900_000
        # The allocator keeps some of what was given back; without the bound this would be over a gigabyte.
        assert resident_bytes() - before < 2 * bound
        assert len(cache._tiers.memory._by_tag) <= stats.memory_entries + 1


names = st.sampled_from("abcd")


@settings(max_examples=40)
@given(
    st.lists(st.one_of(st.just("begin"), st.integers(0, 5), st.sets(names, min_size=1), st.just("all")), max_size=40)
)
def test_changes_remembers_all_that_a_running_read_needs_and_nothing_when_none_runs(steps: list[object]) -> None:
    changes = Changes()
    running: list[tuple[int, set[str]]] = []
    for step in steps:
        if step == "begin":
            running.append((changes.begin(), set()))
        elif isinstance(step, int):
            if step < len(running):
                changes.end(running.pop(step)[0])
        elif step == "all":
            changes.record_everything()
            for _, seen in running:
                seen.update("abcd")
        else:
            assert isinstance(step, set)
            changes.record(step)
            for _, seen in running:
                seen.update(step)
        for start, seen in running:
            assert {name for name in "abcd" if changes.since(start, [name])} == seen
    for start, _ in running:
        changes.end(start)
    assert not changes._at
    assert not changes._active
