"""When alerts are raised, eased and resolved."""

from __future__ import annotations

from hypothesis import given, strategies as st

from smriti_scale.monitoring.alert_state import AlertBook, Finding, Notice

PAGE = Finding("slo:errors", "page", "errors")
TICKET = Finding("slo:errors", "ticket", "errors")


class Told:
    """A book, and what it said at which second."""

    def __init__(self, *, resolve_after: float = 60.0, repeat_after: float | None = None) -> None:
        self.book = AlertBook(resolve_after=resolve_after, repeat_after=repeat_after)
        self.now = 0.0
        self.notices: list[Notice] = []

    def look(self, *findings: Finding, after: float = 15.0) -> list[tuple[str, str]]:
        self.now += after
        new = self.book.look(findings, now=self.now, wall=self.now + 1e9)
        self.notices += new
        return [(notice.kind, notice.alert.severity) for notice in new]


def test_it_is_told_once_however_often_it_is_found() -> None:
    told = Told()
    assert told.look(PAGE) == [("raised", "page")]
    assert [told.look(PAGE) for _ in range(100)] == [[]] * 100
    assert [alert.key for alert in told.book.active()] == ["slo:errors"]


def test_it_is_over_after_a_while_of_calm() -> None:
    told = Told()
    told.look(PAGE)
    assert told.look() == []
    assert told.look(after=59) == []
    assert told.look(after=2) == [("resolved", "page")]
    assert told.notices[-1].lasted == 76
    assert told.book.active() == ()
    assert told.look() == []
    assert told.look(PAGE) == [("raised", "page")]


def test_what_comes_and_goes_is_one_alert() -> None:
    told = Told()
    for _ in range(20):
        told.look(PAGE)
        told.look()
    assert [notice.kind for notice in told.notices] == ["raised"]


def test_a_ticket_that_becomes_a_page_escalates_and_eases_before_it_ends() -> None:
    told = Told()
    assert told.look(TICKET) == [("raised", "ticket")]
    assert told.look(PAGE) == [("escalated", "page")]
    assert told.look(TICKET) == []
    assert told.look(TICKET, after=60) == [("eased", "ticket")]
    assert told.look() == []
    assert told.look(after=60) == [("resolved", "ticket")]


def test_short_trouble_is_not_told_where_it_must_last() -> None:
    told = Told()
    blip = Finding("dependency:redis", "page", "down", after=30)
    for _ in range(5):
        assert told.look(blip) == []
        assert told.look() == []
    assert told.look(blip) == []
    assert told.look(blip) == []
    assert told.look(blip) == [("raised", "page")]


def test_reminders_come_only_where_asked_for() -> None:
    told = Told(repeat_after=3_600)
    told.look(PAGE)
    kinds = [told.look(PAGE, after=600) for _ in range(12)]
    assert kinds.count([("reminder", "page")]) == 2


def test_of_two_with_one_key_the_severer_counts() -> None:
    assert Told().look(TICKET, PAGE, TICKET) == [("raised", "page")]


def test_pages_come_first_in_what_is_active() -> None:
    told = Told()
    told.look(Finding("a", "ticket", "a"))
    told.look(Finding("a", "ticket", "a"), Finding("z", "page", "z"))
    assert [alert.key for alert in told.book.active()] == ["z", "a"]


@given(
    steps=st.lists(st.tuples(st.sampled_from([None, "ticket", "page"]), st.integers(1, 90)), max_size=60),
    after=st.sampled_from([0.0, 20.0]),
)
def test_notices_of_a_key_always_make_a_story(steps: list[tuple[str | None, int]], after: float) -> None:
    told = Told()
    for severity, pause in steps:
        kind: list[Finding] = []
        if severity == "page":
            kind = [Finding("k", "page", "t", after=after)]
        elif severity == "ticket":
            kind = [Finding("k", "ticket", "t", after=after)]
        told.look(*kind, after=pause)
        # The last notice and what is active agree.
        last = told.notices[-1] if told.notices else None
        active = told.book.active()
        assert bool(active) == (last is not None and last.kind != "resolved")
        if active and last is not None:
            assert active[0].severity == last.alert.severity
    shown: str | None = None
    for notice in told.notices:
        rank = {None: 0, "ticket": 1, "page": 2}
        if notice.kind == "raised":
            assert shown is None
        elif notice.kind == "escalated":
            assert rank[notice.alert.severity] > rank[shown]
        elif notice.kind == "eased":
            assert rank[notice.alert.severity] < rank[shown]
        else:
            assert (notice.kind, notice.alert.severity) == ("resolved", shown)
        shown = None if notice.kind == "resolved" else notice.alert.severity
