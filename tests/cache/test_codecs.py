"""Values come back as the annotated type and as they went in, or are refused."""

from __future__ import annotations

import contextlib
import enum
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Literal, NewType, TypedDict
from uuid import UUID, uuid4

import pytest
from bson import ObjectId
from bson.errors import InvalidId
from hypothesis import given, settings, strategies as st
from pydantic import BaseModel, ConfigDict, Field, computed_field, field_serializer, field_validator

from smriti_scale.cache.codecs import JSONCodec
from smriti_scale.cache.sameness import held_bytes, immutable, same
from smriti_scale.errors import ConfigurationError, UncacheableValue


class Mood(enum.Enum):
    GOOD = "good"
    BAD = 2


class Tag(enum.StrEnum):
    NEW = "new"


class Post(BaseModel):
    id: str = Field(alias="_id")
    at: datetime
    price: Decimal
    body: bytes
    owner: UUID | str
    mood: Mood


class Row(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    id: ObjectId
    tags: set[str] = set()


@dataclass
class Place:
    id: ObjectId
    image: bytes
    near: list[Place] | None = None


class Account(TypedDict):
    id: ObjectId
    since: datetime


class Loose(TypedDict, total=False):
    name: str


UserId = NewType("UserId", str)

NOW = datetime(2026, 5, 4, 3, 2, 1, 987654, tzinfo=UTC)
POST = Post(_id="x", at=NOW, price=Decimal("1.10"), body=b"\xff\x00", owner=uuid4(), mood=Mood.BAD)


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (Post, POST),
        (list[Post], [POST, POST]),
        (dict[str, Post], {"a": POST}),
        (Post | None, None),
        (Row, Row(id=ObjectId(), tags={"a"})),
        (Place, Place(ObjectId(), b"\xff", [Place(ObjectId(), b"")])),
        (list[Place], [Place(ObjectId(), b"1")]),
        (Account, {"id": ObjectId(), "since": NOW}),
        (list[Account], [{"id": ObjectId(), "since": NOW}]),
        (Account | None, {"id": ObjectId(), "since": NOW}),
        (Loose, {}),
        (Mood, Mood.GOOD),
        (Tag, Tag.NEW),
        (list[Mood], [Mood.GOOD, Mood.BAD]),
        (ObjectId, ObjectId()),
        (datetime, NOW),
        (datetime, datetime(2026, 1, 1)),
        (Decimal, Decimal("1.10")),
        (UUID, uuid4()),
        (bytes, b"\x00\xff"),
        (bytes | None, b"\x00\xff"),
        (tuple[int, str], (1, "a")),
        (set[int], {1, 2}),
        (float, float("inf")),
        (list[float], [float("nan"), -0.0]),
        (UserId, UserId("42")),
        (Literal["a", "b"], "a"),
        (int, 2**100),
        (str, 'text with "$oid"'),
        (None, None),
        (dict[str, Any], {"id": ObjectId(), "at": NOW, "uuid": uuid4(), "raw": b"\xff", "n": None}),
        (list[dict[str, Any]], [{"_id": ObjectId(), "price": Decimal("1.10")}]),
        (Any, {"$oid": "not one", "$x": {"$dt": 1}}),
        (Any, {1: "a", "1": "b", None: [(1, (2,)), {3}, frozenset({4})]}),
        (Any, [date(2026, 1, 1), time(1, 2, 3), timedelta(days=1, microseconds=1), 2**80, True, 1, 1.0]),
        (dict[int, str], {1: "a"}),
    ],
)
def test_a_value_comes_back_as_the_annotated_type(type_: Any, value: Any) -> None:
    codec = JSONCodec().bind(type_)
    raw, loaded = codec.dumps(value)
    assert same(loaded, value)
    assert same(codec.loads(raw), value)


def test_rows_become_the_annotated_models() -> None:
    codec = JSONCodec().bind(list[Row])
    identity = ObjectId()
    _, loaded = codec.dumps([{"id": identity, "tags": {"a"}}])
    assert same(loaded, [Row(id=identity, tags={"a"})])


class Display(BaseModel):
    price: Decimal

    @field_serializer("price")
    def shown(self, price: Decimal) -> str:
        return f"₹{price}"


class Hashed(BaseModel):
    secret: str

    @field_validator("secret")
    @classmethod
    def hashed(cls, secret: str) -> str:
        return f"#{secret}"


class Hidden(BaseModel):
    name: str
    password: str = Field("", exclude=True)


class Computed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    n: int

    @computed_field
    def twice(self) -> int:
        return self.n * 2


class TextId(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (Display, Display(price=Decimal(1))),
        (Hashed, Hashed(secret="x")),
        (Hidden, Hidden(name="a", password="b")),
        (Computed, Computed(n=1)),
        (Any, object()),
        (Any, Mood.GOOD),
        (Any, Tag.NEW),
        (Any, POST),
        (Any, Place(ObjectId(), b"")),
        (Any, TextId("a")),
        (str, TextId("a")),
        (int, Tag.NEW),
        (bytes, "text"),
        (Post, {"id": 1}),
        (dict[str, Any], {"f": lambda: None}),
    ],
)
def test_a_value_that_would_be_bent_is_refused(type_: Any, value: Any) -> None:
    with pytest.raises(UncacheableValue):
        JSONCodec().bind(type_).dumps(value)


def test_a_refusal_says_what_to_do() -> None:
    with pytest.raises(UncacheableValue, match=r"annotate the function's return type.*as_type="):
        JSONCodec().bind(Any).dumps(POST)


def test_a_type_that_cannot_be_checked_is_refused_when_bound() -> None:
    with pytest.raises(ConfigurationError, match="cannot be cached as JSON"):
        JSONCodec().bind(list["Nowhere"])  # type: ignore[name-defined]  # noqa: F821


def test_the_fingerprint_changes_with_the_model_and_only_then() -> None:
    def model(**fields: Any) -> Any:
        return type("Thing", (BaseModel,), {"__annotations__": fields, "__module__": __name__})

    def fingerprint(**fields: Any) -> str:
        return JSONCodec().bind(list[model(**fields)]).fingerprint  # type: ignore[misc]

    assert fingerprint(a=int) == fingerprint(a=int) != fingerprint(a=int, b=str)
    assert JSONCodec().bind(dict[str, int]).fingerprint != JSONCodec().bind(dict[str, str]).fingerprint


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.decimals()
    | st.uuids()
    | st.datetimes(timezones=st.none() | st.just(UTC))
    | st.dates()
    | st.timedeltas(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner),
    max_leaves=8,
)


@settings(max_examples=40)
@given(plain)
def test_whatever_goes_in_unannotated_comes_back_the_same(value: Any) -> None:
    codec = JSONCodec().bind(Any)
    assert same(codec.loads(codec.dumps(value)[0]), value)


@settings(max_examples=40)
@given(st.binary())
def test_bytes_of_another_origin_are_refused_or_read_never_worse(raw: bytes) -> None:
    for type_ in (Any, Account, bytes):
        with contextlib.suppress(ValueError, LookupError, TypeError, ArithmeticError, InvalidId):
            JSONCodec().bind(type_).loads(raw)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (1, True),
        (1, 1.0),
        ("a", Tag.NEW),
        (Decimal("1.0"), Decimal("1.00")),
        (0.0, -0.0),
        (NOW, NOW.replace(tzinfo=None)),
        ((1,), [1]),
        ({1}, {True}),
        ([1, [True]], [1, [1]]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ],
)
def test_same_is_stricter_than_equal(left: Any, right: Any) -> None:
    assert not same(left, right)


@dataclass(frozen=True)
class Frozen:
    x: Any


class FrozenModel(BaseModel):
    model_config = ConfigDict(frozen=True)
    x: Any


@pytest.mark.parametrize(
    "value",
    [1, "a", None, b"", NOW, ObjectId(), (1, ("a",)), frozenset({1}), Mood.GOOD, Frozen(1), FrozenModel(x=(1,))],
)
def test_what_nobody_can_change_is_shared(value: Any) -> None:
    assert immutable(value)


@pytest.mark.parametrize("value", [[], {}, set(), ([],), Frozen([]), FrozenModel(x=[]), POST, Place(ObjectId(), b"")])
def test_what_somebody_could_change_is_not(value: Any) -> None:
    assert not immutable(value)


def test_held_bytes_counts_the_parts_once() -> None:
    part = "x" * 1000
    assert held_bytes([part, part]) < held_bytes([part]) + 200
    assert held_bytes({"a": [part], "b": Place(ObjectId(), b"y" * 500)}) > 1500


@pytest.mark.long
@settings(max_examples=1_500, deadline=None)
@given(plain)
def test_in_bulk_whatever_goes_in_unannotated_comes_back_the_same(value: Any) -> None:
    codec = JSONCodec().bind(Any)
    assert same(codec.loads(codec.dumps(value)[0]), value)
