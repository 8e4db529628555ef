"""`/metrics`: Prometheus's text or OpenMetrics, by `Accept`; made in a thread, behind a token if one is set."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from smriti_scale.errors import ConfigurationError
from smriti_scale.monitoring.metrics import Metrics

if TYPE_CHECKING:
    from prometheus_client import Metric

Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]


def metrics_endpoint(metrics: Metrics, *, token: str | None = None) -> Endpoint:
    """An endpoint for a route: `Route("/metrics", metrics_endpoint(metrics, token=…))`.

    Args:
        metrics: what to show.
        token: what a scraper must send as `Authorization: Bearer …`; None lets everybody read.

    Returns:
        An async function of the request. It answers 401 without the token.

    Raises:
        ConfigurationError: the token is empty, or cannot be sent in a header.
    """
    if token is not None and (not token.strip() or not token.isascii() or token != token.strip()):
        raise ConfigurationError("metrics_token must be ASCII text without spaces around it; None is no token")
    expected = None if token is None else token.encode()
    exposition = Exposition(metrics)

    async def scrape(request: Request) -> Response:
        if expected is not None and not _bears(request, expected):
            return Response(
                "a bearer token is needed\n",
                401,
                {"WWW-Authenticate": 'Bearer realm="metrics"', "Cache-Control": "no-store"},
                "text/plain",
            )
        body, media_type = await exposition.render(request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": media_type, "Cache-Control": "no-store", "Vary": "Accept"})

    return scrape


class Exposition:
    """Makes the page. Many who ask at once wait for one making of it.

    Args:
        metrics: what to show.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._making: dict[tuple[asyncio.AbstractEventLoop, str], asyncio.Task[bytes]] = {}

    async def render(self, accept: str = "") -> tuple[bytes, str]:
        """The page and its media type.

        Args:
            accept: the request's `Accept`.
        """
        from prometheus_client.exposition import choose_encoder

        encode, media_type = choose_encoder(accept)
        key = (asyncio.get_running_loop(), media_type)
        making = self._making.get(key)
        if making is None:
            making = self._making[key] = asyncio.create_task(asyncio.to_thread(self._encoded, encode))
            making.add_done_callback(lambda _: self._making.pop(key, None))
        return await asyncio.shield(making), media_type

    def _encoded(self, encode: Callable[[Any], bytes]) -> bytes:
        return encode(_WithoutBirthdays(self._metrics))


class _WithoutBirthdays:
    """The metrics without the `_created` series, which double what is scraped and tell nothing here."""

    def __init__(self, metrics: Metrics) -> None:
        self._registry = metrics.gathered()

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            if metric.type in ("counter", "histogram"):
                metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


def _bears(request: Request, expected: bytes) -> bool:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    # Headers are latin-1; comparing bytes takes the same time wherever they differ.
    matches = hmac.compare_digest(given.strip().encode("latin-1", "replace"), expected)
    return scheme.lower() == "bearer" and matches
