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
from examples.smriti.body_limit import BodyLimitMiddleware
from examples.smriti.circles.circles import Circles
from examples.smriti.circles.routes import circle_routes
from examples.smriti.client_paths import ClientPathsMiddleware
from examples.smriti.errors import CrashMiddleware, install_error_handlers
from examples.smriti.indexes import INDEXES
from examples.smriti.lists import NEWEST_FIRST
from examples.smriti.notifications.devices import Devices
from examples.smriti.notifications.push import pusher_from
from examples.smriti.notifications.routes import notification_routes
from examples.smriti.posts.posts import Posts
from examples.smriti.posts.routes import post_routes
from examples.smriti.posts.search import Search
from examples.smriti.posts.uploads import LARGEST
from examples.smriti.quotes.history import NEWEST_DAY_FIRST, History
from examples.smriti.quotes.quotes import Quotes
from examples.smriti.quotes.routes import cron_routes, quote_routes
from examples.smriti.settings import SmritiSettings
from examples.smriti.users.routes import user_routes
from examples.smriti.users.users import Users
from smriti_scale import Scale

VERSION = "1.0.0"


def create_app(settings: SmritiSettings | None = None) -> FastAPI:
    """One service instance. It opens nothing until its lifespan starts.

    Raises:
        pydantic.ValidationError: a setting cannot work, such as a default secret in production.
    """
    settings = settings or SmritiSettings()
    settings = settings.model_copy(update={"application_limits": (settings.user_limit,)})
    scale = Scale(settings, indexes=INDEXES, identity=lambda request: request.state.user_id)
    tokens = Tokens(
        settings.secret_key.get_secret_value(),
        algorithm=settings.algorithm,
        lifetime=settings.access_token_expire_minutes,
    )
    hasher = PasswordHasher(rounds=settings.bcrypt_rounds)
    firebase = settings.firebase_credentials_json
    pusher = pusher_from(
        path=settings.firebase_credentials_path, text=firebase.get_secret_value() if firebase else None
    )
    newest_first = scale.paginator(NEWEST_FIRST)
    accounts = Accounts(scale.mongo, scale.cache, hasher, tokens)
    users = Users(scale.mongo, scale.cache, accounts)
    posts = Posts(scale.mongo, scale.cache, newest_first)
    circles = Circles(scale.mongo, scale.cache, newest_first)
    devices = Devices(scale.mongo)
    quotes = Quotes(scale.mongo, devices, pusher)
    history = History(scale.mongo, scale.paginator(NEWEST_DAY_FIRST))
    signed_in = SignedIn(accounts)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with scale.lifespan(app):
            yield
        await pusher.aclose()
        hasher.close()

    app = FastAPI(title="Smriti", version=VERSION, lifespan=lifespan, openapi_url="/api/openapi.json", redoc_url=None)

    @app.get("/", tags=["system"])
    async def root() -> Response:
        return answer({"message": "Smriti", "docs": "/docs", "version": VERSION})

    @app.get("/api/health", tags=["system"])
    @app.head("/api/health", include_in_schema=False)
    @app.get("/health", include_in_schema=False)
    @scale.limiter.exempt
    async def health() -> Response:
        return answer({"status": "ok"})

    @app.get("/health/db", include_in_schema=False)
    async def database_health() -> Response:
        await scale.mongo.ping()
        return answer({"status": "ok"})

    for router in (
        auth_routes(accounts, signed_in, scale.limiter, settings, client=scale.client_address),
        post_routes(posts, Search(scale.mongo, scale.cache, newest_first), signed_in, scale.limiter, settings),
        user_routes(users, posts, signed_in),
        circle_routes(circles, posts, signed_in, scale.limiter, settings),
        quote_routes(quotes, history, signed_in),
        notification_routes(devices, signed_in),
        cron_routes(quotes, settings),
    ):
        app.include_router(router)

    # Added from the inside out: the last is the outermost, so that refusals and crashes have CORS headers too.
    scale.install(app)
    install_error_handlers(app)
    app.add_middleware(IdentityMiddleware, tokens=tokens)
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
    return app
