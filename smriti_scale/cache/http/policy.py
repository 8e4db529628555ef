"""How long whom may keep an answer: the policy of a route, and its `Cache-Control`, as functions of values.

RFC 9111 (HTTP caching), RFC 5861 (stale-while-revalidate, stale-if-error), RFC 9213 (`CDN-Cache-Control`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

from smriti_scale.errors import ConfigurationError

_MARK = "__smriti_scale_http_cache__"
_FIELD = re.compile(r"\{(\w+)\}")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_EndpointT = TypeVar("_EndpointT", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePolicy:
    """What `@http_cache` says of a route; see there. Times in seconds."""

    max_age: int = 0
    s_maxage: int | None = None
    stale_while_revalidate: int = 0
    stale_if_error: int = 0
    public: bool = False
    private: bool = False
    per_identity: bool = False
    vary: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("max_age", "s_maxage", "stale_while_revalidate", "stale_if_error"):
            seconds = getattr(self, name)
            if seconds is not None and (not isinstance(seconds, int) or seconds < 0):
                raise ConfigurationError(f"{name}={seconds!r} must be a whole number of seconds, 0 or more")
        if self.public and (self.private or self.per_identity):
            raise ConfigurationError("an answer is public or private (per_identity is private), not both")
        if self.private and self.s_maxage is not None:
            raise ConfigurationError("s_maxage is for shared caches, which keep no private answer: leave one out")
        for field in self.vary:
            if not _TOKEN.fullmatch(field) or field == "*":
                raise ConfigurationError(f"vary={field!r} is no header name")

    @property
    def shared_age(self) -> int:
        """Seconds for which shared caches, ours among them, take the answer as fresh."""
        return self.max_age if self.s_maxage is None else self.s_maxage

    def is_private(self, *, authenticated: bool) -> bool:
        """Whether shared caches must not keep it: said so, or not said and the request was authenticated."""
        return self.private or self.per_identity or (authenticated and not self.public)

    def cache_control(self, *, authenticated: bool) -> str:
        """The `Cache-Control` value."""
        private = self.is_private(authenticated=authenticated)
        directives = ["private" if private else "public", f"max-age={self.max_age}"]
        if self.s_maxage is not None and not private:
            directives.append(f"s-maxage={self.s_maxage}")
        return ", ".join(directives + self._stale())

    def cdn_cache_control(self, *, authenticated: bool) -> str:
        """The `CDN-Cache-Control` value: what holds for CDNs alone, `no-store` for a private answer."""
        if self.is_private(authenticated=authenticated):
            return "no-store"
        return ", ".join([f"max-age={self.shared_age}", *self._stale()])

    def _stale(self) -> list[str]:
        stale = []
        if self.stale_while_revalidate:
            stale.append(f"stale-while-revalidate={self.stale_while_revalidate}")
        if self.stale_if_error:
            stale.append(f"stale-if-error={self.stale_if_error}")
        return stale

    def tags_of(self, path_params: Mapping[str, object]) -> tuple[str, ...] | None:
        """The tags, their `{fields}` filled from the path's parameters; None if one lacks its parameter."""
        if any(name not in path_params for tag in self.tags for name in _FIELD.findall(tag)):
            return None
        return tuple(_FIELD.sub(lambda found: str(path_params[found[1]]), tag) for tag in self.tags)


def http_cache(
    max_age: int = 0,
    s_maxage: int | None = None,
    *,
    stale_while_revalidate: int = 0,
    stale_if_error: int = 0,
    public: bool = False,
    private: bool = False,
    per_identity: bool = False,
    vary: Iterable[str] = (),
    tags: Iterable[str] = (),
) -> Callable[[_EndpointT], _EndpointT]:
    """Say how an endpoint's answers may be cached. `HTTPCacheMiddleware` sets the headers and keeps the answers.

    ```python
    @app.get("/posts/{post_id}")
    @http_cache(max_age=60, s_maxage=600, public=True, tags=["post:{post_id}"])
    async def post(post_id: str) -> Post: ...
    ```

    With neither `public` nor `private`, an anonymous request's answer is public and an authenticated one's private,
    and both carry `Vary: Authorization`, so that neither is taken for the other.

    Args:
        max_age: seconds for which a browser may use the answer without asking.
        s_maxage: seconds for shared caches (this one and CDNs); None for `max_age`.
        stale_while_revalidate: seconds beyond, in which the old answer is sent while a new one is made.
        stale_if_error: seconds beyond, in which the old answer is sent if making a new one fails (5xx).
        public: the same for everyone, signed in or not: it is sent to all without asking the application.
        private: for one person: no shared cache keeps it.
        per_identity: private, and kept here, apart for each verified identity.
        vary: request headers, besides `Accept-Encoding`, that the answer depends on.
        tags: what it is made of, for `invalidate_tags`; `"post:{post_id}"` takes the path's parameter.

    Raises:
        ConfigurationError: values that contradict each other.
    """
    for name, value in (("vary", vary), ("tags", tags)):
        if isinstance(value, str):
            raise ConfigurationError(f"{name}={value!r} must be a list of strings")
    policy = CachePolicy(
        max_age=max_age,
        s_maxage=s_maxage,
        stale_while_revalidate=stale_while_revalidate,
        stale_if_error=stale_if_error,
        public=public,
        private=private,
        per_identity=per_identity,
        vary=tuple(vary),
        tags=tuple(tags),
    )

    def mark(endpoint: _EndpointT) -> _EndpointT:
        setattr(endpoint, _MARK, policy)
        return endpoint

    return mark


def policy_of(endpoint: object) -> CachePolicy | None:
    """What `@http_cache` said of the endpoint."""
    policy = getattr(endpoint, _MARK, None)
    return policy if isinstance(policy, CachePolicy) else None


def parse_cache_control(value: str) -> dict[str, str | None]:
    """Directives by lower-case name, with their argument or None."""
    directives: dict[str, str | None] = {}
    for part in value.split(","):
        name, separator, argument = part.strip().partition("=")
        if name:
            directives[name.strip().lower()] = argument.strip().strip('"') if separator else None
    return directives


def seconds_of(directives: Mapping[str, str | None], name: str) -> int | None:
    """A directive's seconds; None when absent, 0 when malformed (RFC 9111 section 4.2.1 would have it stale)."""
    if name not in directives:
        return None
    argument = directives[name] or ""
    return min(int(argument), 2**31) if argument.isascii() and argument.isdigit() and len(argument) < 20 else 0


def surrogate_key(tag: str) -> str:
    """A tag as it stands in `Surrogate-Key` (between spaces) and `Cache-Tag` (between commas)."""
    return quote(tag, safe="!#$&'*+-./:=?@^_`|~")
