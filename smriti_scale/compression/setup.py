"""`setup_compression`, which installs the middleware, and the ways for an endpoint or an answer to opt out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Protocol, TypedDict, TypeVar, Unpack

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from smriti_scale.compression.middleware import OPT_OUT, CompressionMiddleware
from smriti_scale.errors import ConfigurationError
from smriti_scale.events import Events

_EndpointT = TypeVar("_EndpointT", bound=Callable[..., Any])


class CompressionOptions(TypedDict, total=False):
    """What `setup_compression` hands to `CompressionMiddleware`, which explains each."""

    encodings: Sequence[str] | None
    zstd_level: int
    br_quality: int
    gzip_level: int
    exclude_paths: Iterable[str]
    exclude_media_types: Iterable[str]
    event_stream_encodings: Iterable[str]
    etag: Literal["suffix", "weak"]
    padding: int
    offload_size: int | None
    events: Events | None


class TakesMiddleware(Protocol):
    """A Starlette or FastAPI application."""

    def add_middleware(self, middleware_class: Any, /, *args: Any, **kwargs: Any) -> None:
        """Wrap the application."""


def setup_compression(app: TakesMiddleware, minimum_size: int = 1000, **options: Unpack[CompressionOptions]) -> None:
    """Code the answers of a Starlette or FastAPI application: `setup_compression(app, minimum_size=1000)`.

    Args:
        app: the application. Another ASGI application is wrapped: `app = CompressionMiddleware(app)`.
        minimum_size: bytes from which a body is coded.
        options: those of `CompressionMiddleware`, checked now, not at the first request.

    Raises:
        ConfigurationError: an option cannot work, or `app` takes no middleware.
        MissingExtraError: a coding is named in `encodings` whose package is not installed.
    """
    if not hasattr(app, "add_middleware"):
        raise ConfigurationError(
            f"{type(app).__name__} has no add_middleware; wrap it: app = CompressionMiddleware(app)"
        )
    CompressionMiddleware(_nothing, minimum_size, **options)
    app.add_middleware(CompressionMiddleware, minimum_size=minimum_size, **options)


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """An application for checking options against."""


def no_compression(endpoint: _EndpointT) -> _EndpointT:
    """Decorate an endpoint whose answers are never coded, say since they show a secret beside a visitor's own text.

    ```python
    @app.get("/account")
    @no_compression
    async def account(...): ...
    ```
    """
    setattr(endpoint, OPT_OUT, True)
    return endpoint


def send_uncompressed(response: Response) -> None:
    """Keep this one answer from being coded. Sets `Content-Encoding: identity`, which the middleware takes off."""
    response.headers["Content-Encoding"] = "identity"
