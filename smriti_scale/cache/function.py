"""The decorated function: one generated coroutine function with the original's signature, and its methods.

A hit must cost one frame, so the wrapper is source code made for the signature: it looks its arguments up in a
dictionary of entries, compares one time, and returns. Only arguments whose exact types have value equality that tells
as much as a cache key does (`_HOT`) get into that dictionary; every other call takes the slow path by its key.
"""

from __future__ import annotations

import functools
import inspect
import types
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import date
from typing import Any, ParamSpec, Protocol, TypeVar, overload
from uuid import UUID

from bson import ObjectId

from smriti_scale.cache.entry import Entry
from smriti_scale.cache.keys import Field, Template, encode_value, parse_template, plain_text, shorten
from smriti_scale.context import causal_position
from smriti_scale.errors import CacheKeyError, ConfigurationError

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

# Not float, Decimal and datetime: 0.0 == -0.0, Decimal("1.0") == Decimal("1.00"), and one moment equals itself in
# another zone, yet a function may answer differently.
_HOT = frozenset({str, int, bool, bytes, type(None), UUID, ObjectId, date})

_VAR = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class CachedFunction(Protocol[P, T_co]):
    """What `Cache.cached` makes of a function: called like it, with methods that take the same arguments.

    Of a method, call these on the class and pass the instance: `Repository.posts.invalidate(repository, "42")`.
    """

    __name__: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T_co]: ...

    @overload
    def __get__(self, instance: None, owner: type) -> CachedFunction[P, T_co]: ...

    @overload
    def __get__(self, instance: object, owner: type | None = None) -> Callable[..., Coroutine[Any, Any, T_co]]: ...

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The cache key of this call."""
        ...

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Remove this call's entry everywhere, and keep loads under way from storing an older result."""
        ...

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> T_co:
        """Call the function now, store and return its result."""
        ...

    async def peek(self, *args: P.args, **kwargs: P.kwargs) -> CachedValue[T_co] | None:
        """The stored result without calling the function; None when there is none."""
        ...


class CachedValue(Protocol[T_co]):
    """A stored value and its times, in seconds."""

    @property
    def value(self) -> T_co: ...
    @property
    def age(self) -> float: ...
    @property
    def expires_in(self) -> float: ...
    @property
    def tags(self) -> tuple[str, ...]: ...


class Target(Protocol):
    """What the generated function falls back to: the cache, seen from one function."""

    async def call(self, key: str, tags: tuple[str, ...], factory: Callable[[], Awaitable[Any]]) -> Any: ...

    def entry(self, key: str) -> Entry | None: ...

    invalidate: Callable[[str], Awaitable[None]]

    async def refresh(self, key: str, tags: tuple[str, ...], factory: Callable[[], Awaitable[Any]]) -> Any: ...

    async def peek(self, key: str) -> Any: ...


class Function:
    """One decorated function: its templates, its dictionary of hot entries and its count of hits."""

    def __init__(
        self,
        original: Callable[..., Awaitable[Any]],
        *,
        key: str | None,
        exclude: Sequence[str],
        tags: Sequence[str],
        target: Target,
        monotonic: Callable[[], float],
    ) -> None:
        _check_function(original)
        self.original = weakref.ref(original)
        self.label = f"{original.__module__}.{original.__qualname__}".replace("<locals>.", "")
        self.hits = 0
        self._call_original = original
        self._target = target
        self._signature = inspect.signature(original)
        self._names = tuple(self._signature.parameters)
        self.template = _key_template(key, exclude=exclude, signature=self._signature, label=self.label)
        self._tags = tuple(_tag_template(tag, names=self._names, label=self.label) for tag in tags)
        self._fields = self.template.fields
        self._hot: dict[Any, Entry] = {}
        self._scope: dict[str, Any] = {
            "__builtins__": {"TypeError": TypeError, "AttributeError": AttributeError, "LookupError": LookupError},
            "_sc_get": self._hot.get,
            "_sc_now": monotonic,
            "_sc_position": causal_position.get,
            "_sc_function": self,
            "_sc_slow": self._slow,
            "_sc_none": None,
            "_sc_key": encode_value,
            "_sc_tag": plain_text,
            "_sc_shorten": shorten,
        }
        self.wrapper = self._generate(original)

    def cool(self) -> None:
        """Send every call down the slow path once, where entries are checked before they are hot again."""
        self._hot = {}
        self._scope["_sc_get"] = self._hot.get

    def _generate(self, original: Callable[..., Any]) -> Any:
        parameters = self._signature.parameters.values()
        if clash := [name for name in self._names if name.startswith("_sc_")]:
            raise ConfigurationError(f"{self.label}: the parameter name {clash[0]!r} is reserved")
        declared, values = _source_of(parameters, scope=self._scope)
        lines = [f"async def wrapper({declared}):"]
        if self._is_hot:
            expressions = [field.expression for field in self._fields]
            hot_key = "".join(f"{text}, {text}.__class__, " for text in expressions)
            lines += [
                "  try:",
                f"    _sc_entry = _sc_get(({hot_key}))",
                "  except (TypeError, AttributeError, LookupError):",
                "    _sc_entry = _sc_none",
                "  if _sc_entry is not _sc_none and _sc_entry.until > _sc_now() and _sc_position() is _sc_none:",
                "    _sc_entry.used = True",
                "    _sc_function.hits += 1",
                "    if _sc_entry.load is _sc_none:",
                "      return _sc_entry.value",
                "    return _sc_entry.load(_sc_entry.raw)",
            ]
        key = f"_sc_shorten({_joined(self.template, '_sc_key')})"
        tags = "".join(f"{_joined(template, '_sc_tag')}, " for template in self._tags)
        lines += [
            f"  return await _sc_slow(({values}))",
            f"def bind({declared}):",
            f"  return ({values})",
            f"def render({', '.join(self._names)}):",
            f"  return {key}, ({tags})",
        ]
        exec("\n".join(lines), self._scope)  # noqa: S102 - the source is made of checked identifiers only
        wrapper = self._scope["wrapper"]
        functools.update_wrapper(wrapper, original)
        wrapper.__defaults__ = original.__defaults__
        wrapper.__kwdefaults__ = original.__kwdefaults__
        self._render: Callable[..., tuple[str, tuple[str, ...]]] = self._scope["render"]
        bind = self._scope["bind"]
        bind.__defaults__, bind.__kwdefaults__ = wrapper.__defaults__, wrapper.__kwdefaults__
        bind.__name__ = bind.__qualname__ = original.__name__  # errors about arguments name the function
        self._bind: Callable[..., tuple[Any, ...]] = bind
        wrapper.key = self.key
        wrapper.invalidate = self.invalidate
        wrapper.refresh = self.refresh
        wrapper.peek = self.peek
        return wrapper

    @property
    def _is_hot(self) -> bool:
        by_name = self._signature.parameters
        return all(by_name[field.root].kind not in _VAR for field in self._fields)

    async def _slow(self, values: tuple[Any, ...]) -> Any:
        key, tags, factory = self._plan(values)
        result = await self._target.call(key, tags, factory)
        if self._is_hot:
            self._warm(key, values)
        return result

    def _warm(self, key: str, values: tuple[Any, ...]) -> None:
        """Let the next call with these arguments find the entry directly."""
        entry = self._target.entry(key)
        if entry is None or entry.hot is self._hot:
            return
        arguments = dict(zip(self._names, values, strict=True))
        hot_key: list[Any] = []
        for field in self._fields:
            value = field.value(arguments)
            if type(value) not in _HOT:
                return
            hot_key += (value, type(value))
        entry.hot_key = tuple(hot_key)
        entry.hot = self._hot
        self._hot[entry.hot_key] = entry

    def _plan(self, values: tuple[Any, ...]) -> tuple[str, tuple[str, ...], Callable[[], Awaitable[Any]]]:
        key, tags = self._names_of(values)
        return key, tags, functools.partial(_invoke, self._call_original, self._signature, values)

    def _names_of(self, values: tuple[Any, ...]) -> tuple[str, tuple[str, ...]]:
        try:
            return self._render(*values)
        except (AttributeError, LookupError, TypeError):
            arguments = dict(zip(self._names, values, strict=True))  # again, for an error that explains itself
            return self.template.key(arguments), tuple([template.tag(arguments) for template in self._tags])

    def key(self, *args: Any, **kwargs: Any) -> str:
        return self._names_of(self._bind(*args, **kwargs))[0]

    async def invalidate(self, *args: Any, **kwargs: Any) -> None:
        await self._target.invalidate(self.key(*args, **kwargs))

    async def refresh(self, *args: Any, **kwargs: Any) -> Any:
        key, tags, factory = self._plan(self._bind(*args, **kwargs))
        return await self._target.refresh(key, tags, factory)

    async def peek(self, *args: Any, **kwargs: Any) -> Any:
        return await self._target.peek(self.key(*args, **kwargs))


def _joined(template: Template, encode: str) -> str:
    """Source of what `Template.key` or `Template.tag` makes, without their loops."""
    border = ("'<' + ", " + '>'") if encode == "_sc_key" else ("", "")
    parts = [
        repr(part) if isinstance(part, str) else f"{border[0]}{encode}({part.expression}){border[1]}"
        for part in template.parts
    ]
    return " + ".join(parts)


def _invoke(original: Callable[..., Awaitable[Any]], signature: inspect.Signature, values: tuple[Any, ...]) -> Any:
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for parameter, value in zip(signature.parameters.values(), values, strict=True):
        if parameter.kind is parameter.VAR_POSITIONAL:
            args.extend(value)
        elif parameter.kind is parameter.VAR_KEYWORD:
            kwargs.update(value)
        elif parameter.kind is parameter.KEYWORD_ONLY:
            kwargs[parameter.name] = value
        else:
            args.append(value)
    return original(*args, **kwargs)


def _source_of(parameters: Any, *, scope: dict[str, Any]) -> tuple[str, str]:
    """The parameter list as source (defaults are filled in afterwards) and the tuple of their values."""
    declared: list[str] = []
    values: list[str] = []
    seen_positional_only = seen_star = False
    for parameter in parameters:
        default = "=_sc_none" if parameter.default is not parameter.empty else ""
        if parameter.kind is parameter.POSITIONAL_ONLY:
            seen_positional_only = True
        elif seen_positional_only:
            declared.append("/")
            seen_positional_only = False
        if parameter.kind is parameter.VAR_POSITIONAL:
            seen_star = True
            declared.append(f"*{parameter.name}")
        elif parameter.kind is parameter.VAR_KEYWORD:
            declared.append(f"**{parameter.name}")
        else:
            if parameter.kind is parameter.KEYWORD_ONLY and not seen_star:
                declared.append("*")
                seen_star = True
            declared.append(parameter.name + default)
        values.append(parameter.name)
    if seen_positional_only:
        declared.append("/")
    return ", ".join(declared), "".join(f"{name}, " for name in values)


def _check_function(function: Any) -> None:
    if isinstance(function, (staticmethod, classmethod)):
        raise ConfigurationError("put @cached below @staticmethod or @classmethod, next to the function")
    if not inspect.iscoroutinefunction(function):
        name = getattr(function, "__qualname__", repr(function))
        raise ConfigurationError(f"{name} is not an `async def` function; only those can be cached")
    if not isinstance(function, types.FunctionType):
        raise ConfigurationError(f"{function!r} is not a plain function; decorate the function it wraps")


def _key_template(key: str | None, *, exclude: Sequence[str], signature: inspect.Signature, label: str) -> Template:
    names = list(signature.parameters)
    if isinstance(exclude, str):
        raise ConfigurationError(f"{label}: exclude takes a list of names, not the text {exclude!r}")
    if unknown := [name for name in exclude if name not in names]:
        raise ConfigurationError(f"{label} has no parameter {unknown[0]!r} to exclude; it has {', '.join(names)}")
    if key is None:
        for name in names[:1]:
            if name in {"self", "cls"} and name not in exclude:
                raise ConfigurationError(
                    f"{label} is a method: put what identifies the instance in the key, as in "
                    f"key='{label}:{{{name}.id}}', or say exclude=['{name}'] if every instance may share results"
                )
        parts: list[str | Field] = [label]
        for name in names:
            if name not in exclude:
                parts += (":", Field(name))
        return Template(label, tuple(parts))
    template = parse_template(key)
    used = {field.root for field in template.fields}
    if unknown := [field.root for field in template.fields if field.root not in names]:
        raise ConfigurationError(f"{label} has no parameter {unknown[0]!r}, which its key {key!r} names")
    if both := [name for name in exclude if name in used]:
        raise ConfigurationError(f"{label}: the parameter {both[0]!r} is both in the key and excluded")
    if forgotten := [name for name in names if name not in used and name not in exclude]:
        raise ConfigurationError(
            f"{label}: the parameter {forgotten[0]!r} is not in the key {key!r}, so calls that differ in it would "
            f"share a result. Add {{{forgotten[0]}}} to the key, or say exclude=[{forgotten[0]!r}] if it makes no "
            "difference"
        )
    return template


def _tag_template(tag: str, *, names: Sequence[str], label: str) -> Template:
    template = parse_template(tag, what="tag")
    if unknown := [field.root for field in template.fields if field.root not in names]:
        raise ConfigurationError(f"{label} has no parameter {unknown[0]!r}, which its tag {tag!r} names")
    return template


def may_share_keys(new: Function, old: Function) -> bool:
    """Whether one is the other defined again (a reload, a notebook's cell), so that they are one in meaning."""
    mine: Any = new.original()
    theirs: Any = old.original()
    if mine is theirs or mine is None or theirs is None:
        return True
    if new.label != old.label or "<locals>" in mine.__qualname__:
        return False
    # Two functions of one name in a module are two all the same.
    return mine.__module__ == "__main__" or bool(mine.__code__.co_firstlineno == theirs.__code__.co_firstlineno)


def return_type(function: Callable[..., Any], *, local_names: Mapping[str, Any]) -> Any:
    """The annotated return type; `Any` without one.

    Raises:
        NameError: it names something that is not defined (yet).
    """
    annotations = inspect.get_annotations(function)
    if "return" not in annotations:
        return Any
    annotation = annotations["return"]
    if isinstance(annotation, str):
        annotation = eval(annotation, function.__globals__, dict(local_names))  # noqa: S307 - the author's own source
    if isinstance(annotation, TypeVar):
        raise CacheKeyError(f"{function.__qualname__} returns the type variable {annotation}: pass as_type=…")
    return annotation
