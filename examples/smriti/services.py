"""Everything Smriti is made of, for the web process and for the workers alike."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request

from examples.smriti.auth.accounts import Accounts
from examples.smriti.auth.passwords import PasswordHasher
from examples.smriti.auth.tokens import Tokens
from examples.smriti.background import Background
from examples.smriti.circles.circles import Circles
from examples.smriti.documents.documents import Documents
from examples.smriti.indexes import INDEXES
from examples.smriti.lists import NEWEST_FIRST
from examples.smriti.notifications.devices import Devices
from examples.smriti.notifications.news import News
from examples.smriti.notifications.push import pusher_from
from examples.smriti.posts.circle_feed import CircleFeed
from examples.smriti.posts.posts import Posts
from examples.smriti.posts.search import Search
from examples.smriti.posts.uploads import Files
from examples.smriti.quotes.history import NEWEST_DAY_FIRST, History
from examples.smriti.quotes.quotes import Quotes
from examples.smriti.settings import SmritiSettings
from examples.smriti.users.users import Users
from smriti_scale import Scale
from smriti_scale.storage import CloudinaryStore, LocalStore, ObjectStore, S3Store


class Services:
    """The parts, made and wired; nothing is opened before `opened`.

    Args:
        settings: the knobs.
    """

    def __init__(self, settings: SmritiSettings) -> None:
        self.settings = settings = settings.effective
        self.scale = scale = Scale(settings, indexes=INDEXES, identity=_verified_user)
        secret = settings.secret_key.get_secret_value()
        self.tokens = Tokens(secret, algorithm=settings.algorithm, lifetime=settings.access_token_expire_minutes)
        self.hasher = PasswordHasher(rounds=settings.bcrypt_rounds)
        firebase = settings.firebase_credentials_json
        self.pusher = pusher_from(
            path=settings.firebase_credentials_path, text=firebase.get_secret_value() if firebase else None
        )
        scale.limiter.enabled = settings.primitives == "on"
        newest_first = scale.paginator(NEWEST_FIRST)
        self.background = Background(settings, self, events=scale.events)
        if scale.monitoring is not None and settings.redis_url:
            scale.monitoring.sample("queues", self.background.celery.queue_monitor.measure)
        self.files = Files(store_of(settings), public_url=settings.public_url)
        self.accounts = Accounts(scale.mongo, scale.cache, self.hasher, self.tokens)
        self.users = Users(scale.mongo, scale.cache, self.accounts)
        self.posts = Posts(scale.mongo, scale.cache, newest_first, self.files, self.background)
        self.circle_feed = CircleFeed(scale.mongo, scale.cache, newest_first)
        self.search = Search(scale.mongo, scale.cache, newest_first)
        self.circles = Circles(scale.mongo, scale.cache, newest_first)
        self.devices = Devices(scale.mongo)
        self.documents = Documents(scale.mongo, scale.cache, self.files.store)
        self.news = News(scale.mongo, self.devices, self.pusher)
        self.quotes = Quotes(scale.mongo, self.devices, self.pusher)
        self.history = History(scale.mongo, scale.paginator(NEWEST_DAY_FIRST))

    @contextlib.asynccontextmanager
    async def opened(self, app: Any = None) -> AsyncIterator[None]:
        """Open on start, close on stop."""
        uncached = self.scale.cache.disabled() if self.settings.primitives == "off" else contextlib.nullcontext()
        async with self.scale.lifespan(app):
            try:
                with uncached:
                    yield
            finally:
                if self.scale.monitoring is not None:  # first, or its next look would open the queues again
                    await self.scale.monitoring.aclose()
                await self.background.aclose()
                await self.pusher.aclose()
                if self.files.store is not None:
                    await self.files.store.aclose()
                self.hasher.close()


def store_of(settings: SmritiSettings) -> ObjectStore | None:
    """The file store that the settings name."""
    match settings.storage:
        case "local":
            return LocalStore(settings.storage_folder)
        case "s3":
            return S3Store(settings.s3_bucket, region=settings.s3_region, endpoint=settings.s3_endpoint)
        case "cloudinary":
            return CloudinaryStore(
                settings.cloudinary_cloud_name,
                api_key=settings.cloudinary_api_key,
                api_secret=settings.cloudinary_api_secret.get_secret_value(),
                api_url=settings.cloudinary_api_url,
                delivery_url=settings.cloudinary_delivery_url,
            )
        case "none":
            return None


def _verified_user(request: Request) -> str | None:
    user_id: str | None = request.scope.get("state", {}).get("user_id")
    return user_id
