"""`setup_dashboard`: the page's routes on an app."""

from __future__ import annotations

import html
from collections.abc import Callable
from importlib.resources import files
from typing import Any, Protocol
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from smriti_scale.clock import SYSTEM_CLOCK, Clock
from smriti_scale.errors import ConfigurationError
from smriti_scale.monitoring.dashboard.access import Allow, Guard
from smriti_scale.monitoring.dashboard.live import Streams
from smriti_scale.monitoring.dashboard.picture import WINDOWS
from smriti_scale.monitoring.dashboard.watch import Watch
from smriti_scale.monitoring.monitoring import Monitoring

_ASSETS = {
    "dashboard.js": "text/javascript; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_HEADERS = {
    # no-transform: compression leaves the answers alone, ours and that of proxies; so no length tells a secret.
    "Cache-Control": "no-store, no-transform",
    "Content-Encoding": "identity",  # for compression middleware that does not know no-transform
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Accel-Buffering": "no",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex, nofollow, noarchive",
}
_LONGEST_FORM = 4096


class TakesRoutes(Protocol):
    """A Starlette or FastAPI application."""

    @property
    def router(self) -> Any: ...


def setup_dashboard(
    app: TakesRoutes,
    monitoring: Monitoring,
    *,
    path: str = "/_scale",
    token: str | None = None,
    allow: Allow | None = None,
    title: str = "smriti_scale",
    interval: float = 2.0,
    max_streams: int = 16,
    stream_seconds: float = 20.0,
    session_seconds: float = 8 * 3600.0,
    cookie_secure: bool | None = None,
    stopping: Callable[[], bool] = lambda: False,
    clock: Clock = SYSTEM_CLOCK,
) -> Dashboard:
    """Put the dashboard on a Starlette or FastAPI app: `setup_dashboard(app, monitoring, token=…)`.

    Its answers are never cached, compressed, framed or indexed, and load nothing from elsewhere. The page is at
    `path` and below: `data.json` is the same as JSON, `live` the stream. Both take `?window=5m|1h|start`. Requests
    for it are not counted among the application's, except by `scale_http_requests_in_progress` while they last.

    Args:
        app: the application; the routes are put before its own.
        monitoring: the `Monitoring` to show.
        path: where the page is, beginning with `/`.
        token: what opens it, at least 16 characters: typed into a form once, or sent as `Authorization: Bearer …`.
        allow: who may see it, in place of a token: called with the request, sync or async. `loopback_only` is one.
        title: the service's name, at the head of the page.
        interval: seconds between updates.
        max_streams: pages that are live at a time, in each process; more of them ask for updates less often.
        stream_seconds: after how long a page's stream is ended, to be opened anew by the browser.
        session_seconds: how long a login lasts; it is renewed while the page is used.
        cookie_secure: whether the login's cookie needs TLS; None for everywhere except on loopback names.
        stopping: true once the server is to stop, which ends streams. What uvicorn knows is noticed without it.
        clock: time.

    Raises:
        ConfigurationError: neither or both of `token` and `allow`; a short token; a path that cannot be; the
            monitoring has a dashboard already.
    """
    if not path.startswith("/") or len(path.rstrip("/")) < 2 or "{" in path:
        raise ConfigurationError(f"path={path!r} must begin with '/' and name a place of its own, such as '/_scale'")
    if interval <= 0 or max_streams < 0 or stream_seconds <= 0 or session_seconds <= 0:
        raise ConfigurationError("interval, stream_seconds and session_seconds must be above 0, max_streams not below")
    path = path.rstrip("/")
    watch = Watch(monitoring, title=title, interval=interval / 2, clock=clock)
    dashboard = Dashboard(
        watch,
        guard=Guard(
            token=token, allow=allow, path=path, session=session_seconds, cookie_secure=cookie_secure, clock=clock
        ),
        streams=Streams(
            watch, most=max_streams, interval=interval, length=stream_seconds, stopping=stopping, clock=clock
        ),
        title=title,
        path=path,
    )
    app.router.routes[0:0] = dashboard.routes()
    monitoring.ignored.update(route.path for route in dashboard.routes())
    monitoring.sample("dashboard", watch.look)
    return dashboard


class Dashboard:
    """The page's routes. Made by `setup_dashboard`.

    Attributes:
        path: where the page is.
        streams: the open streams.
    """

    def __init__(self, watch: Watch, *, guard: Guard, streams: Streams, title: str, path: str) -> None:
        self.path = path
        self.streams = streams
        self._watch = watch
        self._guard = guard
        folder = files(__package__) / "page"
        name = html.escape(title, quote=True)
        self._page = (folder / "index.html").read_text("utf-8").replace("{{title}}", name)
        if not guard.has_login:
            self._page = self._page.replace("<html", "<html data-open", 1)
        self._login = (folder / "login.html").read_text("utf-8").replace("{{title}}", name)
        self._assets = {name: (folder / name).read_bytes() for name in _ASSETS}

    def routes(self) -> list[Route]:
        """All of it, for `app.router.routes`."""
        return [
            Route(self.path, self._bare),
            Route(f"{self.path}/", self._show),
            Route(f"{self.path}/data.json", self._data),
            Route(f"{self.path}/live", self._live, methods=["GET"]),
            Route(f"{self.path}/login", self._log_in, methods=["GET", "POST"]),
            Route(f"{self.path}/logout", self._log_out, methods=["GET", "POST"]),
            *(Route(f"{self.path}/{name}", self._asset) for name in _ASSETS),
        ]

    async def _bare(self, request: Request) -> Response:
        # Relative, since a proxy may have taken a prefix off.
        return RedirectResponse(f"{self.path.rpartition('/')[2]}/", 307, headers=_HEADERS)

    async def _show(self, request: Request) -> Response:
        if not await self._guard.admits(request):
            return self._refusal(request)
        page = _html(self._page)
        if self._guard.renews(request):
            self._guard.log_in(request, page)
        return page

    async def _data(self, request: Request) -> Response:
        if not await self._guard.admits(request):
            return self._refusal(request, as_json=True)
        window = request.query_params.get("window", "5m")
        if window not in WINDOWS:
            return _no_such_window()
        return Response(await self._watch.body(window), media_type="application/json", headers=_HEADERS)

    async def _live(self, request: Request) -> Response:
        if not await self._guard.admits(request):
            return self._refusal(request, as_json=True)
        window = request.query_params.get("window", "5m")
        if window not in WINDOWS:
            return _no_such_window()
        if self.streams.is_full:
            return JSONResponse(
                {"detail": "too many live pages, or the server is to stop: ask data.json"},
                503,
                headers={**_HEADERS, "Retry-After": "10"},
            )
        return _Live(self.streams, window) if request.method == "GET" else _event_stream()

    async def _asset(self, request: Request) -> Response:
        if not self._guard.has_login and not await self._guard.admits(request):
            return self._refusal(request)
        name = request.url.path.rpartition("/")[2]
        return Response(self._assets[name], media_type=_ASSETS[name], headers=_HEADERS)

    async def _log_in(self, request: Request) -> Response:
        if not self._guard.has_login or request.method != "POST":
            return RedirectResponse("./", 303, headers=_HEADERS)
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return self._refusal(request)
        token = await _form_token(request)
        if token is None or not self._guard.knows(token):
            return _html(self._login.replace("{{problem}}", "That is not the token."), 401)
        response = RedirectResponse("./", 303, headers=_HEADERS)
        self._guard.log_in(request, response)
        return response

    async def _log_out(self, request: Request) -> Response:
        response = RedirectResponse("./", 303, headers=_HEADERS)
        if request.method == "POST":
            self._guard.log_out(request, response)
        return response

    def _refusal(self, request: Request, *, as_json: bool = False) -> Response:
        if not self._guard.has_login:
            return JSONResponse({"detail": "not allowed"}, 403, headers=_HEADERS)
        if as_json:
            return JSONResponse(
                {"detail": "log in, or send the token as Authorization: Bearer"},
                401,
                headers={**_HEADERS, "WWW-Authenticate": 'Bearer realm="dashboard"'},
            )
        return _html(self._login.replace("{{problem}}", ""), 401)


class _Live(Response):
    """A stream of events."""

    def __init__(self, streams: Streams, window: str) -> None:
        super().__init__()
        self._streams = streams
        self._window = window

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._streams.send(self._window, _event_stream().raw_headers, receive, send)


def _event_stream() -> Response:
    """What a stream begins with."""
    response = Response(media_type="text/event-stream", headers=_HEADERS)
    del response.headers["content-length"]
    return response


def _html(text: str, status: int = 200) -> Response:
    return Response(text, status, media_type="text/html; charset=utf-8", headers=_HEADERS)


def _no_such_window() -> Response:
    return JSONResponse({"detail": f"window must be one of {', '.join(WINDOWS)}"}, 400, headers=_HEADERS)


async def _form_token(request: Request) -> str | None:
    """The form's token; None for a form that is not ours."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _LONGEST_FORM:
            return None
    return parse_qs(body.decode("latin-1")).get("token", [""])[0].strip()
