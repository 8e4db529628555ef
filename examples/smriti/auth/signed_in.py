"""Who is asking: the token is verified once, before limits are counted; the account is looked up where it is needed."""

from __future__ import annotations

from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from examples.smriti.answers import ApiError
from examples.smriti.auth.accounts import Accounts, User
from examples.smriti.auth.tokens import Tokens
from smriti_scale import context


class IdentityMiddleware:
    """Puts the verified user id into `request.state.user_id` and `context.identity`; None for everybody else."""

    def __init__(self, app: ASGIApp, *, tokens: Tokens) -> None:
        self.app = app
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            user_id = self._identify(scope)
            scope.setdefault("state", {})["user_id"] = user_id
            context.identity.set(user_id)
        await self.app(scope, receive, send)

    def _identify(self, scope: Scope) -> str | None:
        for name, value in scope["headers"]:
            if name == b"authorization":
                scheme, _, token = value.decode("latin-1").partition(" ")
                return self._tokens.read(token.strip()) if scheme.lower() == "bearer" else None
        return None


class SignedIn(SecurityBase):
    """A dependency: the account of the request's token. The OpenAPI document names it as a bearer token.

    Raises:
        ApiError: 401 without a valid token of an existing account.
    """

    def __init__(self, accounts: Accounts) -> None:
        self.model = HTTPBearer(bearerFormat="JWT")
        self.scheme_name = "token"
        self._accounts = accounts

    async def __call__(self, request: Request) -> User:
        user_id: str | None = request.state.user_id
        user = await self._accounts.by_id(user_id) if user_id else None
        if user is None:
            raise ApiError(401, "Sign in first", headers={"WWW-Authenticate": "Bearer"})
        return user
