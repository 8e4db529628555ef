"""The decorated function: what it refuses when decorating, and how calls find their entries."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from smriti_scale.cache import Cache, CachedFunction
from smriti_scale.errors import CacheKeyError, ConfigurationError
from smriti_scale.testing.manual_clock import ManualClock
from tests.cache.conftest import MakeCache


@dataclass
class User:
    id: int


async def test_a_hit_does_not_call_the_function_again(any_cache: Cache) -> None:
    calls = []

    @any_cache.cached(60)
    async def double(x: int) -> int:
        calls.append(x)
        return x * 2

    assert [await double(2), await double(2), await double(3)] == [4, 4, 6]
    assert calls == [2, 3]


async def test_one_call_written_two_ways_has_one_key(memory_cache: Cache) -> None:
    calls = 0

    @memory_cache.cached(60)
    async def add(a: int, b: int = 2, *, c: int = 3) -> int:
        nonlocal calls
        calls += 1
        return a + b + c

    assert await add(1, 2) == await add(1, b=2) == await add(a=1) == await add(c=3, a=1) == 6
    assert calls == 1
    assert add.key(1, 2) == add.key(1, b=2, c=3)


async def test_calls_with_equal_but_different_arguments_are_kept_apart(any_cache: Cache) -> None:
    @any_cache.cached(60)
    async def show(value: Any) -> str:
        return repr(value)

    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    values = [1, "1", True, 1.0, 0.0, -0.0, Decimal("1.0"), Decimal("1.00"), (1,), (True,), noon]
    values.append(noon.astimezone(timezone(timedelta(hours=1))))
    for _ in range(3):
        assert [await show(value) for value in values] == [repr(value) for value in values]


async def test_arguments_that_cannot_be_hashed_work_through_their_key(any_cache: Cache) -> None:
    calls = 0

    @any_cache.cached(60)
    async def total(numbers: list[int], weights: dict[str, int]) -> int:
        nonlocal calls
        calls += 1
        return sum(numbers) + sum(weights.values())

    for _ in range(3):
        assert await total([1, 2], {"a": 3}) == 6
    assert calls == 1
    assert await total([2, 2], {"a": 3}) == 7


async def test_var_arguments_are_part_of_the_key(memory_cache: Cache) -> None:
    calls = 0

    @memory_cache.cached(60)
    async def join(first: str, /, *rest: int, sep: str = "-", **more: int) -> str:
        nonlocal calls
        calls += 1
        return f"{first}{rest}{sep}{sorted(more.items())}"

    assert await join("a", 1, 2, x=1, y=2) == await join("a", 1, 2, y=2, x=1) == "a(1, 2)-[('x', 1), ('y', 2)]"
    assert await join("a", 1, 2, x=1) == "a(1, 2)-[('x', 1)]"
    assert calls == 2


async def test_the_signature_name_and_docstring_stay(memory_cache: Cache) -> None:
    @memory_cache.cached(60)
    async def find(user_id: str, *, limit: int = 20) -> list[str]:
        """Find."""
        return [user_id] * limit

    assert str(inspect.signature(find)) == "(user_id: 'str', *, limit: 'int' = 20) -> 'list[str]'"
    assert inspect.iscoroutinefunction(find)
    assert (find.__name__, find.__doc__) == ("find", "Find.")


async def test_wrong_arguments_fail_as_the_function_would(memory_cache: Cache) -> None:
    @memory_cache.cached(60)
    async def find(user_id: str) -> str:
        return user_id

    with pytest.raises(TypeError, match="unexpected keyword argument 'limit'"):
        await find("1", limit=2)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"find\(\) missing 1 required positional argument"):
        find.key()  # type: ignore[call-arg]


def test_a_parameter_forgotten_in_the_key_is_found_when_decorating(memory_cache: Cache) -> None:
    with pytest.raises(ConfigurationError, match=r"the parameter 'limit' is not in the key.*exclude=\['limit'\]"):

        @memory_cache.cached(60, key="posts:{user_id}")
        async def posts(user_id: str, limit: int = 20) -> list[str]:
            return []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key": "p:{nobody}"}, "has no parameter 'nobody', which its key"),
        ({"key": "p:{x}", "exclude": ["x"]}, "both in the key and excluded"),
        ({"exclude": ["y"]}, "no parameter 'y' to exclude; it has x"),
        ({"exclude": "x"}, "takes a list of names"),
        ({"tags": ["t:{y}"]}, "has no parameter 'y', which its tag"),
        ({"tags": "t:{x}"}, "takes a list of templates"),
        ({"tags": ["t:{x!s}"]}, "takes no format and no conversion"),
    ],
)
def test_a_mistake_in_key_exclude_or_tags_is_found_when_decorating(
    memory_cache: Cache, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):

        @memory_cache.cached(60, **options)
        async def function(x: int) -> int:
            return x


def test_a_method_must_say_what_self_means(memory_cache: Cache) -> None:
    with pytest.raises(ConfigurationError, match=r"is a method: .*\{self\.id\}.*exclude=\['self'\]"):

        class Repository:
            @memory_cache.cached(60)
            async def find(self, x: int) -> int:
                return x


async def test_methods_work_by_what_identifies_the_instance(any_cache: Cache) -> None:
    calls = []

    class Repository:
        def __init__(self, name: str) -> None:
            self.name = name

        @any_cache.cached(60, key="repository:{self.name}:{x}")
        async def find(self, x: int) -> str:
            calls.append((self.name, x))
            return f"{self.name}{x}"

    a, b = Repository("a"), Repository("b")
    assert [await a.find(1), await b.find(1), await a.find(1)] == ["a1", "b1", "a1"]
    assert calls == [("a", 1), ("b", 1)]
    await Repository.find.invalidate(a, 1)
    await a.find(1)
    assert calls == [("a", 1), ("b", 1), ("a", 1)]


async def test_an_excluded_argument_may_be_anything(any_cache: Cache) -> None:
    @any_cache.cached(60, key="row:{row_id}", exclude=["db"])
    async def row(db: object, row_id: int) -> int:
        return row_id

    assert await row(object(), 1) == await row({}, 1) == 1


async def test_an_argument_without_a_stable_text_is_a_clear_error(memory_cache: Cache) -> None:
    @memory_cache.cached(60)
    async def row(db: object, row_id: int) -> int:
        return row_id

    with pytest.raises(CacheKeyError, match="object cannot be part of a cache key"):
        await row(object(), 1)


async def test_attributes_of_arguments_can_be_the_key(any_cache: Cache) -> None:
    @any_cache.cached(60, key="posts:{user.id}", tags=["user:{user.id}"])
    async def posts(user: User) -> int:
        return user.id

    assert await posts(User(1)) == await posts(User(1)) == 1
    assert await posts(User(2)) == 2
    with pytest.raises(CacheKeyError, match="leads nowhere"):
        await posts(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (lambda: None, "is not an `async def` function"),
        (staticmethod(lambda: None), "below @staticmethod"),
    ],
)
def test_only_coroutine_functions_can_be_cached(memory_cache: Cache, target: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        memory_cache.cached(60)(target)


def test_two_functions_may_not_share_keys(memory_cache: Cache) -> None:
    @memory_cache.cached(60, key="x:{a}")
    async def one(a: int) -> int:
        return a

    with pytest.raises(ConfigurationError, match="would share the keys 'x:<>'"):

        @memory_cache.cached(60, key="x:{b}")
        async def two(b: int) -> str:
            return str(b)

    assert one.key(1) == "x:<i~1>"


def test_two_functions_of_one_name_in_a_module_may_not_share_keys(memory_cache: Cache) -> None:
    source = "@cache.cached(60)\nasync def find(x: int) -> int:\n    return {}\n"
    module: dict[str, Any] = {"__name__": "some_module", "cache": memory_cache}
    exec(source.format(1), module)
    exec(source.format(2), module)  # the same lines again: a reload
    kept = module["find"]
    with pytest.raises(ConfigurationError, match="give one of them another key"):
        exec("\n\n" + source.format(3), module)
    assert kept is module["find"]


def test_two_closures_of_one_name_may_not_share_keys(memory_cache: Cache) -> None:
    def make(n: int) -> Any:
        @memory_cache.cached(60)
        async def function(x: int) -> int:
            return n

        return function

    kept = make(1)
    with pytest.raises(ConfigurationError, match="give one of them another key"):
        make(2)
    del kept
    assert make(3) is not None  # the first is gone; so are its callers


async def test_a_return_type_may_be_defined_after_the_function(memory_cache: Cache) -> None:
    @memory_cache.cached(60)
    async def later() -> Later:
        return Later(7)

    assert await later() == Later(7)


@dataclass
class Later:
    n: int


async def test_a_return_type_that_is_nowhere_asks_for_as_type(memory_cache: Cache) -> None:
    @memory_cache.cached(60)
    async def never() -> Never:  # type: ignore[name-defined]  # noqa: F821
        return None

    with pytest.raises(ConfigurationError, match=r"cannot be looked up .*pass as_type="):
        await never()


async def test_results_come_as_the_annotated_type_from_every_tier(redis_cache: MakeCache) -> None:
    def decorate(cache: Cache) -> CachedFunction[[], list[User]]:
        @cache.cached(60, key="users")
        async def users() -> list[User]:
            return [{"id": 1}]  # type: ignore[list-item]

        return users

    loaded = await decorate(redis_cache())()
    reader = redis_cache()
    fetch = decorate(reader)
    from_redis, from_memory = await fetch(), await fetch()
    assert loaded == from_redis == from_memory == [User(1)]
    assert reader.stats().hits_redis == reader.stats().hits_memory == 1


async def test_a_callers_changes_reach_nobody_else(any_cache: Cache) -> None:
    @any_cache.cached(60)
    async def numbers() -> list[list[int]]:
        return [[1]]

    for _ in range(3):
        got = await numbers()
        assert got == [[1]]
        got[0].append(2)
        got.append([3])


async def test_shared_results_are_one_object(memory_cache: Cache) -> None:
    @memory_cache.cached(60, shared=True)
    async def numbers() -> list[int]:
        return [1]

    assert await numbers() is await numbers()


async def test_none_is_a_result_like_any_other(any_cache: Cache) -> None:
    calls = 0

    @any_cache.cached(60)
    async def nothing() -> None:
        nonlocal calls
        calls += 1

    await nothing()
    await nothing()
    assert calls == 1


async def test_peek_shows_without_calling(any_cache: Cache, clock: ManualClock) -> None:
    @any_cache.cached(60, tags=["t:{x}"])
    async def double(x: int) -> int:
        return x * 2

    assert await double.peek(2) is None
    await double(2)
    clock.advance(10)
    found = await double.peek(2)
    assert found is not None
    assert (found.value, found.age, found.expires_in, found.tags) == (4, 10, 50, ("t:2",))
    assert any_cache.stats().loads == 1


async def test_refresh_calls_now_and_stores(any_cache: Cache) -> None:
    calls = 0

    @any_cache.cached(60)
    async def count() -> int:
        nonlocal calls
        calls += 1
        return calls

    assert [await count(), await count.refresh(), await count()] == [1, 2, 2]


async def test_a_function_that_awaits_itself_is_told_so(memory_cache: Cache) -> None:
    @memory_cache.cached(60)
    async def endless(x: int) -> int:
        return await endless(x)

    with pytest.raises(ConfigurationError, match="awaits its own result"):
        await endless(1)


async def test_disabled_calls_every_time_and_keeps_nothing(any_cache: Cache) -> None:
    calls = 0

    @any_cache.cached(60)
    async def count() -> int:
        nonlocal calls
        calls += 1
        return calls

    assert await count() == 1
    with any_cache.disabled():
        assert [await count(), await count()] == [2, 3]
        await any_cache.set("k", 1, 60)
        assert await any_cache.get("k") is None
        assert await count.peek() is None
    assert await count() == 1
    assert await any_cache.get("k") is None
