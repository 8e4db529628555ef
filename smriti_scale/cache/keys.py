"""Cache keys: templates, and an injective, typed and readable text for every supported value.

A rendered key alternates literal text and values in angle brackets: `posts:<42>:<i~20>`. A text value stands as it is,
any other carries its type before a tilde, so `1`, `"1"` and `True` differ; brackets, tildes and percent signs inside a
value are percent-encoded, so no value can imitate a border and `("a:b", "c")` differs from `("a", "b:c")`.
"""

from __future__ import annotations

import dataclasses
import re
import string
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from hashlib import blake2b
from typing import Any
from urllib.parse import quote
from uuid import UUID

from bson import ObjectId
from pydantic import BaseModel

from smriti_scale.errors import CacheKeyError, ConfigurationError

MAX_KEY = 200
"""Longer keys (characters) are cut to a readable prefix and a BLAKE2b-160 digest of the whole."""

EVERYTHING = "*"
"""The tag that every entry has: its version changes when the cache is cleared."""

_READABLE = 120
_STEP = re.compile(r"\.[^\W\d]\w*|\[[^\[\]]+\]")
_FIELD = re.compile(rf"([^\W\d]\w*)((?:{_STEP.pattern})*)")
_SAFE = " !$&'()*+,-./:;=?@[]^_|"


def encode_value(value: object) -> str:
    """A text that no other value of any supported type has.

    Raises:
        CacheKeyError: the type has no stable text (its `repr` would hold an object's address).
    """
    kind = value.__class__
    if kind is str:
        return _text(value)  # type: ignore[arg-type]
    if kind is int:
        return f"i~{value}"
    if value is None:
        return "n~"
    return _encode_other(value)


def _text(value: str) -> str:
    if value.isascii() and value.isalnum():
        return value
    return quote(value, safe=_SAFE, errors="surrogatepass").replace("~", "%7E")


def _encode_other(value: object) -> str:
    if isinstance(value, Enum):
        return f"e~{_class(value)}.{value.name}"
    for types, encode in _ENCODERS:
        if isinstance(value, types):
            return encode(value)
    if isinstance(value, (tuple, list)):
        # A named tuple is not the plain tuple of its values: functions tell them apart by attribute.
        name = {tuple: "t", list: "l"}.get(type(value), f"t~{_class(value)}")
        return f"{name}~{_many(value)}"
    if isinstance(value, (set, frozenset)):
        return "s~" + "".join(sorted(f"<{encode_value(item)}>" for item in value))
    if isinstance(value, Mapping):
        pairs = sorted(f"<{encode_value(name)}><{encode_value(item)}>" for name, item in value.items())
        return "m~" + "".join(pairs)
    if isinstance(value, BaseModel):
        return f"p~{_class(value)}~{_many([*value.__dict__.items(), *(value.__pydantic_extra__ or {}).items()])}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
        return f"d~{_class(value)}~{_many(fields)}"
    raise CacheKeyError(
        f"{_class(value)} cannot be part of a cache key: it has no text that is the same in every process. "
        "Name what identifies it in the key template, as in '{user.id}', or exclude the parameter by name"
    )


_ENCODERS: tuple[tuple[type | tuple[type, ...], Callable[[Any], str]], ...] = (
    (str, lambda value: _text(str.__str__(value))),
    (bool, lambda value: f"b~{int(value)}"),
    (int, lambda value: f"i~{int(value)}"),
    (float, lambda value: f"f~{float(value)!r}"),
    ((bytes, bytearray), lambda value: f"y~{bytes(value).hex()}"),
    (UUID, lambda value: f"u~{value}"),
    (ObjectId, lambda value: f"o~{value}"),
    (datetime, lambda value: f"dt~{_text(value.isoformat())}{'~1' if value.fold else ''}"),
    (date, lambda value: f"da~{value.isoformat()}"),
    (time, lambda value: f"ti~{_text(value.isoformat())}{'~1' if value.fold else ''}"),
    (timedelta, lambda value: f"td~{value.days}.{value.seconds}.{value.microseconds}"),
    (Decimal, lambda value: f"de~{value}"),
)


def _many(values: Any) -> str:
    return "".join(f"<{encode_value(value)}>" for value in values)


def _class(value: object) -> str:
    kind = type(value)
    return _text(f"{kind.__module__}.{kind.__qualname__}")


def plain_text(value: object) -> str:
    """A value's text in a tag: what an f-string would show, so that `invalidate_tags(f"user:{user_id}")` meets it.

    Raises:
        CacheKeyError: the value has no stable text.
    """
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, (str, int, float, UUID, ObjectId, date, time, Decimal)) or value is None:
        return str(value)
    encode_value(value)
    raise CacheKeyError(f"{_class(value)} cannot be part of a tag: name a part of it that is text or a number")


def direct_key(key: object) -> str:
    """A key given as text (`cache.get(...)`): checked and, when long, shortened like any other."""
    if not isinstance(key, str) or not key:
        raise CacheKeyError(f"a cache key is a non-empty text, not {key!r}")
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise CacheKeyError(f"the cache key {key!r} is not valid text: {error.reason}") from None
    return shorten(key)


def checked_tags(tags: Iterable[object]) -> tuple[str, ...]:
    """Tags given as text, each once.

    Raises:
        CacheKeyError: one is not a non-empty text.
    """
    checked = []
    for tag in dict.fromkeys(tags):
        if not isinstance(tag, str) or not tag or tag == EVERYTHING:
            raise CacheKeyError(f"a tag is a non-empty text other than {EVERYTHING!r}, not {tag!r}")
        checked.append(tag)
    return tuple(checked)


def shorten(key: str) -> str:
    """The key, or for a long one a readable prefix and a digest of the whole."""
    if len(key) <= MAX_KEY:
        return key
    digest = blake2b(key.encode(errors="surrogatepass"), digest_size=20).hexdigest()
    return f"{key[:_READABLE]}#{digest}"


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """A `{name.attribute[item]}` of a template: the parameter it starts from and the way on."""

    root: str
    path: tuple[tuple[bool, str | int], ...] = ()

    def value(self, arguments: Mapping[str, Any]) -> Any:
        """What the field stands for in this call."""
        found = arguments[self.root]
        for is_attribute, name in self.path:
            found = getattr(found, name) if is_attribute and isinstance(name, str) else found[name]
        return found

    @property
    def expression(self) -> str:
        """The field as Python source over the parameters."""
        return self.root + "".join(f".{name}" if is_attribute else f"[{name!r}]" for is_attribute, name in self.path)


@dataclasses.dataclass(frozen=True, slots=True)
class Template:
    """A parsed template: literal text and fields in turn."""

    source: str
    parts: tuple[str | Field, ...]

    @property
    def fields(self) -> tuple[Field, ...]:
        return tuple(part for part in self.parts if isinstance(part, Field))

    @property
    def skeleton(self) -> str:
        """The literal text with `<>` for each field; two functions with one skeleton would share keys."""
        return "".join(part if isinstance(part, str) else "<>" for part in self.parts)

    def key(self, arguments: Mapping[str, Any]) -> str:
        """The key of a call.

        Raises:
            CacheKeyError: a value cannot be part of a key, or a field leads nowhere.
        """
        return shorten("".join(self._render(arguments, encode=lambda value: f"<{encode_value(value)}>")))

    def tag(self, arguments: Mapping[str, Any]) -> str:
        """The tag of a call."""
        return "".join(self._render(arguments, encode=plain_text))

    def _render(self, arguments: Mapping[str, Any], *, encode: Callable[[object], str]) -> list[str]:
        rendered = []
        for part in self.parts:
            if isinstance(part, str):
                rendered.append(part)
                continue
            try:
                value = part.value(arguments)
            except (AttributeError, LookupError, TypeError) as error:
                raise CacheKeyError(f"{{{part.expression}}} in {self.source!r} leads nowhere: {error!r}") from error
            rendered.append(encode(value))
        return rendered


def parse_template(source: str, *, what: str = "key") -> Template:
    """Read a template such as `"posts:{user.id}:{limit}"`.

    Raises:
        ConfigurationError: bad syntax, a format or conversion (which would make two values one key), or a literal
            with `<`, `>`, `#` or braces, which rendered keys use themselves.
    """
    parts: list[str | Field] = []
    try:
        parsed = list(string.Formatter().parse(source))
    except ValueError as error:
        raise ConfigurationError(f"the {what} template {source!r} cannot be read: {error}") from None
    for literal, field, spec, conversion in parsed:
        if literal:
            if bad := set(literal) & (set("<>#{}") if what == "key" else set("{}")):
                raise ConfigurationError(f"the {what} template {source!r} may not hold {' '.join(sorted(bad))}")
            parts.append(literal)
        if field is None:
            continue
        if spec or conversion:
            raise ConfigurationError(f"the {what} template {source!r}: {{{field}}} takes no format and no conversion")
        parts.append(_parse_field(field, source=source, what=what))
    if not parts:
        raise ConfigurationError(f"the {what} template is empty")
    return Template(source, tuple(parts))


def _parse_field(field: str, *, source: str, what: str) -> Field:
    match = _FIELD.fullmatch(field)
    if match is None:
        raise ConfigurationError(
            f"the {what} template {source!r}: {{{field}}} must name a parameter, as in '{{user_id}}' or '{{user.id}}'"
        )
    root, rest = match.groups()
    path = tuple(
        (True, step[1:]) if step[0] == "." else (False, int(step[1:-1]) if step[1:-1].isdigit() else step[1:-1])
        for step in _STEP.findall(rest)
    )
    return Field(root, path)
