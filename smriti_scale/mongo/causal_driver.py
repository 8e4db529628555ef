"""The drivers' own clients, with two things changed: the session they lend to a command, and the error at the end.

A driver gives each command that has no session one for itself, and ends it. Here that session is a causal one that
begins at the position of the caller (`causal_scope`), so every read waits for that position at the server. Why not one
session for the whole request, by `session.bind()`: two writes that run at once in one session (`asyncio.gather`) take
the same transaction number, and the server answers the second as a retry of the first, without doing it
(`tests/mongo/test_causal_driver.py` shows it). And a session that has ended fails whatever outlives the request.

Two methods of the driver are overridden that it does not document. `check_driver` refuses a driver without them.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Protocol

from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient, MongoClient
from pymongo.errors import ConnectionFailure

from smriti_scale.errors import ConfigurationError, DatabaseUnavailable
from smriti_scale.mongo.causal_scope import CausalScope, advance

Document = dict[str, Any]


class Owner(Protocol):
    """What a driver's client asks of whoever made it."""

    def scope(self) -> CausalScope:
        """The scope that the current context is in."""
        ...

    def unavailable(self, error: ConnectionFailure) -> DatabaseUnavailable:
        """The error to raise in place of the driver's."""
        ...


def check_driver() -> None:
    """Make sure that the installed driver has what is overridden here.

    Raises:
        ConfigurationError: it has not; a newer release of this library is needed, or an older driver.
    """
    for base in (AsyncMongoClient, MongoClient):
        for name, parameter in (("_ensure_session", "session"), ("_retry_internal", "func")):
            method = getattr(base, name, None)
            if method is None or parameter not in inspect.signature(method).parameters:
                raise ConfigurationError(
                    f"this pymongo's {base.__name__} has no {name}({parameter}): it is newer than this release of "
                    "smriti_scale knows. Upgrade smriti_scale, or install pymongo 4.17 to 4.20"
                )


class CausalAsyncMongoClient(AsyncMongoClient[Document]):
    """PyMongo's async client; each command's own session begins at its caller's position."""

    owner: Owner

    def _ensure_session(self, session: Any = None) -> Any:
        if session is None and self._get_bound_session() is None:
            scope = self.owner.scope()
            if scope.at:
                lent = self._start_session(True, causal_consistency=True)
                advance(lent, scope)
                return lent
        return super()._ensure_session(session)

    async def _retry_internal(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super()._retry_internal(*args, **kwargs)
        except ConnectionFailure as error:
            raise self.owner.unavailable(error) from error


class CausalMongoClient(MongoClient[Document]):
    """The synchronous client that Motor runs in its threads; see `CausalAsyncMongoClient`."""

    owner: Owner

    def _ensure_session(self, session: Any = None) -> Any:
        if session is None and self._get_bound_session() is None:
            scope = self.owner.scope()
            if scope.at:
                lent = self._start_session(True, causal_consistency=True)
                advance(lent, scope)
                return lent
        return super()._ensure_session(session)

    def _retry_internal(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super()._retry_internal(*args, **kwargs)
        except ConnectionFailure as error:
            raise self.owner.unavailable(error) from error


if TYPE_CHECKING:
    _MotorClient = AsyncIOMotorClient[Document]
else:
    _MotorClient = AsyncIOMotorClient


class CausalMotorClient(_MotorClient):
    """Motor's client over `CausalMongoClient`."""

    __delegate_class__ = CausalMongoClient
