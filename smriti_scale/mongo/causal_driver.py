"""The drivers' own clients, with some things changed: the session lent to a command, patience, the error at the end.

A driver gives each command that has no session one for itself, and ends it. Here that session is a causal one that
begins at the position of the caller (`causal_scope`), so every read waits for that position at the server. Why not one
session for the whole request, by `session.bind()`: two writes that run at once in one session (`asyncio.gather`) take
the same transaction number, and the server answers the second as a retry of the first, without doing it
(`tests/mongo/test_causal_driver.py` shows it). And a session that has ended fails whatever outlives the request.

A driver retries once, which an election outlasts: the retry meets a node that is not primary any more, or not yet.
Here retries go on until `write_timeout`, under the same transaction number, so a write is still done once. That holds
too where a step-down in the midst of a write comes back as the write's own error, which drivers do not retry; only of
a bulk write (`insert_many`, `bulk_write`) such an error is left among the others in its `BulkWriteError`.

A session is the one thing that sees every command on its way out and every answer on its way in, whatever made it. So
sessions also tell how far each node has come and that a write was done, and where it is asked for they write the
request's id into the `comment` of commands, for the server's log and profiler.

What is overridden the drivers do not document. `check_driver` refuses a driver that lacks it.
"""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient, MongoClient, _csot
from pymongo.asynchronous import mongo_client as asynchronous
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import ConnectionFailure, NotPrimaryError, WaitQueueTimeoutError, WriteError
from pymongo.synchronous import mongo_client as synchronous
from pymongo.synchronous.client_session import ClientSession

from smriti_scale.context import request_id
from smriti_scale.errors import ConfigurationError, DatabaseUnavailable
from smriti_scale.mongo.causal_scope import CausalScope, advance
from smriti_scale.mongo.replicas import Address

Document = dict[str, Any]

_NOT_WRITABLE_PRIMARY = 10107
STEPPED_DOWN = frozenset({91, 189, 10107, 11600, 11602, 13435})
"""Codes of a write that was not done for want of a primary: it shuts down, steps down, or is none (any more)."""
_POSITIONAL = ("func", "session", "bulk", "operation")
_COMMENTED = frozenset(
    {"find", "aggregate", "count", "distinct", "insert", "update", "delete", "findAndModify", "bulkWrite", "getMore"}
)
_WRITES = frozenset(
    {
        "insert",
        "update",
        "delete",
        "findAndModify",
        "bulkWrite",
        "commitTransaction",
        "create",
        "createIndexes",
        "collMod",
        "drop",
        "dropIndexes",
        "dropDatabase",
        "renameCollection",
    }
)
_COMMENTS_SINCE = 9
"""The wire version of MongoDB 4.4, where every command takes a comment."""


class Owner(Protocol):
    """What a driver's client asks of whoever made it."""

    patience: float
    """Seconds after its beginning until which a command is retried."""
    commenting: bool
    """Whether commands carry the request's id as their comment."""

    def scope(self) -> CausalScope:
        """The scope that the current context is in."""
        ...

    def heard(self, reply: Mapping[str, Any], address: Address | None, *, wrote: bool) -> None:
        """The node there has answered a command; None where that is not known.

        Args:
            reply: its answer, of whatever kind.
            address: the node.
            wrote: whether the command was a write.
        """
        ...

    def unavailable(self, error: ConnectionFailure) -> DatabaseUnavailable:
        """The error to raise in place of the driver's."""
        ...


def check_driver() -> None:
    """Make sure that the installed driver has what is overridden here.

    Raises:
        ConfigurationError: it has not; a newer release of this library is needed, or an older driver.
    """
    for module, base, session in (
        (asynchronous, AsyncMongoClient, AsyncClientSession),
        (synchronous, MongoClient, ClientSession),
    ):
        retryable = getattr(module, "_ClientConnectionRetryable", None)
        for owner, name, parameter in (
            (base, "_ensure_session", "session"),
            (base, "_start_session", "implicit"),
            (base, "_get_bound_session", "self"),
            (session, "_apply_to", "command"),
            (session, "_process_response", "reply"),
            (base, "_retry_internal", "func"),
            (retryable, "_is_not_eligible_for_retry", "self"),
            (retryable, "_write", "self"),
        ):
            method = getattr(owner, name, None)
            if method is None or parameter not in inspect.signature(method).parameters:
                raise ConfigurationError(
                    f"this pymongo's {base.__name__} has no {name}({parameter}): it is newer than this release of "
                    "smriti_scale knows. Upgrade smriti_scale, or install pymongo 4.17 to 4.20"
                )


if TYPE_CHECKING:
    _AsyncRetryable: Any = object
    _SyncRetryable: Any = object
    _MotorClient = AsyncIOMotorClient[Document]
else:
    _AsyncRetryable = asynchronous._ClientConnectionRetryable
    _SyncRetryable = synchronous._ClientConnectionRetryable
    _MotorClient = AsyncIOMotorClient


class _Patient:
    """Retries until a deadline in place of once."""

    __slots__ = ()

    def _is_not_eligible_for_retry(self) -> bool:
        mine: Any = self
        if mine._max_retries != 1:  # the server is overloaded, and has its own policy
            refused: bool = super()._is_not_eligible_for_retry()  # type: ignore[misc] # of the class mixed with
            return refused
        if isinstance(sys.exception(), WaitQueueTimeoutError):
            return True  # it has waited already
        return not mine._retryable or time.monotonic() >= mine._until

    def _refused(self, error: NotPrimaryError, *, retryable: bool) -> None:
        # When the node's description is reset between its choice and the sending (another task saw it step down),
        # the driver sends the first try without a transaction number and gives up the right to a second. But what
        # was refused for want of a primary was not begun.
        mine: Any = self
        if retryable and (mine._retryable or error.details.get("code") == _NOT_WRITABLE_PRIMARY):  # type: ignore[union-attr] # of the server's reply
            mine._retryable = True
            error._add_error_label("RetryableWriteError")

    def _stepped_down(self, error: WriteError, *, retryable: bool) -> None:
        # The server has undone this one write; that it had no transaction number (see above) does not matter then.
        if retryable and error.code in STEPPED_DOWN:
            mine: Any = self
            mine._retryable = True
            error._add_error_label("RetryableWriteError")


class _PatientAsync(_Patient, _AsyncRetryable):  # type: ignore[misc] # a private class of the driver
    __slots__ = ("_until",)

    async def _write(self) -> Any:
        retryable = self._retryable
        try:
            return await super()._write()
        except NotPrimaryError as error:
            self._refused(error, retryable=retryable)
            raise
        except WriteError as error:
            self._stepped_down(error, retryable=retryable)
            raise


class _PatientSync(_Patient, _SyncRetryable):  # type: ignore[misc] # a private class of the driver
    __slots__ = ("_until",)

    def _write(self) -> Any:
        retryable = self._retryable
        try:
            return super()._write()
        except NotPrimaryError as error:
            self._refused(error, retryable=retryable)
            raise
        except WriteError as error:
            self._stepped_down(error, retryable=retryable)
            raise


def _patient(kind: Any, client: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    retryable = kind(mongo_client=client, **dict(zip(_POSITIONAL, arguments, strict=False)), **options)
    retryable._until = time.monotonic() + client.owner.patience
    return retryable


def _name(command: Any, conn: Any) -> None:
    """Write the request's id into a command, where it has no comment of its own."""
    named = request_id.get()
    if named is None or "comment" in command or conn.max_wire_version < _COMMENTS_SINCE:
        return
    if next(iter(command)) in _COMMENTED:
        command["comment"] = named


def _writes(command: Any) -> bool:
    name = next(iter(command))
    if name == "aggregate":
        pipeline = command.get("pipeline")
        return bool(pipeline) and ("$merge" in pipeline[-1] or "$out" in pipeline[-1])
    return name in _WRITES


def _heard(base: Any) -> Any:
    """A command's own session, of the driver's class: it tells what the node that the command went to has answered.

    Listeners to the driver's events would be told as much, at twice the cost of all else that is done here.
    """

    class Heard(base):  # type: ignore[misc] # a class of the driver
        sent: tuple[Address | None, bool] = (None, False)
        """To which node the last command went, and whether it writes."""

        def _apply_to(self, command: Any, is_retryable: bool, read_preference: Any, conn: Any) -> None:
            super()._apply_to(command, is_retryable, read_preference, conn)
            self.sent = (conn.address, _writes(command))
            if self._client.owner.commenting:
                _name(command, conn)

        def _process_response(self, reply: Any) -> None:
            super()._process_response(reply)
            address, wrote = self.sent
            self._client.owner.heard(reply, address, wrote=wrote)

    return Heard


_HeardAsyncSession, _HeardSession = _heard(AsyncClientSession), _heard(ClientSession)


def _listen(session: Any) -> None:
    """The same for a session that its user has started, and may use for commands that run at once.

    So an answer tells nothing of a node, and once the session has written, all its answers count as a write's. The
    methods are put on the session: Motor looks for the driver's very class before it wraps one.
    """
    owner: Owner = session._client.owner
    apply_to, process_response = session._apply_to, session._process_response
    wrote = False

    def applied(command: Any, is_retryable: bool, read_preference: Any, conn: Any) -> None:
        nonlocal wrote
        apply_to(command, is_retryable, read_preference, conn)
        wrote = wrote or _writes(command)
        if owner.commenting:
            _name(command, conn)

    def processed(reply: Any) -> None:
        process_response(reply)
        owner.heard(reply, None, wrote=wrote)

    session._apply_to, session._process_response = applied, processed


class _OwnSessions:
    """Before one of the driver's clients: each command's own session begins at its caller's position, and is heard."""

    owner: Owner
    _heard_session: type[Any]

    def _ensure_session(self, session: Any = None) -> Any:
        client: Any = self
        if session is None and client._get_bound_session() is None:
            scope = self.owner.scope()
            if scope.at:
                lent = self._start_session(True, causal_consistency=True)
                advance(lent, scope)
                return lent
        return super()._ensure_session(session)  # type: ignore[misc]  # the driver's

    def _start_session(self, implicit: bool, **options: Any) -> Any:
        session: Any = super()._start_session(implicit, **options)  # type: ignore[misc]  # the driver's
        if implicit:
            session.__class__ = self._heard_session  # the driver has no way to be told of another class
        else:
            _listen(session)
        return session


class CausalAsyncMongoClient(_OwnSessions, AsyncMongoClient[Document]):
    """PyMongo's async client; each command's own session begins at its caller's position."""

    _heard_session = _HeardAsyncSession

    async def _retry_internal(self, *args: Any, **kwargs: Any) -> Any:
        try:
            # Under `pymongo.timeout` or timeoutMS the driver is patient itself.
            if self._timeout is not None or _csot.get_timeout() is not None:
                return await super()._retry_internal(*args, **kwargs)
            return await _patient(_PatientAsync, self, args, kwargs).run()
        except ConnectionFailure as error:
            raise self.owner.unavailable(error) from error


class CausalMongoClient(_OwnSessions, MongoClient[Document]):
    """The synchronous client that Motor runs in its threads; see `CausalAsyncMongoClient`."""

    _heard_session = _HeardSession

    def _retry_internal(self, *args: Any, **kwargs: Any) -> Any:
        try:
            if self._timeout is not None or _csot.get_timeout() is not None:
                return super()._retry_internal(*args, **kwargs)
            return _patient(_PatientSync, self, args, kwargs).run()
        except ConnectionFailure as error:
            raise self.owner.unavailable(error) from error


class CausalMotorClient(_MotorClient):
    """Motor's client over `CausalMongoClient`."""

    __delegate_class__ = CausalMongoClient
