"""`/api/auth`: sign up, sign in, who am I."""

import re
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import AfterValidator, BaseModel, Field, model_validator
from starlette.requests import Request
from starlette.responses import Response

from examples.smriti.answers import Failure, Success, answer, iso, success
from examples.smriti.auth.accounts import Accounts, User, phone_key
from examples.smriti.auth.signed_in import SignedIn
from examples.smriti.settings import SmritiSettings
from smriti_scale.mongo import identify
from smriti_scale.ratelimit import RateLimiter

_EMAIL = re.compile(r"[^@\s]+@[^@\s.]+(\.[^@\s.]+)+")


def _looks_like_email(value: str) -> str:
    if not _EMAIL.fullmatch(value):
        raise ValueError("not an e-mail address")
    return value


def _has_digits(value: str) -> str:
    if not 7 <= len(phone_key(value)) <= 15 or not re.fullmatch(r"[0-9 ()+.-]+", value):
        raise ValueError("not a phone number")
    return value


Username = Annotated[str, Field(min_length=3, max_length=30)]
Email = Annotated[str, Field(min_length=5, max_length=100)]
Phone = Annotated[str, Field(min_length=10, max_length=15)]
Password = Annotated[str, Field(min_length=6, max_length=128)]


class SignUp(BaseModel):
    username: Annotated[str, Field(min_length=3, max_length=30, pattern=r"^[A-Za-z0-9_]+$")]
    password: Password
    email: Annotated[Email, AfterValidator(_looks_like_email)] | None = None
    phone: Annotated[Phone, AfterValidator(_has_digits)] | None = None
    display_name: Annotated[str, Field(min_length=1, max_length=50)] | None = None


class Login(BaseModel):
    password: Password
    username: Username | None = None
    email: Email | None = None
    phone: Phone | None = None

    @model_validator(mode="after")
    def _names_somebody(self) -> "Login":
        if self.username is None and self.email is None and self.phone is None:
            raise ValueError("username, email or phone is needed")
        return self

    @property
    def identifier(self) -> tuple[str, str]:
        """What was given, first of username, email, phone: (value, kind)."""
        for kind in ("username", "email", "phone"):
            if (value := getattr(self, kind)) is not None:
                return value, kind
        raise AssertionError("validated above")


class Account(BaseModel):
    username: str
    displayName: str | None  # noqa: N815
    email: str | None
    phone: str | None
    token: str


class Availability(BaseModel):
    success: bool
    available: bool
    message: str


def auth_routes(
    accounts: Accounts,
    signed_in: SignedIn,
    limiter: RateLimiter,
    settings: SmritiSettings,
    *,
    client: Callable[[Request], str],
) -> APIRouter:
    """The router, closed over its services.

    Args:
        client: names the client's address, which signing up and in are limited by.
    """
    router = APIRouter(prefix="/api/auth", tags=["auth"], responses={400: {"model": Failure}, 429: {"model": Failure}})

    def account(user: User) -> dict[str, str | None]:
        return {
            "username": user.username,
            "displayName": user.display_name,
            "email": user.email,
            "phone": user.phone,
            "token": accounts.tokens.issue(user.id),
        }

    @router.post("/signup", status_code=201, response_model=Success[Account], responses={409: {"model": Failure}})
    @limiter.limit(settings.signup_limit, key_func=client, strategy="moving-window")
    async def sign_up(request: Request, body: SignUp) -> Response:
        user = await accounts.sign_up(
            body.username, body.password, email=body.email, phone=body.phone, display_name=body.display_name
        )
        # Only now is it known who asked: what they read next, with the new token, must not be older than this.
        await identify(user.id)
        return success("Welcome to Smriti", account(user), status=201)

    @router.post("/login", response_model=Success[Account], responses={401: {"model": Failure}})
    @limiter.limit(settings.login_limit, key_func=client, strategy="moving-window")
    async def log_in(request: Request, body: Login) -> Response:
        identifier, kind = body.identifier
        user = await accounts.sign_in(identifier, body.password, kind=kind)
        return success("Signed in", account(user))

    @router.get("/check-username/{username}", response_model=Availability)
    async def check_username(username: str) -> Response:
        available = await accounts.available(username)
        message = "That username is free" if available else "That username is taken"
        return answer({"success": True, "available": available, "message": message})

    @router.get("/me", responses={401: {"model": Failure}})
    async def me(user: Annotated[User, Depends(signed_in)]) -> Response:
        return answer({"success": True, "user": own_account(user)})

    return router


def own_account(user: User) -> dict[str, object]:
    return {
        "_id": user.id,
        "username": user.username,
        "display_name": user.display_name,
        "email": user.email,
        "phone": user.phone,
        "timezone": user.timezone,
        "location": user.location,
        "createdAt": iso(user.created_at),
    }
