"""Work behind the requests, on Celery: documents, pushes, the daily quotes.

`smriti-scale tasks worker -A examples.smriti.worker:celery --beat` works it off.
"""

from __future__ import annotations

import logging
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Protocol

from examples.smriti.settings import SmritiSettings
from smriti_scale.errors import DeadlineExceeded, TaskError
from smriti_scale.events import Events
from smriti_scale.tasks import TaskPolicy, make_celery, publish

if TYPE_CHECKING:
    from examples.smriti.documents.documents import Documents
    from examples.smriti.notifications.news import News
    from examples.smriti.quotes.quotes import Quotes

_log = logging.getLogger("smriti.background")

_NO_BROKER = "redis://127.0.0.1:6379/0"  # named, never opened: without Redis tasks run where they are published

SCHEDULE = {
    "daily quotes: prepare": {"task": "smriti.prepare_quotes", "schedule": 3600.0},
    "daily quotes: push": {"task": "smriti.push_quotes", "schedule": 300.0},
    "documents that nobody was told of": {"task": "smriti.find_overdue_documents", "schedule": 60.0},
}


class Work(Protocol):
    """What the tasks do it with: the services of the process that runs them."""

    documents: Documents
    news: News
    quotes: Quotes

    def opened(self) -> AbstractAsyncContextManager[Any]: ...


class Background:
    """The tasks, and how requests hand them over.

    Args:
        settings: where the broker is.
        work: the services, opened once in each worker process.
        events: where it is told what was published and what was done.
    """

    def __init__(self, settings: SmritiSettings, work: Work, *, events: Events) -> None:
        self.celery = celery = make_celery(
            "smriti",
            settings.redis_url or _NO_BROKER,
            policy=TaskPolicy(time_limit=120),
            queues=("default", "documents"),
            routes={"smriti.process_document": "documents"},
            key_prefix=f"{settings.namespace}:",
            schedule=SCHEDULE,
            lifespan=work.opened,
            eager=settings.redis_url is None,
            events=events,
        )

        @celery.task(name="smriti.process_document")
        async def process_document(post_id: str) -> None:
            await work.documents.process(post_id)

        @celery.task(name="smriti.find_overdue_documents")
        async def find_overdue_documents() -> None:
            for post_id in await work.documents.overdue():
                await publish(process_document, post_id)

        @celery.task(name="smriti.push_news")
        async def push_news(post_id: str) -> None:
            await work.news.post_created(post_id)

        @celery.task(name="smriti.prepare_quotes")
        async def prepare_quotes() -> None:
            await work.quotes.initialize()

        @celery.task(name="smriti.push_quotes")
        async def push_quotes() -> None:
            await work.quotes.push_due()

        self._process_document = process_document
        self._push_news = push_news

    async def post_created(self, post_id: str, *, has_document: bool) -> None:
        """Have a new post pushed, and its document read. Trouble with the broker is logged: the post is stored."""
        tasks = [self._push_news, self._process_document] if has_document else [self._push_news]
        for task in tasks:
            try:
                await publish(task, post_id)
            except (TaskError, DeadlineExceeded) as error:
                _log.warning("a task was not published: %s", error, extra={"post": post_id})

    async def aclose(self) -> None:
        await self.celery.aclose()
