"""Cursor pagination over MongoDB: every row exactly once, at the same cost at any depth.

```python
paginator = CursorPaginator(sort=[("created_at", -1), ("_id", -1)], secret=settings.cursor_secret)
page = await paginator.paginate(db.posts, {"user_id": user_id}, limit=20, cursor=params.cursor, scope=user_id)
page.items, page.next_cursor, page.previous_cursor
```
"""

from smriti_scale.errors import InvalidCursor
from smriti_scale.pagination.cursor import CursorCodec, Position, decode_cursor, encode_cursor
from smriti_scale.pagination.page import Page
from smriti_scale.pagination.paginator import CursorPaginator
from smriti_scale.pagination.params import PageParams, invalid_cursor_response
from smriti_scale.pagination.plan import ListPlan

__all__ = [
    "CursorCodec",
    "CursorPaginator",
    "InvalidCursor",
    "ListPlan",
    "Page",
    "PageParams",
    "Position",
    "decode_cursor",
    "encode_cursor",
    "invalid_cursor_response",
]
