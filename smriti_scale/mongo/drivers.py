"""What Motor and PyMongo Async do differently, in one place."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from motor.motor_asyncio import AsyncIOMotorCollection, AsyncIOMotorDatabase
    from pymongo.asynchronous.collection import AsyncCollection
    from pymongo.asynchronous.database import AsyncDatabase

    Document: TypeAlias = dict[str, Any]
    Database: TypeAlias = AsyncIOMotorDatabase[Document] | AsyncDatabase[Document]
    Collection: TypeAlias = AsyncIOMotorCollection[Document] | AsyncCollection[Document]


async def rows(cursor: Any) -> list[dict[str, Any]]:
    """All documents of a cursor: PyMongo Async hands some out by coroutine, Motor never does."""
    if inspect.isawaitable(cursor):
        cursor = await cursor
    return [document async for document in cursor]
