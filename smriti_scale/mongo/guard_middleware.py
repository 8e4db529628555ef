"""Watches every HTTP request of an app for queries that scan, sort in memory or repeat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Receive, Scope as ASGIScope, Send

from smriti_scale.events import RepeatedQuery
from smriti_scale.mongo.guard import Action, QueryGuard, Watched, act_on, watched_now

if TYPE_CHECKING:
    from smriti_scale.mongo.drivers import Database


class QueryGuardMiddleware:
    """Watches every HTTP request of an ASGI app.

    Args:
        guard: the listener that the client was given.
        db: where explains go; None (production) only counts repeated shapes, asking the server nothing.
        action: as of `QueryGuard.watch`; `report` emits `RepeatedQuery` and changes nothing for the request.
    """

    def __init__(
        self, app: ASGIApp, *, guard: QueryGuard, db: Database | None = None, action: Action = "report"
    ) -> None:
        self.app = app
        self._guard = guard
        self._db = db
        self._action = action

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        watched = Watched()
        token = watched_now.set((self._guard, watched))
        try:
            await self.app(scope, receive, send)
        finally:
            watched_now.reset(token)
        problems = await self._guard.examine(self._db, watched)
        if self._guard.events:
            for seen in self._guard.repeated(watched):
                shape = seen.shape
                self._guard.events.emit(RepeatedQuery(seen.database, shape.collection, shape.text, seen.count))
        act_on(problems, self._action)
