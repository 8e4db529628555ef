"""What a circle may be: names, colours, invite codes. Functions of values."""

from __future__ import annotations

import secrets

MOST_MEMBERS = 5
MOST_CIRCLES = 20

PALETTE = (
    "#8D6E63", "#7986CB", "#81C784", "#F48FB1", "#FFB74D", "#4DB6AC", "#9575CD",
    "#A1887F", "#90A4AE", "#DCE775", "#E57373", "#64B5F6", "#BA68C8", "#4DD0E1",
)  # fmt: skip
_CODE_SYMBOLS = "ABCDEFGHJKMNPQRSTUVWXYZ23456789"
CODE_LENGTH = 8


def circle_name(value: str) -> str:
    """A name, trimmed.

    Raises:
        ValueError: not 2 to 40 characters.
    """
    trimmed = value.strip()
    if not 2 <= len(trimmed) <= 40:
        raise ValueError("a circle's name has 2 to 40 characters")
    return trimmed


def description(value: str | None) -> str | None:
    """A description, None when empty.

    Raises:
        ValueError: more than 200 characters.
    """
    trimmed = (value or "").strip()
    if len(trimmed) > 200:
        raise ValueError("a description has at most 200 characters")
    return trimmed or None


def emoji(value: str | None) -> str | None:
    """An emoji, None when empty.

    Raises:
        ValueError: more than 10 characters.
    """
    trimmed = (value or "").strip()
    if len(trimmed) > 10:
        raise ValueError("an emoji has at most 10 characters")
    return trimmed or None


def color(value: str) -> str:
    """A colour of the palette.

    Raises:
        ValueError: not one of it.
    """
    trimmed = value.strip().upper()
    named = trimmed if trimmed.startswith("#") else f"#{trimmed}"
    if named not in PALETTE:
        raise ValueError(f"a colour is one of {', '.join(PALETTE)}")
    return named


def random_color() -> str:
    return secrets.choice(PALETTE)


def new_invite_code() -> str:
    """Eight symbols that cannot be mistaken for each other: 31**8, about 10**12 possibilities."""
    return "".join(secrets.choice(_CODE_SYMBOLS) for _ in range(CODE_LENGTH))


def invite_code(value: str) -> str:
    """A code as typed: blanks removed, upper-cased; not necessarily one that exists."""
    return "".join(value.split()).upper()
