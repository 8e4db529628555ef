"""What of a post makes a quote: a function of its title and text."""

from __future__ import annotations

import re

SHORTEST = 10
LONGEST = 200
_DOTS = "..."
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_ABBREVIATIONS = frozenset(
    (
        *("dr.", "mr.", "mrs.", "ms.", "prof.", "sr.", "jr.", "st.", "inc.", "ltd.", "co.", "u.s.", "u.k."),
        *("vs.", "etc.", "e.g.", "i.e.", "cf.", "al.", "no.", "vol.", "fig.", "approx.", "a.m.", "p.m."),
    )
)


def excerpt(title: str | None, text: str | None) -> str | None:
    """Title and text as one quote of at most 200 characters, or None when nothing usable is left.

    Longer ones end after as many whole sentences as fit; if even the first is too long, at a word, with dots.
    """
    whole = " ".join(f"{title or ''} {text or ''}".split())
    if len(whole) < SHORTEST:
        return None
    if len(whole) <= LONGEST:
        return whole
    kept = ""
    for sentence in sentences(whole):
        longer = f"{kept} {sentence}" if kept else sentence
        if len(longer) > LONGEST:
            break
        kept = longer
    if kept:
        return kept
    cut = whole[: LONGEST - len(_DOTS) + 1].rfind(" ")
    return whole[:cut].rstrip() + _DOTS if cut > SHORTEST else None


def sentences(text: str) -> list[str]:
    """The sentences of a text; a stop that ends an abbreviation ends no sentence."""
    found: list[str] = []
    for piece in _SENTENCE_END.split(text):
        if found and _ends_in_abbreviation(found[-1]):
            found[-1] += f" {piece}"
        else:
            found.append(piece)
    return found


def _ends_in_abbreviation(piece: str) -> bool:
    return piece.rsplit(" ", 1)[-1].lstrip("(\"'“‘[").lower() in _ABBREVIATIONS
