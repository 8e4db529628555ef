"""The paths that published clients really call.

Parts of the app append `/api/…` to a base address that already ends in `/api`, others append `/auth/…` or `/circles…`
to one that does not: no single base works for all of it. Both spellings mean the same here.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

_BARE = ("/auth/", "/circles", "/posts", "/users/", "/quotes/", "/notifications/")


class ClientPathsMiddleware:
    """Maps `/api/api/x` and `/auth/x` to `/api/x` and `/api/auth/x`, before anything else looks at the path."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path: str = scope["path"]
            if path.startswith("/api/api/"):
                scope = {**scope, "path": path[4:], "raw_path": path[4:].encode()}
            elif path.startswith(_BARE):
                scope = {**scope, "path": f"/api{path}", "raw_path": f"/api{path}".encode()}
        await self.app(scope, receive, send)
