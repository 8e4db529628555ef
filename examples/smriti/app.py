"""The Smriti service, composed by `Scale`: `uvicorn --factory examples.smriti.app:create_app`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from examples.smriti.answers import answer
from examples.smriti.auth.accounts import Accounts
from examples.smriti.auth.passwords import PasswordHasher
from examples.smriti.auth.routes import auth_routes
from examples.smriti.auth.signed_in import IdentityMiddleware, SignedIn
from examples.smriti.auth.tokens import Tokens
from examples.smriti.errors import install_error_handlers
from examples.smriti.indexes import INDEXES
from examples.smriti.posts.posts import NEWEST_FIRST, Posts
from examples.smriti.posts.routes import post_routes
from examples.smriti.settings import SmritiSettings
from examples.smriti.users.routes import user_routes
from smriti_scale import Scale

VERSION = "1.0.0"


def create_app(settings: SmritiSettings | None = None) -> FastAPI:
    """One service instance. It opens nothing until its lifespan starts.

    Raises:
        pydantic.ValidationError: a setting cannot work, such as a default secret in production.
    """
    settings = settings or SmritiSettings()
    scale = Scale(settings, indexes=INDEXES, identity=lambda request: request.state.user_id)
    tokens = Tokens(
        settings.secret_key.get_secret_value(),
        algorithm=settings.algorithm,
        lifetime=settings.access_token_expire_minutes,
    )
    hasher = PasswordHasher(rounds=settings.bcrypt_rounds)
    accounts = Accounts(scale.mongo, scale.cache, hasher, tokens)
    posts = Posts(scale.mongo, scale.cache, scale.paginator(NEWEST_FIRST))
    signed_in = SignedIn(accounts)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with scale.lifespan(app):
            yield
        hasher.close()

    app = FastAPI(title="Smriti", version=VERSION, lifespan=lifespan, openapi_url="/api/openapi.json", redoc_url=None)
    app.state.scale = scale
    install_error_handlers(app)

    @app.get("/", tags=["system"])
    async def root() -> Response:
        return answer({"message": "Smriti", "docs": "/docs", "version": VERSION})

    @app.get("/api/health", tags=["system"])
    @app.head("/api/health", include_in_schema=False)
    async def health() -> Response:
        return answer({"status": "ok"})

    app.include_router(auth_routes(accounts, signed_in, scale.limiter, settings))
    app.include_router(post_routes(posts, signed_in, scale.limiter, settings))
    app.include_router(user_routes(posts, signed_in))

    # The last one added is the outermost: CORS headers are on every answer, also on refusals.
    scale.install(app)
    app.add_middleware(IdentityMiddleware, tokens=tokens)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=list(settings.cors_origins),
        allow_credentials=True,
        allow_methods=["*"],
        allow_headers=["*"],
    )
    return app
