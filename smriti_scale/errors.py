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
└── LocalServerError (RuntimeError)      a local mongod or redis-server cannot run
    ├── BinaryNotFound (FileNotFoundError)
    ├── MissingSharedLibrary
    ├── PortTaken
    └── DataVersionMismatch
```

Each also derives from the built-in that fits, so `except ValueError` and the like work as usual.
"""

from __future__ import annotations


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


class CacheKeyError(ScaleError, TypeError):
    """An argument cannot be part of a cache key or tag; the message says how to name or exclude it."""


class UncacheableValue(ScaleError, TypeError):
    """A value cannot be stored so that it comes back as it was; the message says what to annotate or change."""
