"""Route templates of Starlette and FastAPI apps: what limits and metrics label a request with.

`resolve_route(scope)` answers `/users/{id}` for `/users/42`, before or after routing has run, through included
routers, mounts and hosts. Paths that no route serves share one label, `UNMATCHED`, so that a scanner can mint neither
metrics nor counters. FastAPI ≥ 0.137 keeps included routers as they are (their routes have no prefix of their own),
which is why routes are read through its `iter_route_contexts`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Host, Match, Mount, Route, WebSocketRoute
from starlette.types import Scope

UNMATCHED = "(unmatched)"
"""The template of every request that no route serves."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})

_SCOPE_KEY = "smriti_scale.route"
_TABLE_KEY = "_smriti_scale_routes"
_NAMED_GROUP = re.compile(r"\(\?P<[^>]+>")
_MOUNT_TAIL = re.compile(r"/\((?:\?:|\?P<path>)\.\*\)\$$")


@dataclass(frozen=True, slots=True)
class ResolvedRoute:
    """The route of a request.

    Attributes:
        template: the full path with its parameters unfilled, mounts and prefixes included, or `UNMATCHED`.
        endpoint: the route's function, class or mounted app; None when unmatched.
    """

    template: str
    endpoint: Callable[..., Any] | None


NO_ROUTE = ResolvedRoute(UNMATCHED, None)


def resolve_route(scope: Scope) -> ResolvedRoute:
    """The route of an HTTP or WebSocket scope.

    Works before routing (a middleware on the way in) and after it; the answer is kept in the scope, so limits and
    metrics pay for one look-up between them. Without a Starlette app in the scope, the answer is `NO_ROUTE`.
    """
    resolved: ResolvedRoute | None = scope.get(_SCOPE_KEY)
    if resolved is None:
        # After routing, the app in the scope may be a mounted one; the router is the outermost.
        router = scope.get("router") or getattr(scope.get("app"), "router", None)
        if router is None:
            return NO_ROUTE
        table: RouteTable | None = router.__dict__.get(_TABLE_KEY)
        if table is None:
            table = router.__dict__[_TABLE_KEY] = RouteTable(router.routes)
        resolved = scope[_SCOPE_KEY] = table.resolve(scope)
    return resolved


def method_label(scope: Scope) -> str:
    """The request's method, `WEBSOCKET`, or `OTHER` for a method nobody has defined."""
    if scope["type"] == "websocket":
        return "WEBSOCKET"
    method: str = scope["method"]
    return method if method in METHODS else "OTHER"


@dataclass(frozen=True, slots=True)
class _Entry:
    """One route, flattened: mounts and prefixes are folded into its pattern."""

    pattern: re.Pattern[str]
    kind: str  # "http", "websocket" or "any"
    methods: frozenset[str] | None
    hosts: tuple[re.Pattern[str], ...]
    resolved: ResolvedRoute
    literal: str | None
    custom: BaseRoute | None = None


_Key: TypeAlias = tuple[str, str]


class RouteTable:
    """The routes of an app, flattened in the order in which the app tries them.

    Paths without parameters are answered from a dictionary, others by the patterns that can begin with the same
    segment. Routes added later are noticed.

    Args:
        routes: `app.routes`.
    """

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self._routes = routes
        self._sizes: list[tuple[Sequence[BaseRoute], int]] = []
        self._entries: list[_Entry] = []
        self._by_segment: dict[str, list[_Entry]] = {}
        self._elsewhere: list[_Entry] = []
        self._known: dict[_Key, ResolvedRoute] = {}
        self._build()

    def resolve(self, scope: Scope) -> ResolvedRoute:
        """The route that the app chooses for the scope."""
        for routes, size in self._sizes:
            if len(routes) != size:
                self._build()
                break
        path: str = scope["path"]
        # A mount rewrites root_path in place; the app's own is then kept beside it.
        root: str = scope.get("app_root_path", scope.get("root_path", ""))
        if root and path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/"):
            path = path[len(root) :]
        method = scope["method"] if scope["type"] == "http" else "WEBSOCKET"
        known = self._known.get((method, path))
        return known if known is not None else self._search(scope, method, path)

    def templates(self) -> Iterator[str]:
        """Every template of the app, in order."""
        return (entry.resolved.template for entry in self._entries if entry.resolved.endpoint is not None)

    def _search(self, scope: Scope | None, method: str, path: str) -> ResolvedRoute:
        kind = "websocket" if method == "WEBSOCKET" else "http"
        host: str | None = None
        partial: ResolvedRoute | None = None
        for entry in self._by_segment.get(_first_segment(path), self._elsewhere):
            if entry.kind not in ("any", kind):
                continue
            if entry.hosts:
                if host is None:
                    host = (Headers(scope=scope).get("host") or "").partition(":")[0] if scope else ""
                if not all(pattern.match(host) for pattern in entry.hosts):
                    continue
            if entry.custom is not None:
                if scope is None or (match := entry.custom.matches(scope)[0]) is Match.NONE:
                    continue
                if match is Match.FULL:
                    return entry.resolved
            elif not entry.pattern.match(path):
                continue
            elif entry.methods is None or method in entry.methods:
                return entry.resolved
            partial = partial or entry.resolved
        return partial or NO_ROUTE

    def _build(self) -> None:
        self._sizes = []
        self._entries = list(self._flatten(self._routes, path="", body="", hosts=()))
        segments = {_first_segment(entry.literal) for entry in self._entries if entry.literal}
        segments |= {segment for entry in self._entries if (segment := _fixed_segment(entry.resolved.template))}
        self._elsewhere = [entry for entry in self._entries if _fixed_segment_of(entry) is None]
        self._by_segment = {
            segment: [entry for entry in self._entries if _fixed_segment_of(entry) in (None, segment)]
            for segment in segments
        }
        self._known = {}
        if any(entry.hosts or entry.custom for entry in self._entries):
            return  # the path alone does not decide
        for entry in self._entries:
            if entry.literal is not None:
                for method in ("WEBSOCKET",) if entry.kind == "websocket" else entry.methods or METHODS:
                    key = (method, entry.literal)
                    if key not in self._known:
                        self._known[key] = self._search(None, method, entry.literal)

    def _flatten(
        self, routes: Iterable[BaseRoute], *, path: str, body: str, hosts: tuple[re.Pattern[str], ...]
    ) -> Iterator[_Entry]:
        if isinstance(routes, Sequence):
            self._sizes.append((routes, len(routes)))
        for route in routes:
            if included := getattr(route, "original_router", None):
                yield from self._flatten_included(route, included, path=path, body=body, hosts=hosts)
            elif isinstance(route, Mount):
                yield from self._flatten_mount(route, path=path, body=body, hosts=hosts)
            elif isinstance(route, Host):
                pattern = re.compile(route.host_regex.pattern, re.IGNORECASE)
                if route.routes:
                    yield from self._flatten(route.routes, path=path, body=body, hosts=(*hosts, pattern))
                yield _entry(path, f"{body}/.*", "any", None, (*hosts, pattern), None if route.routes else route.app)
            elif _is_plain(route):
                methods = getattr(route, "methods", None)
                yield _entry(
                    path + route.path_format,  # type: ignore[attr-defined]  # Route, WebSocketRoute and their like
                    body + _body(route.path_regex),  # type: ignore[attr-defined]
                    "websocket" if isinstance(route, WebSocketRoute) else "http",
                    frozenset(methods) if methods else None,
                    hosts,
                    route.endpoint,  # type: ignore[attr-defined]
                )
            else:
                template = path + str(getattr(route, "path_format", getattr(route, "path", type(route).__name__)))
                endpoint = getattr(route, "endpoint", route.handle)
                yield _Entry(
                    re.compile(""), "any", None, hosts, ResolvedRoute(template, endpoint), None, None if path else route
                )

    def _flatten_mount(
        self, route: Mount, *, path: str, body: str, hosts: tuple[re.Pattern[str], ...]
    ) -> Iterator[_Entry]:
        inner_body = body + _MOUNT_TAIL.sub("", _body(route.path_regex, keep_end=True))
        inner_path = path + _MOUNT_TAIL.sub("", route.path_format).removesuffix("/{path}")
        inner = route.routes
        if inner:
            yield from self._flatten(inner, path=inner_path, body=inner_body, hosts=hosts)
        # A mount keeps what its own app does not know: later routes of the outer app are never asked.
        yield _entry(f"{inner_path}/{{path}}", f"{inner_body}/.*", "any", None, hosts, None if inner else route.app)

    def _flatten_included(
        self, route: BaseRoute, router: Any, *, path: str, body: str, hosts: tuple[re.Pattern[str], ...]
    ) -> Iterator[_Entry]:
        self._watch_included(router)
        for context in sys.modules["fastapi.routing"].iter_route_contexts([route]):
            effective = context._effective_route
            if isinstance(effective, BaseRoute):
                yield from self._flatten((item for item in (effective,)), path=path, body=body, hosts=hosts)
                continue
            yield _entry(
                path + context.path_format,
                body + _body(effective.path_regex),
                "http",
                frozenset(context.methods) if context.methods else None,
                hosts,
                context.endpoint,
            )

    def _watch_included(self, router: Any) -> None:
        self._sizes.append((router.routes, len(router.routes)))
        for route in router.routes:
            if inner := getattr(route, "original_router", None):
                self._watch_included(inner)


def _entry(
    template: str,
    body: str,
    kind: str,
    methods: frozenset[str] | None,
    hosts: tuple[re.Pattern[str], ...],
    endpoint: Callable[..., Any] | None,
) -> _Entry:
    resolved = NO_ROUTE if endpoint is None else ResolvedRoute(template, endpoint)
    literal = template if "{" not in template and endpoint is not None else None
    return _Entry(re.compile(f"{body}$"), kind, methods, hosts, resolved, literal)


def _is_plain(route: BaseRoute) -> bool:
    """Whether the pattern and methods alone decide, as against a subclass with its own `matches`."""
    if not isinstance(route, Route | WebSocketRoute):
        return False
    owner = next(cls for cls in type(route).__mro__ if "matches" in cls.__dict__)
    return owner.__module__ in ("starlette.routing", "fastapi.routing")


def _body(pattern: re.Pattern[str], *, keep_end: bool = False) -> str:
    """The pattern without anchors and names (which may repeat between a mount and what it mounts)."""
    body = _NAMED_GROUP.sub("(?:", pattern.pattern.removeprefix("^"))
    return body if keep_end else body.removesuffix("$")


def _first_segment(path: str) -> str:
    return path[1:].partition("/")[0]


def _fixed_segment(template: str) -> str | None:
    segment = _first_segment(template)
    return None if "{" in segment or template == UNMATCHED else segment


def _fixed_segment_of(entry: _Entry) -> str | None:
    return None if entry.custom is not None else _fixed_segment(entry.resolved.template)
