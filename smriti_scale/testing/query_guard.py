"""The fixture `query_guard`: fails a test whose queries scan, sort in memory or repeat.

Loaded with the plugin in every pytest run, so it imports the driver only when some test asks for the fixture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from smriti_scale.mongo import QueryGuard


def pytest_collection_finish(session: pytest.Session) -> None:
    """Hear the commands of every client made from now on, if a collected test wants to know them."""
    if any("query_guard" in getattr(item, "fixturenames", ()) for item in session.items):
        from pymongo import monitoring

        from smriti_scale.mongo.guard import WatchedCommands

        monitoring.register(WatchedCommands())


@pytest.fixture
def query_guard() -> QueryGuard:
    """Watches a block of queries: `async with query_guard.watch(db): …` raises `QueryProblems` at its end.

    It hears every client that is made during the session, the application's own included. Its limits are attributes:
    `query_guard.max_repeats = 10`.
    """
    from smriti_scale.mongo import QueryGuard

    return QueryGuard()
