"""Every error this library raises, in one tree.

```
ScaleError
├── ConfigurationError (ValueError)      an argument or setting that cannot work
├── MissingExtraError (ImportError)      an optional package is not installed
├── DeadlineExceeded (TimeoutError)      a server did not answer in the time allowed
├── CircuitOpen (ConnectionError)        a server is known to be down; it was not asked
├── CacheKeyError (TypeError)            an argument that has no stable text for a cache key
├── UncacheableValue (TypeError)         a value that would not come back from the cache as it went in
├── InvalidCursor (ValueError)           a page cursor that is altered, foreign or expired
├── PreconditionFailed, PreconditionRequired (starlette's HTTPException; in `cache.http`) 412 and 428
├── UnknownAsset (KeyError; in `compression`) no static file has this name
├── IndexingError (RuntimeError)         planning or applying indexes and shard keys
│   ├── IndexDrift                       the database differs from the declarations
│   ├── IndexPlanRefused                 a step may not run
│   ├── StalePlan                        the database changed since the plan was made
│   ├── BuilderBusy (TimeoutError)       another instance kept building
│   ├── DuplicateKeys (ValueError)       documents stand against a unique index
│   ├── IndexBuildFailed                 the server refused
│   └── NotMongos                        shard commands were sent to something else than a mongos
├── QueryProblems (AssertionError)       the query guard found scans, sorts or N+1
├── TaskError (RuntimeError)             a background task could not be published or run
│   ├── PublishFailed (ConnectionError)  the broker did not take the task
│   ├── NotSerializable (TypeError)      a task's arguments are not JSON
│   ├── AlreadyRunning                   another worker holds the idempotency key
│   ├── LeaseLost                        another worker took the idempotency key over
│   └── PermanentFailure                 raise it in a task to skip its retries
├── StorageError (OSError)               a file could not be stored or read
│   ├── ObjectNotFound (FileNotFoundError)
│   ├── ObjectExists (FileExistsError)
│   ├── InvalidObjectName (ValueError)
│   ├── ObjectTooLarge (ValueError)
│   ├── UnacceptableContent (ValueError) the bytes are not of an allowed type
│   ├── ChecksumMismatch
│   └── StorageUnavailable (ConnectionError)
├── InvalidCausalToken (ValueError)      a consistency token that is altered, foreign or expired
├── DatabaseUnavailable (ConnectionError) MongoDB cannot serve this now: no primary, no connection, no majority
├── AlertNotDelivered (ConnectionError)  a channel did not take an alert
└── LocalServerError (RuntimeError)      a local mongod or redis-server cannot run
    ├── BinaryNotFound (FileNotFoundError)
    ├── MissingSharedLibrary
    ├── PortTaken
    └── DataVersionMismatch
```

Each also derives from the built-in that fits, so `except ValueError` and the like work as usual.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class ScaleError(Exception):
    """The root: `except ScaleError` catches whatever this library raises."""


class ConfigurationError(ScaleError, ValueError):
    """An argument or setting cannot work; the message names the value and what to do."""


class MissingExtraError(ScaleError, ImportError):
    """An optional package is needed and absent; the message is the command that installs it.

    Args:
        extra: the pip extra, for instance `"compression"`.
        package: the module that could not be imported.
        feature: what the user was about to do, for the sentence.
    """

    def __init__(self, extra: str, *, package: str, feature: str) -> None:
        super().__init__(
            f"{feature} needs the package {package!r}, which is not installed: pip install 'smriti_scale[{extra}]'"
        )
        self.extra = extra
        self.package = package


class DeadlineExceeded(ScaleError, TimeoutError):
    """A server did not answer within the deadline.

    Args:
        what: the operation, for instance `"redis GET"`.
        timeout: the deadline that passed, in seconds.
    """

    def __init__(self, what: str, *, timeout: float) -> None:
        super().__init__(f"{what} did not finish within {timeout:g} s")
        self.timeout = timeout


class CircuitOpen(ScaleError, ConnectionError):
    """A circuit breaker refuses the call, since the server failed moments ago.

    Args:
        name: the breaker's name, for instance `"redis"`.
        retry_after: seconds until the breaker lets a trial call through.
    """

    def __init__(self, name: str, *, retry_after: float) -> None:
        super().__init__(f"{name} failed moments ago; next try in {retry_after:.1f} s")
        self.retry_after = retry_after


class InvalidCursor(ScaleError, ValueError):
    """A page cursor cannot be used. The text is safe to show; `reason` is for logs and metrics.

    Args:
        reason: a short code such as `"signature"`, `"expired"` or `"scope"`.
    """

    def __init__(self, reason: str) -> None:
        super().__init__("invalid cursor")
        self.reason = reason


class LocalServerError(ScaleError, RuntimeError):
    """A local server could not be started or died."""


class BinaryNotFound(LocalServerError, FileNotFoundError):
    """No server binary was found; the message says how to get one."""


class MissingSharedLibrary(LocalServerError):
    """The server binary lacks a shared library; the message names the package that has it."""


class PortTaken(LocalServerError):
    """The port asked for is in use."""


class DataVersionMismatch(LocalServerError):
    """The data folder was written by another version of the server."""


class IndexingError(ScaleError, RuntimeError):
    """Planning or applying indexes or shard keys did not work out."""


class IndexDrift(IndexingError):
    """The database differs from the declared indexes; the text is the plan that would mend it."""


class IndexPlanRefused(IndexingError):
    """A step of a plan may not run, so none did; the text says for each what to do."""


class StalePlan(IndexingError):
    """The database changed since the plan was made, so that the plan no longer says what would happen."""


class BuilderBusy(IndexingError, TimeoutError):
    """Another instance held the builder's lease for longer than one would wait, or took it over."""


class DuplicateKeys(IndexingError, ValueError):
    """Documents stand against a unique index. The text shows a few values: it is for operators, not for logs.

    Args:
        namespace: `"database.collection"`.
        index: the index's name.
        groups: `{"key": {field: value}, "count": n, "ids": [...]}` for some of the values, the most frequent first.
        total: how many values there are more than once.
        prepared: whether new duplicates are now refused.
    """

    def __init__(
        self, namespace: str, index: str, *, groups: Sequence[Mapping[str, Any]], total: int, prepared: bool = False
    ) -> None:
        lines = [f"{namespace}: {total} value(s) stand against the unique index {index!r}:"]
        for group in groups[:5]:
            ids = ", ".join(repr(one) for one in group["ids"][:5])
            lines.append(f"  {dict(group['key'])!r} in {group['count']} documents, _id {ids}")
        if total > 5:
            lines.append(f"  … and {total - 5} more")
        lines.append(
            "New duplicates are refused from now on. Mend these documents and apply again."
            if prepared
            else "Mend these documents and apply again; `prepare_unique` keeps new ones out meanwhile."
        )
        super().__init__("\n".join(lines))
        self.namespace = namespace
        self.index = index
        self.groups = tuple(groups)
        self.total = total
        self.prepared = prepared


class IndexBuildFailed(IndexingError):
    """The server refused a step.

    Args:
        text: a sentence that says what to do.
        code: MongoDB's error code.
    """

    def __init__(self, text: str, *, code: int | None) -> None:
        super().__init__(text)
        self.code = code


class NotMongos(IndexingError):
    """Shard commands need a `mongos`; the server at the other end is none."""


class QueryProblems(ScaleError, AssertionError):
    """The query guard found queries that scan, sort in memory or repeat; the text lists them with what would help."""


class TaskError(ScaleError, RuntimeError):
    """A background task could not be published or run."""


class PublishFailed(TaskError, ConnectionError):
    """The broker did not take the task in time; whether it arrived is unknown unless the message says so."""


class NotSerializable(TaskError, TypeError):
    """A task's arguments cannot be written as JSON: pass ids and plain values, not objects."""


class AlreadyRunning(TaskError):
    """Another worker holds the idempotency key now.

    Args:
        key: the idempotency key.
        retry_after: seconds until the other's lease ends, unless it is renewed.
    """

    def __init__(self, key: str, *, retry_after: float) -> None:
        super().__init__(f"{key!r} is being worked on; its lease ends in {retry_after:.1f} s")
        self.key = key
        self.retry_after = retry_after


class LeaseLost(TaskError):
    """The lease ended while the work went on (a stall, an outage), and another worker may have begun.

    Args:
        key: the idempotency key.
    """

    def __init__(self, key: str) -> None:
        super().__init__(f"the lease on {key!r} was lost; this run must not take effect")
        self.key = key


class PermanentFailure(TaskError):
    """Raised by a task body: trying again cannot help, so the task goes to the dead letters at once."""


class StorageError(ScaleError, OSError):
    """A file could not be stored, read or described."""


class ObjectNotFound(StorageError, FileNotFoundError):
    """No object has this key."""


class ObjectExists(StorageError, FileExistsError):
    """An object has this key already; stores never overwrite."""


class InvalidObjectName(StorageError, ValueError):
    """A key that could leave the store's folder, or that some store cannot hold."""


class ObjectTooLarge(StorageError, ValueError):
    """More bytes than allowed; reading stopped there and nothing was kept.

    Args:
        limit: the bound in bytes.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(f"the file is larger than {limit:,} bytes")
        self.limit = limit


class UnacceptableContent(StorageError, ValueError):
    """The bytes are not of an allowed type, whatever the name or header said.

    Args:
        found: what the bytes are.
        allowed: the content types that would have been taken.
    """

    def __init__(self, found: str, *, allowed: tuple[str, ...]) -> None:
        super().__init__(f"the file's content is {found}; allowed: {', '.join(allowed)}")
        self.found = found
        self.allowed = allowed


class ChecksumMismatch(StorageError):
    """What arrived is not what was sent."""


class StorageUnavailable(StorageError, ConnectionError):
    """The store did not answer as it should, after retries."""


class AlertNotDelivered(ScaleError, ConnectionError):
    """A channel did not take an alert. The text goes to the log: it must hold no address and no secret.

    Args:
        text: why.
        permanent: whether trying again cannot help.
        retry_after: seconds that the receiver asks to be left alone.
    """

    def __init__(self, text: str, *, permanent: bool = False, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.permanent = permanent
        self.retry_after = retry_after


class CacheKeyError(ScaleError, TypeError):
    """An argument cannot be part of a cache key or tag; the message says how to name or exclude it."""


class UncacheableValue(ScaleError, TypeError):
    """A value cannot be stored so that it comes back as it was; the message says what to annotate or change."""


class InvalidCausalToken(ScaleError, ValueError):
    """A consistency token cannot be used. The text is safe to show; `reason` is for logs and metrics.

    Args:
        reason: `"malformed"`, `"signature"`, `"expired"`, `"foreign"`, `"future"` or `"refused"` (by the server).
    """

    def __init__(self, reason: str) -> None:
        super().__init__("invalid consistency token")
        self.reason = reason


class DatabaseUnavailable(ScaleError, ConnectionError):
    """MongoDB cannot serve this now; the message says why, and trying again may help. To HTTP clients: 503.

    Args:
        text: what is wrong and what to do.
        retry_after: seconds after which trying again makes sense.
    """

    def __init__(self, text: str, *, retry_after: float = 5.0) -> None:
        super().__init__(text)
        self.retry_after = retry_after
