"""`/api/quotes`, and the cron routes that make the quotes come."""

import hmac
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query
from starlette.responses import Response

from examples.smriti.answers import ApiError, Failure, answer
from examples.smriti.auth.accounts import User
from examples.smriti.auth.signed_in import SignedIn
from examples.smriti.lists import Cursor, Skip
from examples.smriti.quotes.history import History
from examples.smriti.quotes.quotes import Quotes, counts
from examples.smriti.settings import SmritiSettings


def quote_routes(quotes: Quotes, history: History, signed_in: SignedIn) -> APIRouter:
    """The router, closed over its services."""
    router = APIRouter(
        prefix="/api/quotes", tags=["quotes"], responses={status: {"model": Failure} for status in (400, 401, 429)}
    )
    Me = Annotated[User, Depends(signed_in)]

    @router.get("/today")
    async def today(user: Me) -> Response:
        return answer(await quotes.today(user))

    @router.get("/history")
    async def past(
        user: Me, skip: Skip = 0, limit: Annotated[int, Query(ge=1, le=50)] = 20, cursor: Cursor = None
    ) -> Response:
        return answer(await history.page(user, skip=skip, limit=limit, cursor=cursor))

    return router


def cron_routes(quotes: Quotes, settings: SmritiSettings) -> APIRouter:
    """The jobs, for a scheduler that can only call URLs; Celery beat does the same without."""
    router = APIRouter(
        prefix="/api/internal",
        tags=["internal"],
        responses={status: {"model": Failure} for status in (400, 401, 429, 500)},
    )

    async def with_secret(x_cron_secret: Annotated[str, Header()]) -> None:
        expected = settings.cron_secret.get_secret_value() if settings.cron_secret else ""
        if not expected:
            raise ApiError(500, "The cron secret is not configured")
        if not hmac.compare_digest(x_cron_secret.encode(), expected.encode()):
            raise ApiError(401, "Wrong cron secret")

    @router.post("/daily-quote-init", dependencies=[Depends(with_secret)])
    async def initialize() -> Response:
        return answer(counts(await quotes.initialize()))

    @router.post("/daily-quote-push", dependencies=[Depends(with_secret)])
    async def push() -> Response:
        return answer(counts(await quotes.push_due()))

    return router
