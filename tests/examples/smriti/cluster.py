"""Two instances of the service behind a balancer, for tests of any event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from httpx import AsyncClient, Limits

from examples.smriti.settings import SmritiSettings
from tests.examples.smriti.balancer import Balancer, balanced
from tests.examples.smriti.serving import served


@dataclass(frozen=True, slots=True)
class Cluster:
    """The addresses of two instances, and the balancer before them."""

    settings: SmritiSettings
    instances: tuple[str, str]
    balancer: Balancer

    def client(self, url: str | None = None, *, token: str | None = None) -> AsyncClient:
        """A client of the balancer, or of the instance at `url`."""
        headers = {"Authorization": token} if token else {}
        limits = Limits(max_connections=60)
        return AsyncClient(base_url=url or self.balancer.url, headers=headers, timeout=60, limits=limits)


@contextlib.contextmanager
def running_cluster(settings: SmritiSettings) -> Iterator[Cluster]:
    """The cluster, kept by an event loop in a thread of its own: tests have a loop each."""
    found: list[Cluster] = []
    failed: list[BaseException] = []
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def keep() -> None:
        async with contextlib.AsyncExitStack() as stack:
            first, second = await asyncio.gather(
                stack.enter_async_context(served(settings)), stack.enter_async_context(served(settings))
            )
            balancer = await stack.enter_async_context(balanced((first, second)))
            found.append(Cluster(settings, (first, second), balancer))
            ready.set()
            await stop.wait()

    def run() -> None:
        try:
            loop.run_until_complete(keep())
        except BaseException as error:  # noqa: BLE001 - told to whoever waits
            failed.append(error)
        finally:
            ready.set()
            loop.close()

    thread = threading.Thread(target=run, name="smriti cluster")
    thread.start()
    ready.wait()
    try:
        if failed:
            raise failed[0]
        yield found[0]
    finally:
        if not loop.is_closed():
            loop.call_soon_threadsafe(stop.set)
        thread.join()
