"""`RateLimitMiddleware`: limits for routes that declare none, and headers on every answer."""

from __future__ import annotations

from collections.abc import Awaitable

from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from smriti_scale.errors import ConfigurationError
from smriti_scale.ratelimit.checked import Checked
from smriti_scale.ratelimit.enforcement import TOLD
from smriti_scale.ratelimit.exceeded import RateLimitExceeded
from smriti_scale.ratelimit.limiter import RateLimiter
from smriti_scale.ratelimit.refusal import answer, has_own_answer, refuse_websocket
from smriti_scale.routing import resolve_route

_BY = "smriti_scale.ratelimit.limiter"
"""Where a request's scope has the limiter whose middleware looks after it."""

_STARTS = ("http.response.start", "websocket.http.response.start")


class RateLimitMiddleware:
    """Enforces default and application limits on routes without a decorator, by route template.

    Plain ASGI: streams pass untouched, WebSocket handshakes are refused before they are accepted, and mounted apps,
    included routers and static files count like any route. Paths that no route serves share one allowance.

    Args:
        app: the application.
        limiter: the limiter; `app.state.limiter` unless given.
    """

    def __init__(self, app: ASGIApp, limiter: RateLimiter | None = None) -> None:
        self.app = app
        self._limiter = limiter
        self._watches: bool | None = None

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        # Without a coroutine of its own: often there is nothing to do.
        kind = scope["type"]
        if kind != "http" and kind != "websocket":
            return self.app(scope, receive, send)
        limiter = self._limiter or _limiter_of(scope)
        # Where the middleware stands twice for one limiter, the outer one does it all.
        if not (limiter.enabled and limiter._auto_check) or scope.get(_BY) is limiter:  # `active`, on the hot path
            return self.app(scope, receive, send)
        watches = self._watches
        if watches is None:  # as of the first request, when the application's handlers are settled
            watches = self._watches = limiter.tells_more or has_own_answer(scope.get("app"))
        if watches:
            scope[_BY] = limiter
            send = self._watched(limiter, scope, send)
        if limiter.guards_undecorated:
            scope[_BY] = limiter
            return self._guarded(limiter, scope, receive, send)
        return self.app(scope, receive, send)

    @staticmethod
    def _watched(limiter: RateLimiter, scope: Scope, send: Send) -> Send:
        """A `send` that adds to an answer what it should tell."""
        # It stands in the scope, so that the decision finds it past code that copies the scope; it must not refer to
        # `send`, which often refers to the scope: each request would leave a cycle to the garbage collector.
        told: list[Checked] = []
        scope[TOLD] = told

        def send_with_headers(message: Message) -> Awaitable[None]:  # no coroutine of its own: it has nothing to await
            if told and message["type"] in _STARTS:
                limiter.tell(message, told[-1])
            return send(message)

        return send_with_headers

    async def _guarded(self, limiter: RateLimiter, scope: Scope, receive: Receive, send: Send) -> None:
        request: HTTPConnection = (
            Request(scope, receive) if scope["type"] == "http" else WebSocket(scope, receive, send)
        )
        try:
            await self._check(limiter, request)
        except RateLimitExceeded as refusal:
            if isinstance(request, WebSocket):
                await refuse_websocket(request, refusal)
            else:
                response = await answer(request, refusal)
                await response(scope, receive, send)
            return
        await self.app(scope, receive, send)

    async def _check(self, limiter: RateLimiter, request: HTTPConnection) -> None:
        endpoint = resolve_route(request.scope).endpoint
        duty = limiter.duty_of(endpoint, request.scope.get("method", ""))
        if duty == "defaults":
            scope = limiter.scope_of(request, endpoint)
            if limiter.check_now(request, None, scope=scope) is None:
                await limiter.check(request, None, scope=scope)
        elif duty is not None:
            await limiter.check(request, duty)


def _limiter_of(scope: Scope) -> RateLimiter:
    limiter = getattr(getattr(scope.get("app"), "state", None), "limiter", None)
    if not isinstance(limiter, RateLimiter):
        raise ConfigurationError(
            "RateLimitMiddleware has no limiter: pass limiter=..., or call setup_rate_limiting(app, limiter)"
        )
    return limiter
