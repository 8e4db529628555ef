"""`HTTPCacheMiddleware`: conditional requests, caching headers, and whole responses kept as bytes."""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smriti_scale.cache.cache import Cache
from smriti_scale.cache.function import CachedFunction
from smriti_scale.cache.http.asked import Asked, address_tag, read_request, response_key
from smriti_scale.cache.http.capture import Capture, ServerFailed
from smriti_scale.cache.http.conditions import body_etag, is_not_modified
from smriti_scale.cache.http.learned import Learned, says_public
from smriti_scale.cache.http.outgoing import Outgoing, apply_policy, may_keep
from smriti_scale.cache.http.passing import Passing
from smriti_scale.cache.http.policy import CachePolicy, policy_of
from smriti_scale.cache.http.stored import (
    ResponseCodec,
    StoredResponse,
    kept_headers,
    not_modified_headers,
    with_body_etag,
)
from smriti_scale.context import identity as current_identity
from smriti_scale.errors import ConfigurationError
from smriti_scale.events import Events, HTTPCacheAnswered
from smriti_scale.routing import resolve_route

_log = logging.getLogger("smriti_scale.cache.http")

_TAGS = "smriti_scale.cache_tags"

IdentityOf = Callable[[HTTPConnection], Awaitable[str | None] | str | None]
"""Verifies who asks and returns who it is, or None. It must not believe what it has not verified."""


async def _load(key: str, run: Capture) -> StoredResponse:
    """What the cache calls on a miss; one function for all, so that equal policies share their entries."""
    return await run()


class HTTPCacheMiddleware:
    """Answers GETs from kept bytes, sends 304 for what the client has, and tells browsers and CDNs what to keep.

    Put it outside of compression, so that what it keeps is coded already: a hit costs no JSON and no coding. It sees
    to four things:

    - Endpoints under `@http_cache` get their `Cache-Control`, `CDN-Cache-Control`, `Vary`, and tags for CDNs.
    - Their answers are kept in `cache`, one for each variant, with its tags: `cache.invalidate_tags` drops them
      here, in every process, and at the CDN (`CDNPurge`). A successful write to an address drops what is kept for it.
    - Every whole 200 gets a strong `ETag`, and `If-None-Match` and `If-Modified-Since` are answered with 304, after
      the application, with whatever authentication it does, has run; before it only for public answers.
    - An answer with `Set-Cookie` is never kept, here or by a CDN.

    Kept are answers to GET with 200, 203, 300, 301 or 308, public ones, and those of a route with `per_identity` for
    a verified identity. Endpoints without `@http_cache` that send `Cache-Control: public` are kept for anonymous
    requests, as a CDN would. Requests with `Range` or a body pass by.

    Args:
        app: the ASGI application.
        cache: where responses are kept; None to keep none.
        identity: verifies who asks, for routes with `per_identity`; None to rely on `smriti_scale.context.identity`,
            which a middleware further out may set.
        session_cookies: names of the cookies that sign people in; None to take any cookie for one. An empty list
            says that the application signs nobody in by cookie.
        etags: add an entity tag to whole bodies without one.
        max_body: bytes beyond which a body is neither kept nor hashed.
        tag_headers: the headers that name tags to a CDN; empty for none.
        status_header: say in `Cache-Status` (RFC 9211) whether an answer was kept.
        events: told of each request for a kept route.

    Raises:
        ConfigurationError: an argument cannot work.
    """

    def __init__(
        self,
        app: ASGIApp,
        cache: Cache | None = None,
        *,
        identity: IdentityOf | None = None,
        session_cookies: Collection[str] | None = None,
        etags: bool = True,
        max_body: int = 2**20,
        tag_headers: Sequence[str] = ("Surrogate-Key", "Cache-Tag"),
        status_header: bool = True,
        events: Events | None = None,
    ) -> None:
        if isinstance(session_cookies, str) or isinstance(tag_headers, str):
            raise ConfigurationError("session_cookies and tag_headers are lists of names")
        if max_body < 1:
            raise ConfigurationError(f"max_body={max_body!r} must be positive")
        self.app = app
        self._cache = cache
        self._identity = identity
        self._session_cookies = None if session_cookies is None else frozenset(session_cookies)
        self._vary_on = (
            ("Authorization",)
            if session_cookies is not None and not session_cookies
            else (
                "Authorization",
                "Cookie",
            )
        )
        self._etags = etags
        self._max_body = max_body
        self._tag_headers = tuple(tag_headers)
        self._status_header = status_header
        self._events = events if events is not None else Events()
        self._routed = _routed_app(app)
        self._functions: dict[CachePolicy, CachedFunction[[str, Capture], StoredResponse]] = {}
        self._learned = Learned()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._routed is not None:
            # Wrapped around an application, in place of added to it: routes are looked up before it is called.
            scope.setdefault("app", self._routed)
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif scope["method"] in ("GET", "HEAD"):
            await self._read(scope, receive, send)
        else:
            await self._write(scope, receive, send)

    # --- reading

    async def _read(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = resolve_route(scope)
        place: object = route.endpoint if route.endpoint is not None else scope["path"]
        marked = policy_of(route.endpoint)
        policy = marked or self._learned.policy(place)
        asked = read_request(scope)
        authenticated = current_identity.get() is not None or asked.is_authenticated(self._session_cookies)
        request = _Request(scope, asked, place, policy, marked, authenticated, route.template)
        if policy is not None and self._cache is not None:
            if await self._is_kept_for(request):
                await self._read_kept(request, receive, send)
                return
            self._tell("bypass", request)
        await self._pass_by(request, receive, send)

    async def _is_kept_for(self, request: _Request) -> bool:
        """Whether this request may be answered from what others were answered."""
        policy, asked = request.policy, request.asked
        if policy is None or b"range" in asked.fields or asked.has_body or (policy.private and not policy.per_identity):
            return False
        if policy.per_identity:
            request.identity = await self._who(request.scope)
            return request.identity is not None
        return policy.public or not request.authenticated

    async def _who(self, scope: Scope) -> str | None:
        if self._identity is None:
            return current_identity.get()
        found = self._identity(HTTPConnection(scope))
        return await found if inspect.isawaitable(found) else found

    async def _read_kept(self, request: _Request, receive: Receive, send: Send) -> None:
        assert self._cache is not None and request.policy is not None  # noqa: S101, PT018 - for the type checker
        function = self._function(request.policy)
        vary = (*request.policy.vary, *self._learned.vary(request.place))
        # Origin always: a CORS middleware further in says nothing of it to those who sent none, and whoever sends one
        # would get their answer, which their browser then keeps from them.
        fields = sorted({"origin", *(name.lower() for name in vary)} - {"accept-encoding"})
        key = response_key(request.scope, request.asked, vary=fields, identity=request.identity)
        capture = Capture(
            self.app,
            request.scope,
            send,
            prepare=lambda start, routed: self._prepare(request, start, routed),
            may_keep=lambda outgoing: self._may_keep(request, outgoing, fields),
            finish=lambda outgoing, body: self._finish(request, outgoing, body),
            max_body=self._max_body,
            anonymous=request.policy.public,
        )
        if request.scope["method"] == "HEAD":
            stored = await function.peek(key, capture)
            if stored is None:
                await self._pass_by(request, receive, send)
            else:
                await self._answer(request, stored.value, send, made=False)
            return
        try:
            response = await function(key, capture)
        except ServerFailed as failed:
            response = failed.response
        finally:
            # A refresh in the background may run on with this capture when its client is long answered.
            capture.attached = False
        if capture.passed_on:
            self._tell("bypass", request)
        elif response.status == 0:
            # Another request's answer, for which this one waited, turned out to be for that one alone.
            await self._pass_by(request, receive, send)
        else:
            await self._answer(request, response, send, made=response is capture.made)

    def _function(self, policy: CachePolicy) -> CachedFunction[[str, Capture], StoredResponse]:
        function = self._functions.get(policy)
        if function is None:
            assert self._cache is not None  # noqa: S101 - for the type checker
            digest = hashlib.blake2b(repr(policy).encode(), digest_size=6).hexdigest()
            function = self._functions[policy] = self._cache.cached(
                lambda response: response.ttl or None,
                key=f"http:{digest}:{{key}}",
                exclude=["run"],
                tags_from=lambda response: response.tags,
                stale=policy.stale_while_revalidate,
                stale_if_error=policy.stale_if_error,
                shared=True,
                as_type=StoredResponse,
                codec=ResponseCodec(),
            )(_load)
        return function

    async def _answer(self, request: _Request, response: StoredResponse, send: Send, *, made: bool) -> None:
        assert self._cache is not None  # noqa: S101 - for the type checker
        age = max(0, int(self._cache.clock.time() - response.born))
        headers = list(response.headers)
        stale = response.ttl > 0 and age > response.ttl
        outcome = "miss" if made else "stale" if stale else "hit"
        if not made:
            headers.append((b"age", b"%d" % age))
        if self._status_header:
            headers.append((b"cache-status", self._status(outcome, response, age)))
        self._tell(outcome, request)
        asked = request.asked
        if response.status == 200 and is_not_modified(
            if_none_match=asked.if_none_match,
            if_modified_since=asked.if_modified_since,
            etag=response.field(b"etag"),
            last_modified=response.field(b"last-modified"),
        ):
            await send({"type": "http.response.start", "status": 304, "headers": not_modified_headers(headers)})
            await send({"type": "http.response.body", "body": b""})
            return
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if request.scope["method"] == "HEAD" else response.body})

    def _status(self, outcome: str, response: StoredResponse, age: int) -> bytes:
        if outcome == "miss":
            return b"smriti_scale; fwd=miss; stored" if response.ttl > 0 else b"smriti_scale; fwd=miss"
        return b"smriti_scale; hit; ttl=%d" % (int(response.ttl) - age)

    def _tell(self, outcome: str, request: _Request) -> None:
        if self._events:
            self._events.emit(HTTPCacheAnswered(outcome=outcome, route=request.template))

    # --- what becomes of a response

    async def _pass_by(self, request: _Request, receive: Receive, send: Send) -> None:
        passing = Passing(
            request.asked,
            send,
            prepare=lambda start: self._prepare(request, start, request.scope),
            etags=self._etags,
            max_body=self._max_body,
            head=request.scope["method"] == "HEAD",
        )
        await self.app(request.scope, receive, passing.send)
        await passing.close()

    def _prepare(self, request: _Request, start: Message, routed: Scope) -> Outgoing:
        tags = self._tags_of(request, routed)
        outgoing = apply_policy(
            request.marked,
            start["status"],
            start.get("headers", ()),
            authenticated=request.authenticated,
            vary_on=self._vary_on,
            tags=tags or (),
            tag_headers=self._tag_headers,
        )
        if request.marked is None and outgoing.ttl > 0:
            self._learned.policy_from(request.place, outgoing)
        if tags is None and outgoing.ttl > 0:
            # Kept without it, the answer could not be invalidated.
            _log.error("an answer of %s is not kept: its tags name parameters its path lacks", request.template)
            return replace(outgoing, ttl=0)
        return outgoing

    def _tags_of(self, request: _Request, routed: Scope) -> tuple[str, ...] | None:
        own = routed.get(_TAGS, ())
        if request.marked is None:
            return tuple(own)
        marked = request.marked.tags_of(routed.get("path_params", {}))
        if marked is None:
            return None
        common = () if self._cache is None else (self._cache.name, address_tag(routed, request.asked))
        return tuple(dict.fromkeys((*common, *marked, *own)))

    def _may_keep(self, request: _Request, outgoing: Outgoing, fields: Sequence[str]) -> bool:
        policy = request.policy
        if policy is None:
            return False
        # Without credentials in the request, or with the identity they prove in the key, these make no variants.
        known = {"accept-encoding", "authorization", *fields}
        if policy.public or policy.per_identity or self._session_cookies is None:
            known.add("cookie")
        self._learned.vary_from(request.place, [field for field in outgoing.varies if field not in known])
        if request.marked is None and not says_public(outgoing):
            return False
        return may_keep(outgoing, request.asked, keyed_on=known.__contains__)

    def _finish(self, request: _Request, outgoing: Outgoing, body: bytes) -> StoredResponse:
        assert self._cache is not None  # noqa: S101 - for the type checker
        failed = outgoing.status >= 500
        response = StoredResponse(
            status=outgoing.status,
            headers=kept_headers(outgoing.headers),
            body=body,
            born=self._cache.clock.time(),
            ttl=0 if failed else outgoing.ttl,
            tags=outgoing.tags,
        )
        if failed or response.field(b"etag") is not None or response.status != 200:
            return response
        return with_body_etag(response, body_etag(body))

    # --- writing

    async def _write(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A write that succeeds makes what is kept for its address old (RFC 9111 section 4.4)."""
        cache = self._cache
        if cache is None or not self._keeps_reads_of(scope):
            await self.app(scope, receive, send)
            return
        tag = address_tag(scope, read_request(scope))

        async def invalidating(message: Message) -> None:
            if message["type"] == "http.response.start" and 200 <= message["status"] < 400:
                await cache.invalidate_tags(tag)
            await send(message)

        await self.app(scope, receive, invalidating)

    def _keeps_reads_of(self, scope: Scope) -> bool:
        read = {key: value for key, value in scope.items() if key != "smriti_scale.route"}
        route = resolve_route({**read, "method": "GET"})
        place: object = route.endpoint if route.endpoint is not None else scope["path"]
        return policy_of(route.endpoint) is not None or self._learned.policy(place) is not None


class _Request:
    """One request and what is known of it."""

    __slots__ = ("asked", "authenticated", "identity", "marked", "place", "policy", "scope", "template")

    def __init__(
        self,
        scope: Scope,
        asked: Asked,
        place: object,
        policy: CachePolicy | None,
        marked: CachePolicy | None,
        authenticated: bool,
        template: str,
    ) -> None:
        self.scope = scope
        self.asked = asked
        self.place = place
        self.policy = policy
        self.marked = marked
        self.authenticated = authenticated
        self.template = template
        self.identity: str | None = None


def _routed_app(app: Any) -> Any:
    """The Starlette application that this one is or wraps."""
    while app is not None and not hasattr(app, "routes"):
        app = getattr(app, "app", None)
    return app if hasattr(app, "state") else None


def add_tags(request: HTTPConnection, *tags: str) -> None:
    """Tag the response to this request from within its endpoint: with what only the endpoint knows it is made of.

    ```python
    @app.get("/feed")
    @http_cache(max_age=30, public=True, tags=["feed"])
    async def feed(request: Request) -> list[Post]:
        posts = await newest()
        add_tags(request, *(f"post:{post.id}" for post in posts))
        return posts
    ```
    """
    request.scope.setdefault(_TAGS, []).extend(tags)
