"""What a client may say about the page it wants: limit, cursor and, for old clients, skip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import WithJsonSchema
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from smriti_scale.errors import ConfigurationError, InvalidCursor
from smriti_scale.pagination.cursor import MAX_LENGTH


class PageParams:
    """`limit`, `cursor` and `skip` of a request.

    A FastAPI dependency (`params: Annotated[PageParams, Depends()]`); for other bounds than 1–100, make one with
    `PageParams.bounded(...)`. In Starlette: `PageParams.from_request(request)`.

    Args:
        limit: items a page.
        cursor: from the page before; None for the first page. Empty text is not none: it is an invalid cursor.
        skip: rows to leave out, where `bounded(max_skip=...)` allows it; not together with a cursor.

    Raises:
        HTTPException: 400, the limit or skip is out of bounds or no whole number, or skip comes with a cursor.
    """

    default_limit: ClassVar[int] = 20
    max_limit: ClassVar[int] = 100
    max_skip: ClassVar[int] = 0

    __slots__ = ("cursor", "limit", "skip")

    # FastAPI answers what fails its own validation with 422; typed Any with a schema, values reach us unjudged.
    def __init__(
        self,
        limit: Annotated[Any, WithJsonSchema({"type": "integer", "minimum": 1, "maximum": 100})] = 20,
        cursor: Annotated[Any, WithJsonSchema({"type": "string", "maxLength": MAX_LENGTH})] = None,
    ) -> None:
        self._set(limit, cursor, None)

    def _set(self, limit: Any, cursor: Any, skip: Any) -> None:
        self.limit: int = _whole(limit, "limit", 1, self.max_limit, self.default_limit)
        self.cursor: str | None = None if cursor is None else str(cursor)
        self.skip: int = _whole(skip, "skip", 0, self.max_skip, 0)
        if self.skip and self.cursor is not None:
            raise HTTPException(400, "skip cannot be used together with cursor")

    @classmethod
    def bounded(cls, *, default_limit: int = 20, max_limit: int = 100, max_skip: int = 0) -> type[PageParams]:
        """A dependency with other bounds; `max_skip` above 0 also takes `skip`, for clients that still send it."""
        if not 1 <= default_limit <= max_limit or max_skip < 0:
            raise ConfigurationError(
                f"default_limit={default_limit}, max_limit={max_limit}, max_skip={max_skip}: "
                "1 <= default_limit <= max_limit and max_skip >= 0 are needed"
            )
        limit_schema = WithJsonSchema({"type": "integer", "minimum": 1, "maximum": max_limit})
        cursor_schema = WithJsonSchema({"type": "string", "maxLength": MAX_LENGTH})
        skip_schema = WithJsonSchema({"type": "integer", "minimum": 0, "maximum": max_skip})

        def with_skip(self: PageParams, limit: Any = default_limit, cursor: Any = None, skip: Any = 0) -> None:
            self._set(limit, cursor, skip)

        def without_skip(self: PageParams, limit: Any = default_limit, cursor: Any = None) -> None:
            self._set(limit, cursor, None)

        init = with_skip if max_skip else without_skip
        # What FastAPI reads: the annotations are objects made here, so they cannot be written as text.
        init.__annotations__ = {
            "limit": Annotated[Any, limit_schema],
            "cursor": Annotated[Any, cursor_schema],
            **({"skip": Annotated[Any, skip_schema]} if max_skip else {}),
            "return": None,
        }
        return type(
            cls.__name__,
            (cls,),
            {
                "__slots__": (),
                "__doc__": cls.__doc__,
                "__init__": init,
                "default_limit": default_limit,
                "max_limit": max_limit,
                "max_skip": max_skip,
            },
        )

    @classmethod
    def from_request(cls, request: Request) -> PageParams:
        """Read the query of a Starlette request; see the class for what is refused."""
        return cls.from_query(request.query_params)

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> PageParams:
        """Read a mapping of query parameters. Unknown ones are ignored; `skip` too, unless it is allowed."""
        params = cls.__new__(cls)
        params._set(query.get("limit"), query.get("cursor"), query.get("skip") if cls.max_skip else None)
        return params


async def invalid_cursor_response(request: Request, error: Exception) -> Response:
    """An exception handler: `app.add_exception_handler(InvalidCursor, invalid_cursor_response)` answers 400.

    The client reads "invalid cursor" and no more; the reason is for logs and metrics.
    """
    if not isinstance(error, InvalidCursor):
        raise error
    return JSONResponse({"detail": "invalid cursor"}, status_code=400)


def _whole(value: Any, name: str, least: int, most: int, default: int) -> int:
    if value is None:
        return default
    text = str(value)
    # Longer text is out of bounds anyway, and int() of a very long one is slow.
    number = int(text) if len(text) <= 12 and text.isascii() and text.isdigit() else -1
    if not least <= number <= most:
        raise HTTPException(400, f"{name} must be a whole number from {least} to {most}")
    return number
