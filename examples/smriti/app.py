"""The Smriti service, composed by `Scale`: `uvicorn --factory examples.smriti.app:create_app`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from examples.smriti.answers import answer
from examples.smriti.api_document import api_document
from examples.smriti.auth.routes import auth_routes
from examples.smriti.auth.signed_in import IdentityMiddleware, SignedIn
from examples.smriti.body_limit import BodyLimitMiddleware
from examples.smriti.circles.routes import circle_routes
from examples.smriti.client_paths import ClientPathsMiddleware
from examples.smriti.errors import CrashMiddleware, install_error_handlers
from examples.smriti.notifications.routes import notification_routes
from examples.smriti.posts.file_routes import file_routes
from examples.smriti.posts.routes import post_routes
from examples.smriti.posts.uploads import LARGEST
from examples.smriti.quotes.routes import cron_routes, quote_routes
from examples.smriti.services import Services
from examples.smriti.settings import SmritiSettings
from examples.smriti.users.routes import user_routes
from examples.smriti.web_routes import web_routes

VERSION = "1.0.0"


def create_app(settings: SmritiSettings | None = None) -> FastAPI:
    """One service instance. It opens nothing until its lifespan starts.

    Raises:
        pydantic.ValidationError: a setting cannot work, such as a default secret in production.
    """
    services = Services(settings or SmritiSettings())
    settings = services.settings
    scale, limiter = services.scale, services.scale.limiter
    signed_in = SignedIn(services.accounts)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with services.opened(app):
            yield

    app = FastAPI(title="Smriti", version=VERSION, lifespan=lifespan, openapi_url="/api/openapi.json", redoc_url=None)
    app.state.services = services

    @app.get("/api/health", tags=["system"])
    @app.head("/api/health", include_in_schema=False)
    @app.get("/health", include_in_schema=False)
    @limiter.exempt
    async def health() -> Response:
        return answer({"status": "ok"})

    @app.get("/health/db", include_in_schema=False)
    async def database_health() -> Response:
        await scale.mongo.ping()
        return answer({"status": "ok"})

    # Routes are tried in order, so those that are called most come first. Their routers have their prefixes already:
    # taken over as they are, a request is matched once; `include_router` would match it in the router again.
    for router in (
        post_routes(services.posts, services.search, signed_in, limiter, settings),
        user_routes(services.users, services.posts, signed_in),
        circle_routes(services.circles, services.posts, services.circle_feed, signed_in, limiter, settings),
        auth_routes(services.accounts, signed_in, limiter, settings, client=scale.client_address),
        file_routes(services.files),
        quote_routes(services.quotes, services.history, signed_in),
        notification_routes(services.devices, signed_in),
        cron_routes(services.quotes, settings),
        web_routes(VERSION),
    ):
        app.router.routes.extend(router.routes)

    # Added from the inside out: the last is the outermost, so that refusals and crashes have CORS headers too.
    scale.install(app)
    install_error_handlers(app)
    app.add_middleware(IdentityMiddleware, tokens=services.tokens)
    app.add_middleware(BodyLimitMiddleware, limit=2 * LARGEST + 1024 * 1024)
    app.add_middleware(CrashMiddleware)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=list(settings.cors_origins),
        allow_credentials=True,
        allow_methods=["*"],
        allow_headers=["*"],
    )
    app.add_middleware(ClientPathsMiddleware)
    app.openapi = api_document(app)  # type: ignore[method-assign]
    return app
