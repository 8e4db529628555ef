"""Health routes: is the process alive, and may a load balancer send it requests.

`/livez` says that the event loop turns; it asks no dependency, so a database in trouble does not get every instance
restarted. `/readyz` asks each dependency under a deadline: a failed *required* one makes the instance unready (503),
a failed optional one leaves it ready and `degraded`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

_log = logging.getLogger("smriti_scale.monitoring")


@dataclass(frozen=True, slots=True)
class Check:
    """One dependency.

    Args:
        name: as it appears in the answer.
        probe: awaited; raising means failed.
        required: whether the instance is of no use without it.
        timeout: seconds the probe may take.
    """

    name: str
    probe: Callable[[], Awaitable[object]]
    required: bool = True
    timeout: float = 1.0


def health_routes(
    checks: Sequence[Check] = (), *, draining: Callable[[], bool] = lambda: False, prefix: str = ""
) -> list[Route]:
    """Routes `/livez` and `/readyz` for a Starlette or FastAPI app: `app.router.routes.extend(health_routes(...))`.

    Args:
        checks: what the app depends on.
        draining: true once shutdown has begun: readiness turns false first, so that no new request is sent here.
        prefix: put before both paths.

    Returns:
        GET and HEAD routes. `/readyz` answers `{"status": "ready" | "degraded" | "unready" | "draining",
        "checks": {name: {"ok": bool, "required": bool, "ms": float}}}`; 503 when unready or draining. Why a check
        failed is logged, never answered.
    """

    async def livez(request: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def readyz(request: Request) -> Response:
        if draining():
            return JSONResponse({"status": "draining", "checks": {}}, 503)
        results = await asyncio.gather(*(_outcome(check) for check in checks))
        failed = [check for check, result in zip(checks, results, strict=True) if not result["ok"]]
        status = "unready" if any(check.required for check in failed) else "degraded" if failed else "ready"
        named = {check.name: result for check, result in zip(checks, results, strict=True)}
        return JSONResponse({"status": status, "checks": named}, 503 if status == "unready" else 200)

    return [Route(f"{prefix}/livez", livez), Route(f"{prefix}/readyz", readyz)]


async def _outcome(check: Check) -> dict[str, Any]:
    started = time.perf_counter()
    try:
        async with asyncio.timeout(check.timeout):
            await check.probe()
        ok = True
    except Exception as error:  # noqa: BLE001 - whatever a dependency raises, it is not ready
        ok = False
        # Its kind only: the text of a driver's error may hold a URI with its password.
        _log.warning("%s is not ready: %s", check.name, type(error).__name__, extra={"check": check.name})
    return {"ok": ok, "required": check.required, "ms": round((time.perf_counter() - started) * 1000, 1)}
