"""Read your own writes, over requests and instances: the position of a caller, there and back by HTTP.

A request that wrote answers with a signed token, in a cookie for browsers and a header for API clients. The next
request brings it to whatever instance serves it, and reads there do not fall behind it. Callers that send neither
back, but are signed in, are remembered in Redis for a short time.

After Petersen et al. and Terry et al., "Session Guarantees for Weakly Consistent Replicated Data" (PDIS 1994).
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

from starlette.datastructures import MutableHeaders
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smriti_scale import context
from smriti_scale.clock import SYSTEM_CLOCK, Clock
from smriti_scale.errors import ConfigurationError, InvalidCausalToken
from smriti_scale.mongo.causal_scope import CausalScope
from smriti_scale.mongo.causal_token import CausalToken, TokenSigner
from smriti_scale.mongo.clients import MongoClients
from smriti_scale.mongo.position_store import PositionStore

Identity = Callable[[Scope], "str | Awaitable[str | None] | None"]


class ReadYourWritesMiddleware:
    """Opens a causal scope for each request, so that handlers just use `mongo.read` and `mongo.write`.

    ```python
    app.add_middleware(ReadYourWritesMiddleware, mongo=mongo, secret=secret)
    ```

    Args:
        app: the application inside.
        mongo: whose reads and writes it is about.
        secret: signs the tokens; the same in all instances. Several: the first signs, all verify.
        ttl: seconds until a token is void. Replication that lags by more than that breaks the promise.
        cookie: the cookie's name; None sends no cookie.
        cookie_secure: False only for development over plain HTTP.
        cookie_samesite: `"lax"`, `"strict"`, or `"none"` for a browser application on another site.
        cookie_domain: for an application spread over subdomains.
        header: the request and response header's name; None uses none.
        positions: remembers signed-in callers that send no token back; None remembers nobody.
        identity: tells who the caller is from the ASGI scope, before the application runs; None or an answer of None:
            not known yet (see `identify`). Only what is verified may be believed.
        clock: the source of time.

    Raises:
        ConfigurationError: an argument cannot work.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        mongo: MongoClients,
        secret: str | bytes | Sequence[str | bytes],
        ttl: float = 120.0,
        cookie: str | None = "consistency",
        cookie_secure: bool = True,
        cookie_samesite: Literal["lax", "strict", "none"] = "lax",
        cookie_domain: str | None = None,
        header: str | None = "X-Consistency-Token",
        positions: PositionStore | None = None,
        identity: Identity | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if ttl < 1:
            raise ConfigurationError(f"ttl must be a second or more, not {ttl!r}")
        if cookie_samesite == "none" and not cookie_secure:
            raise ConfigurationError('browsers refuse a cookie with samesite="none" that is not secure')
        self._app = app
        self._mongo = mongo
        self._signer = TokenSigner(secret, ttl=ttl)
        self._cookie = cookie
        self._attributes = "".join(
            [
                f"; Max-Age={round(ttl)}; Path=/; HttpOnly; SameSite={cookie_samesite.capitalize()}",
                "; Secure" if cookie_secure else "",
                f"; Domain={cookie_domain}" if cookie_domain else "",
            ]
        )
        self._header = header
        self._header_key = header.lower().encode() if header else b""
        self._positions = positions
        self._identity = identity
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        causal = CausalScope(self._mongo.cluster)
        visit = _Visit(self._mongo, causal, self._positions, returns_tokens=self._take_in(scope, causal))
        causal.identity = visit
        if self._identity is not None:
            known = self._identity(scope)
            who = await known if inspect.isawaitable(known) else known
            if who is not None:
                await visit.identify(who)

        async def answer(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.accept") and causal.wrote:
                token = causal.token
                if token is not None:
                    await visit.remember(token)
                    self._put_out(MutableHeaders(scope=message), token)
            await send(message)

        with causal.entered():
            await self._mongo.settle(causal)
            try:
                await self._app(scope, receive, answer)
            finally:
                # Written after the headers had left: in a stream, a background task, a web socket.
                if causal.wrote and causal.token is not None:
                    await visit.remember(causal.token)

    def _take_in(self, scope: Scope, causal: CausalScope) -> bool:
        """Merge what the client sent; returns whether there was a token that holds."""
        held = False
        now = self._clock.time()
        for text in self._sent(scope):
            try:
                self._mongo.accept(causal, self._signer.verify(text, now=now))
                held = True
            except InvalidCausalToken as error:
                self._mongo.ignored(error)
        return held

    def _sent(self, scope: Scope) -> list[str]:
        texts = []
        for name, value in scope["headers"]:
            if name == self._header_key and self._header:
                texts.append(value.decode("latin-1").strip())
            elif name == b"cookie" and self._cookie:
                text = cookie_parser(value.decode("latin-1")).get(self._cookie)
                if text:
                    texts.append(text)
        return texts[:4]  # a client sends two at most

    def _put_out(self, headers: MutableHeaders, token: CausalToken) -> None:
        signed = self._signer.sign(token, now=self._clock.time())
        if self._header:
            headers[self._header] = signed
        if self._cookie:
            headers.append("Set-Cookie", f"{self._cookie}={signed}{self._attributes}")


class _Visit:
    """One request's caller: who it is, once known, and how far it was remembered to be."""

    __slots__ = ("_causal", "_mongo", "_positions", "_remembered", "_returns_tokens", "_who")

    def __init__(
        self, mongo: MongoClients, causal: CausalScope, positions: PositionStore | None, *, returns_tokens: bool
    ) -> None:
        self._mongo = mongo
        self._causal = causal
        self._positions = positions
        self._returns_tokens = returns_tokens
        self._who: str | None = None
        self._remembered = 0

    async def identify(self, who: str) -> None:
        """Take in where this caller stood."""
        if who == self._who:
            return
        self._who = who
        if self._positions is None or self._returns_tokens:
            return
        token = await self._positions.get(who)
        if token is None:
            return
        try:
            self._mongo.accept(self._causal, token)
        except InvalidCausalToken as error:
            self._mongo.ignored(error)

    async def remember(self, token: CausalToken) -> None:
        """Remember where this caller stands, unless it brings its tokens back itself."""
        who = self._who or context.identity.get()
        if self._positions is None or self._returns_tokens or who is None or token.operation_time <= self._remembered:
            return
        self._remembered = token.operation_time
        await self._positions.put(who, token)


async def identify(who: str) -> None:
    """Tell, inside a request, who the caller is, as soon as that is verified (a dependency that authenticates).

    If this caller has sent no token, its position is looked up in Redis, and reads from here on do not fall behind
    it; and where it stands after its writes is remembered. Outside of a request it does nothing.

    Args:
        who: the user's id, or what else is the same on all of its requests. It is not stored, only its hash.
    """
    cell = context.causal_position.cell()
    causal: Any = cell.held if cell is not None else None
    visit = causal.identity if type(causal) is CausalScope else None
    if isinstance(visit, _Visit):
        await visit.identify(who)
        await visit._mongo.settle(causal)
