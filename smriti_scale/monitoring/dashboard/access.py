"""Who may see the dashboard: whoever has the token, or whom a callable lets in. Fails closed.

The token is typed into a form once and traded for a signed cookie that lasts some hours, so that it stands in no
address, log or history. The cookie's key is derived from the token: a new token ends all sessions.
"""

from __future__ import annotations

import hashlib
import hmac
import inspect
import ipaddress
import secrets
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from smriti_scale.clock import Clock
from smriti_scale.errors import ConfigurationError

COOKIE = "smriti_scale_dashboard"
MINIMUM_TOKEN_LENGTH = 16

Allow: TypeAlias = Callable[[Request], bool | Awaitable[bool]]

_PURPOSE = b"smriti_scale/dashboard session"
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")


def loopback_only(request: Request) -> bool:
    """Whether the request comes from this very machine, by no proxy and under a loopback name.

    The name is checked too, since a page elsewhere can make a name of its own mean 127.0.0.1 (DNS rebinding).
    """
    client = request.client
    if client is None or any(header in request.headers for header in _FORWARDED):
        return False
    try:
        return ipaddress.ip_address(client.host).is_loopback and is_loopback_name(request)
    except ValueError:
        return False


def is_loopback_name(connection: HTTPConnection) -> bool:
    """Whether the request is for `localhost` or a loopback address."""
    host = connection.url.hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Decides about requests.

    Args:
        token: what opens the dashboard, at least 16 characters.
        allow: called with the request instead; sync or async, True lets it in. What it raises is the answer.
        path: where the dashboard is; the cookie is sent nowhere else.
        session: seconds for which a login lasts.
        cookie_secure: whether the cookie travels over TLS alone; None for always except on a loopback name.
        clock: wall time.

    Raises:
        ConfigurationError: neither or both of `token` and `allow`, or a token that is too short.
    """

    def __init__(
        self,
        *,
        token: str | None,
        allow: Allow | None,
        path: str,
        session: float,
        cookie_secure: bool | None,
        clock: Clock,
    ) -> None:
        if (token is None) == (allow is None):
            raise ConfigurationError(
                "the dashboard needs a guard: token=... or allow=..., one of them (allow=loopback_only for a laptop)"
            )
        if token is not None and len(token) < MINIMUM_TOKEN_LENGTH:
            raise ConfigurationError(
                f"the dashboard's token must have {MINIMUM_TOKEN_LENGTH} characters or more: "
                "python -c 'import secrets; print(secrets.token_urlsafe(24))'"
            )
        self._token = None if token is None else token.encode()
        self._key = b"" if token is None else hmac.digest(token.encode(), _PURPOSE + path.encode(), hashlib.sha256)
        self._allow = allow
        self._path = path
        self._session = session
        self._secure = cookie_secure
        self._clock = clock

    @property
    def has_login(self) -> bool:
        """Whether there is a form to log in with."""
        return self._token is not None

    async def admits(self, request: Request) -> bool:
        """Whether this request may see the dashboard."""
        if self._allow is not None:
            verdict = self._allow(request)
            return bool(await verdict if inspect.isawaitable(verdict) else verdict)
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.knows(given.strip())
        return self._expiry(request.cookies.get(COOKIE, "")) is not None

    def knows(self, token: str) -> bool:
        """Whether this is the token; the time taken does not tell how much of it is right."""
        if self._token is None:
            return False
        # Digests, since compare_digest tells lengths.
        given = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        return hmac.compare_digest(given, hashlib.sha256(self._token).digest())

    def log_in(self, request: Request, response: Response) -> None:
        """Give the browser its cookie."""
        body = f"{int(self._clock.time() + self._session)}.{secrets.token_hex(8)}"
        response.set_cookie(
            COOKIE,
            f"{body}.{self._sign(body)}",
            max_age=int(self._session),
            path=self._cookie_path(request),
            httponly=True,
            samesite="strict",
            secure=self._is_secure(request),
        )

    def log_out(self, request: Request, response: Response) -> None:
        """Take the cookie away."""
        response.delete_cookie(
            COOKIE, path=self._cookie_path(request), httponly=True, samesite="strict", secure=self._is_secure(request)
        )

    def renews(self, request: Request) -> bool:
        """Whether the login is past its half, so that someone who keeps looking is given a new one."""
        expiry = self._expiry(request.cookies.get(COOKIE, ""))
        return expiry is not None and expiry - self._clock.time() < self._session / 2

    def _expiry(self, cookie: str) -> float | None:
        """When a cookie of ours expires; None for one that is foreign, altered or expired."""
        body, _, signature = cookie.rpartition(".")
        if self._token is None or not hmac.compare_digest(
            signature.encode("utf-8", "surrogateescape"), self._sign(body).encode()
        ):
            return None
        expiry = float(body.partition(".")[0])  # signed, so a number
        return expiry if expiry > self._clock.time() else None

    def _sign(self, body: str) -> str:
        return hmac.new(self._key, body.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()

    def _cookie_path(self, request: Request) -> str:
        return f"{request.scope.get('root_path', '')}{self._path}"

    def _is_secure(self, request: Request) -> bool:
        return not is_loopback_name(request) if self._secure is None else self._secure
