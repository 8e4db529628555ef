"""Codecs: how a value becomes bytes and comes back as the annotated type.

The default is JSON. Nothing is stored before it was read back and found to be the same, so a value that JSON or a
model's own serialisers would bend is an error on the first call, not a wrong value on the second.
"""

from __future__ import annotations

import functools
import operator
import sys
import types
import typing
from hashlib import blake2b
from typing import Any, Generic, Protocol, TypeVar

import orjson
import typing_extensions
from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import PydanticSerializationError, core_schema

from smriti_scale.cache import tagged
from smriti_scale.cache.sameness import same
from smriti_scale.errors import ConfigurationError, UncacheableValue

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_PLAIN: frozenset[Any] = frozenset({Any, object, None, type(None), str, int, float, bool, dict, list})
_CONFIG = ConfigDict(arbitrary_types_allowed=True)

_BYTES, _TAGGED, _MODEL_JSON, _MODEL_TAGGED = b"b", b"t", b"m", b"v"


class BoundCodec(Protocol[T_co]):
    """A codec for values of one type."""

    fingerprint: str
    """Changes when the type does: a value stored under another fingerprint is a miss."""

    def dumps(self, value: Any) -> tuple[bytes, T_co]:
        """The bytes, and the value as `loads` gives it back.

        Raises:
            UncacheableValue: it would not come back the same.
        """
        ...

    def loads(self, raw: bytes) -> T_co:
        """The value. Any `Exception` counts as a corrupted value, that is a miss."""
        ...


class Codec(Protocol):
    """What `Cache(codec=…)` takes."""

    def bind(self, type_: Any) -> BoundCodec[Any]:
        """A codec for the annotated type (`Any` where there is none)."""
        ...


class JSONCodec:
    """JSON by orjson and pydantic; the default."""

    def bind(self, type_: Any) -> BoundCodec[Any]:
        """See `Codec.bind`.

        Raises:
            ConfigurationError: pydantic can make nothing of the type.
        """
        if type_ is bytes:
            return _BytesCodec()
        if _is_plain(type_):
            return _PlainCodec(type_)
        return _ModelCodec(type_)


class _BytesCodec:
    fingerprint = "bytes"

    def dumps(self, value: Any) -> tuple[bytes, bytes]:
        if type(value) is not bytes:
            raise UncacheableValue(f"expected bytes, the annotated type, not {type(value).__qualname__}")
        return _BYTES + value, value

    def loads(self, raw: bytes) -> bytes:
        if raw[:1] != _BYTES:
            raise ValueError("not stored as bytes")
        return raw[1:]


class _PlainCodec:
    """For types that JSON knows, and for `Any`: no model to check against, types kept by marks."""

    def __init__(self, type_: Any) -> None:
        self.fingerprint = f"plain:{type_!r}" if type_ is not Any else "any"

    def dumps(self, value: Any) -> tuple[bytes, Any]:
        raw = _TAGGED + tagged.dumps(value)
        loaded = self.loads(raw)
        if not same(loaded, value):
            raise _not_the_same(value, loaded)
        return raw, loaded

    def loads(self, raw: bytes) -> Any:
        if raw[:1] != _TAGGED:
            raise ValueError("not stored as JSON")
        return tagged.loads(raw[1:])


class _ModelCodec(Generic[T]):
    """For everything pydantic can check: models, dataclasses, typed dicts, enums and containers of them."""

    def __init__(self, type_: Any) -> None:
        self._type = type_
        try:
            self._adapter, self._wrapped = _adapter(modern_typed_dicts(type_))
            schema = self._adapter.json_schema(schema_generator=_FingerprintSchema, by_alias=False)
        except (PydanticSchemaGenerationError, PydanticUserError) as error:
            raise ConfigurationError(
                f"values of type {type_!r} cannot be cached as JSON: {error}. Annotate a type that pydantic knows, "
                "pass as_type=…, or give the cache another codec"
            ) from error
        text = orjson.dumps([repr(type_), schema], option=orjson.OPT_SORT_KEYS, default=repr)
        self.fingerprint = blake2b(text, digest_size=8).hexdigest()

    def dumps(self, value: Any) -> tuple[bytes, T]:
        if (found := self._faithful(value)) is not None:
            return found
        # Not of the annotated type (rows for models, say): make it so, as every later hit will be.
        try:
            coerced = self._adapter.validate_python((value,) if self._wrapped else value)
        except ValidationError as error:
            raise UncacheableValue(f"the value is not of the annotated type {self._type!r}: {error}") from error
        if (found := self._faithful(coerced[0] if self._wrapped else coerced)) is not None:
            return found
        raise UncacheableValue(
            f"a value of type {self._type!r} does not come back from JSON as it went in: a field that is excluded, "
            "or a serialiser or validator that changes it. Annotate a type without, or give the cache another codec"
        )

    def _faithful(self, value: Any) -> tuple[bytes, T] | None:
        held = (value,) if self._wrapped else value
        for mode in (_MODEL_JSON, _MODEL_TAGGED):
            try:
                if mode == _MODEL_JSON:
                    raw = mode + self._adapter.dump_json(held, by_alias=True, warnings="error")
                else:
                    raw = mode + tagged.dumps(self._adapter.dump_python(held, by_alias=True, warnings="error"))
                loaded = self.loads(raw)
            except (PydanticSerializationError, UncacheableValue, ValueError, TypeError):
                continue
            if same(loaded, value):
                return raw, loaded
        return None

    def loads(self, raw: bytes) -> T:
        mode = raw[:1]
        if mode == _MODEL_JSON:
            value = self._adapter.validate_json(raw[1:])
        elif mode == _MODEL_TAGGED:
            value = self._adapter.validate_python(tagged.loads(raw[1:]))
        else:
            raise ValueError("not stored as a model")
        return typing.cast("T", value[0] if self._wrapped else value)


class _FingerprintSchema(GenerateJsonSchema):
    """JSON schema for comparing only: a type without one stands for itself by name."""

    def handle_invalid_for_json_schema(self, schema: core_schema.CoreSchema, error_info: str) -> JsonSchemaValue:
        return {"python": repr(schema.get("cls", schema.get("type")))}


def _adapter(type_: Any) -> tuple[TypeAdapter[Any], bool]:
    """The adapter, and whether it takes the value inside a tuple of one."""
    try:
        return TypeAdapter(type_, config=_CONFIG), False
    except PydanticUserError as error:
        if error.code != "type-adapter-config-unused":
            raise
    try:
        return TypeAdapter(type_), False
    except PydanticSchemaGenerationError:
        # A dataclass or TypedDict with a field such as ObjectId takes the permission for it from what is around it.
        return TypeAdapter(tuple[type_], config=_CONFIG), True


def modern_typed_dicts(type_: Any) -> Any:
    """The type with each `typing.TypedDict` in it rebuilt, since before Python 3.12 pydantic refuses those."""
    if sys.version_info >= (3, 12):
        return type_
    if typing.is_typeddict(type_) and type(type_).__module__ == "typing":
        hints = typing.get_type_hints(type_, include_extras=True)
        fields = {
            name: typing_extensions.Required[modern_typed_dicts(hint)]
            if name in type_.__required_keys__
            else typing_extensions.NotRequired[modern_typed_dicts(hint)]
            for name, hint in hints.items()
        }
        return typing_extensions.TypedDict(type_.__name__, fields)  # type: ignore[operator]
    origin, arguments = typing.get_origin(type_), typing.get_args(type_)
    if not arguments or origin in {typing.Literal, typing.Annotated}:
        return type_
    rebuilt = tuple(map(modern_typed_dicts, arguments))
    if rebuilt == arguments:
        return type_
    if origin in {typing.Union, types.UnionType}:
        return functools.reduce(operator.or_, rebuilt)
    return origin[rebuilt]


def _is_plain(type_: Any) -> bool:
    """Whether JSON itself gives the type back: text, numbers, booleans, null, lists and dicts of them, `Any`."""
    try:
        if type_ in _PLAIN:
            return True
    except TypeError:
        return False
    origin, arguments = typing.get_origin(type_), typing.get_args(type_)
    if origin is dict:
        return arguments[0] is str and _is_plain(arguments[1])
    if origin is list:
        return _is_plain(arguments[0])
    if origin in {typing.Union, types.UnionType}:
        return all(map(_is_plain, arguments))
    return False


def _not_the_same(value: Any, loaded: Any) -> UncacheableValue:
    return UncacheableValue(
        f"{type(value).__module__}.{type(value).__qualname__} came back from JSON as {type(loaded).__qualname__}: "
        "annotate the function's return type or pass as_type=…"
    )
