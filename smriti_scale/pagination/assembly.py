"""From the rows that were read to the page: what lies beyond it on either side, and the cursors that lead there."""

from __future__ import annotations

from typing import Any

from smriti_scale.pagination.cursor import Binding, CursorCodec, Position
from smriti_scale.pagination.page import Page
from smriti_scale.pagination.projection import Projected

Document = dict[str, Any]


def assemble(
    rows: list[Document],
    *,
    limit: int,
    position: Position | None,
    skipped: bool,
    shown: Projected,
    codec: CursorCodec,
    binding: Binding,
) -> Page[Document]:
    """Make a page.

    Args:
        rows: nearest to the position first, one more than `limit` if there are that many.
        limit: items of the page.
        position: where the page begins; None for the list's start.
        skipped: rows were left out before the page.
        shown: how to find a row's sort values.
        codec, binding: make the cursors.

    Raises:
        ConfigurationError: a row has an array in a sort field.
    """
    backward = position is not None and position.backward
    more = len(rows) > limit
    if more:
        rows.pop()
    shown.refuse_arrays(rows)
    if backward:
        rows.reverse()
    came_from = position is not None or skipped
    following = preceding = None
    if rows:
        first, last = shown.anchor(rows[0]), shown.anchor(rows[-1])
        ties = _level(first[0], last[0])
        if came_from if backward else more:
            following = codec.sign(last, binding, ties=ties)
        if more if backward else came_from:
            preceding = codec.sign(first, binding, backward=True, ties=ties)
    elif position is not None:
        # Everything on this side is gone. The way back begins with the row at the position, if it still exists.
        back = codec.sign(position.values, binding, backward=not backward, inclusive=True)
        following, preceding = (back, None) if backward else (None, back)
    if shown.changes:
        rows = [shown.finish(row) for row in rows]
    return Page.of(rows, next_cursor=following, previous_cursor=preceding)


def _level(one: Any, other: Any) -> bool:
    """Whether two sort values share a place; NaN differs from itself in Python but not in an index."""
    return bool(one == other) or (one != one and other != other)
