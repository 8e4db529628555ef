"""One page of a list, and the links to the pages beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")
U = TypeVar("U")


class Page(BaseModel, Generic[T]):
    """One page. As `Page[Post]` it is a response model with the right schema in OpenAPI.

    `has_next` and `has_previous` say whether a cursor is there. On the side the reader came from, that is where the
    row was when its cursor was made: rows deleted since may leave that page empty.
    """

    model_config = ConfigDict(frozen=True)

    items: list[T] = Field(description="The rows of this page, in the list's order.")
    next_cursor: str | None = Field(default=None, description="Pass it as `cursor` for the page after this one.")
    previous_cursor: str | None = Field(default=None, description="Pass it as `cursor` for the page before this one.")
    has_next: bool = Field(default=False, description="Whether there is a page after this one.")
    has_previous: bool = Field(default=False, description="Whether there is a page before this one.")
    total: int | None = Field(default=None, description="How many rows the list has, when it is counted.")
    total_is_exact: bool = Field(
        default=True, description="False when `total` is an estimate, or counting stopped there."
    )

    def map(self, function: Callable[[T], U]) -> Page[U]:
        """The same page with each item replaced by `function(item)`."""
        return self.with_items([function(item) for item in self.items])

    def with_items(self, items: list[U]) -> Page[U]:
        """The same page with other items: after loading what belongs to them, say."""
        return _made(
            {
                "items": items,
                "next_cursor": self.next_cursor,
                "previous_cursor": self.previous_cursor,
                "has_next": self.has_next,
                "has_previous": self.has_previous,
                "total": self.total,
                "total_is_exact": self.total_is_exact,
            }
        )

    @staticmethod
    def of(items: list[U], *, next_cursor: str | None, previous_cursor: str | None) -> Page[U]:
        """A page from values that are known to be right: nothing is validated."""
        return _made(
            {
                "items": items,
                "next_cursor": next_cursor,
                "previous_cursor": previous_cursor,
                "has_next": next_cursor is not None,
                "has_previous": previous_cursor is not None,
                "total": None,
                "total_is_exact": True,
            }
        )

    def link_header(self, url: object, *, cursor_param: str = "cursor") -> str:
        """The `Link` header (RFC 8288) with `first`, `prev` and `next`; empty when the list has one page.

        The targets are paths, resolved by the client against the URL it asked: a forged `Host` header reaches nobody.

        Args:
            url: the request's URL (`request.url`, or text); its other query parameters are kept.
            cursor_param: the query parameter that takes the cursor.
        """
        if self.next_cursor is None and self.previous_cursor is None:
            return ""
        parts = urlsplit(str(url))
        kept = [
            (name, value)
            for name, value in parse_qsl(parts.query, keep_blank_values=True)
            if name not in (cursor_param, "skip")
        ]
        # A path that begins with two slashes would be read as another host.
        path = "/" + quote(parts.path.lstrip("/"), safe="/%:@!$&'()*+,;=~-._")

        def link(relation: str, cursor: str | None) -> str:
            query = urlencode([*kept, (cursor_param, cursor)] if cursor else kept)
            return f'<{path}{"?" if query else ""}{query}>; rel="{relation}"'

        links = [link("first", None)]
        if self.previous_cursor is not None:
            links.append(link("prev", self.previous_cursor))
        if self.next_cursor is not None:
            links.append(link("next", self.next_cursor))
        return ", ".join(links)


_FIELDS = set(Page.model_fields)
_set_values, _set_fields, _set_extra, _set_private = (
    BaseModel.__dict__[name].__set__
    for name in ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")
)


def _made(values: dict[str, Any]) -> Page[Any]:
    """`Page.model_construct` for all fields at once, at a fraction of its cost: it is on the path of every page."""
    page: Page[Any] = Page.__new__(Page)
    _set_values(page, values)
    _set_fields(page, _FIELDS.copy())
    _set_extra(page, None)
    _set_private(page, None)
    return page
