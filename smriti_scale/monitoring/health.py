"""Health routes: is the process alive, has it started, and may a load balancer send it requests.

`/livez` says that the event loop turns; it asks no dependency, so a database in trouble does not get every instance
restarted. `/startupz` says that the app's startup is over. `/readyz` asks each dependency under a deadline: a failed
*required* one makes the instance unready (503), a failed optional one, or one that works in part, leaves it ready and
`degraded`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from smriti_scale.clock import SYSTEM_CLOCK, Clock
from smriti_scale.monitoring.checks import Check, Checks

_HEADERS = {"Cache-Control": "no-store"}


def health_routes(
    checks: Sequence[Check] = (),
    *,
    draining: Callable[[], bool] = lambda: False,
    started: Callable[[], bool] = lambda: True,
    prefix: str = "",
    keep: float = 1.0,
    clock: Clock = SYSTEM_CLOCK,
) -> list[Route]:
    """Routes for a Starlette or FastAPI app: `app.router.routes.extend(health_routes(...))`.

    Args:
        checks: what the app depends on.
        draining: true once shutdown has begun (a `Draining`): readiness turns false first, so that no new request is
            sent here.
        started: true once the app has started.
        prefix: put before the paths.
        keep: seconds for which a check's result is handed out again; probes that come together share one check anyway.
        clock: the source of time.

    Returns:
        GET and HEAD routes `/livez`, `/startupz` and `/readyz`. `/readyz` answers `{"status": "ready" | "degraded" |
        "unready" | "draining" | "starting", "checks": {name: {"ok": bool, "state": str, "required": bool, "ms":
        float}}}`; 503 when unready, draining or starting. Why a check failed is logged, never answered.
    """
    shared = Checks(checks, keep=keep, clock=clock)

    def answer(status: str, code: int, **more: Any) -> Response:
        return JSONResponse({"status": status, **more}, code, headers=_HEADERS)

    async def livez(request: Request) -> Response:
        return answer("alive", 200)

    async def startupz(request: Request) -> Response:
        return answer("started", 200) if started() else answer("starting", 503)

    async def readyz(request: Request) -> Response:
        if draining():
            return answer("draining", 503, checks={})
        if not started():
            return answer("starting", 503, checks={})
        outcomes = await shared.outcomes()
        status = shared.status(outcomes)
        found = {one.name: one.as_json() for one in outcomes}
        return answer(status, 503 if status == "unready" else 200, checks=found)

    return [
        Route(f"{prefix}/livez", livez),
        Route(f"{prefix}/startupz", startupz),
        Route(f"{prefix}/readyz", readyz),
    ]
