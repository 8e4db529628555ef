from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from examples.smriti.quotes.excerpt import LONGEST, excerpt, sentences

LONG = "word " * 60


@pytest.mark.parametrize(
    ("title", "text", "expected"),
    [
        ("Morning", "The light was there.", "Morning The light was there."),
        (None, "  spread \n over\tlines ", "spread over lines"),
        ("Only a title", None, "Only a title"),
        (None, "too short", None),
        (None, None, None),
        ("", "", None),
        (None, "x" * 200, "x" * 200),
        (None, "First one. " + "Second " * 40 + ".", "First one."),
        (None, "One here! Two here? " + LONG, "One here! Two here?"),
        (None, "Dr. Rao spoke, e.g. about rain. " + LONG, "Dr. Rao spoke, e.g. about rain."),
        (None, LONG, ("word " * 39).strip() + "..."),
        (None, "x" * 300, None),
        (None, "a b " + "x" * 300, None),
    ],
)
def test_a_quote_is_whole_sentences_that_fit_or_words_with_dots(
    title: str | None, text: str | None, expected: str | None
) -> None:
    assert excerpt(title, text) == expected


@given(st.text(max_size=600), st.text(max_size=600))
def test_no_quote_is_longer_than_it_may_be_nor_says_what_the_post_does_not(title: str, text: str) -> None:
    quote = excerpt(title, text)
    whole = " ".join(f"{title} {text}".split())
    if quote is not None:
        assert len(quote) <= LONGEST
        assert whole.startswith((quote, quote.removesuffix("...")))


@given(st.text(alphabet="aA.!? e", max_size=80))
def test_sentences_lose_nothing(text: str) -> None:
    whole = " ".join(text.split())
    assert " ".join(sentences(whole)) == whole
