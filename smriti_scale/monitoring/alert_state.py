"""When an alert is raised, when it grows or eases, when it is over: decided from what is found and from the time.

Each alert has a key, and is told once however often it is found again. It is over only after a while of calm, so that
what comes and goes is one alert, not many.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from smriti_scale.monitoring.slo import Severity

Kind = Literal["raised", "escalated", "eased", "resolved", "reminder"]

_RANK: dict[str | None, int] = {None: 0, "ticket": 1, "page": 2}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something is wrong now.

    Args:
        key: what; one alert at a time has this key.
        severity: `page` or `ticket`.
        title: one line for people.
        detail: more of it.
        after: seconds it must last before it is told.
    """

    key: str
    severity: Severity
    title: str
    detail: str = ""
    after: float = 0.0


@dataclass(frozen=True, slots=True)
class ActiveAlert:
    """An alert that has been raised and is not over."""

    key: str
    severity: Severity
    title: str
    detail: str
    since: float
    """When it was raised, in seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What channels are told: an alert was raised, went from ticket to page (`escalated`) or back (`eased`), is still
    there (`reminder`), or is over (`resolved`)."""

    kind: Kind
    alert: ActiveAlert
    at: float
    """Seconds since the epoch."""
    lasted: float
    """Seconds since it was raised."""
    held_back: int = 0
    """Notices that this channel's rate limit kept back before this one."""
    service: str = ""
    """Whose alert it is, as given to `Alerts`."""


@dataclass(slots=True)
class _Entry:
    finding: Finding
    since: float
    active: ActiveAlert | None = None
    raised: float = 0.0
    told: float = 0.0
    calm_since: float | None = None


class AlertBook:
    """All alerts of a process.

    Args:
        resolve_after: seconds of calm before an alert is over, or eases from page to ticket.
        repeat_after: seconds between reminders of one that lasts; None: none.
    """

    def __init__(self, *, resolve_after: float, repeat_after: float | None = None) -> None:
        self._resolve_after = resolve_after
        self._repeat_after = repeat_after
        self._entries: dict[str, _Entry] = {}

    def active(self) -> tuple[ActiveAlert, ...]:
        """The raised ones, pages first, the oldest first."""
        found = [entry.active for entry in self._entries.values() if entry.active]
        return tuple(sorted(found, key=lambda alert: (-_RANK[alert.severity], alert.since, alert.key)))

    def look(self, findings: Iterable[Finding], *, now: float, wall: float) -> list[Notice]:
        """Take in everything that is wrong at this moment, and say what is to be told.

        Args:
            findings: all of them; what is missing is no longer wrong. Of two with one key the severer counts.
            now: seconds of a monotonic clock.
            wall: seconds since the epoch.
        """
        present: dict[str, Finding] = {}
        for finding in findings:
            if finding.key not in present or _RANK[finding.severity] > _RANK[present[finding.key].severity]:
                present[finding.key] = finding
        notices: list[Notice] = []
        for key, finding in present.items():
            entry = self._entries.setdefault(key, _Entry(finding, now))
            entry.finding = finding
        for key, entry in list(self._entries.items()):
            notice = self._move(entry, present.get(key), now, wall)
            if notice is not None:
                notices.append(notice)
            if entry.active is None and key not in present:
                del self._entries[key]
        return notices

    def _move(self, entry: _Entry, found: Finding | None, now: float, wall: float) -> Notice | None:
        active = entry.active
        if active is None:
            if found is None or now - entry.since < found.after:
                return None
            alert = ActiveAlert(found.key, found.severity, found.title, found.detail, wall)
            entry.raised = entry.told = now
            return self._tell(entry, "raised", alert, now, wall)
        severity = found.severity if found else None
        if _RANK[severity] < _RANK[active.severity]:
            entry.calm_since = now if entry.calm_since is None else entry.calm_since
            if now - entry.calm_since < self._resolve_after:
                return None
            if found is None:
                entry.active = None
                return Notice("resolved", active, wall, now - entry.raised)
            return self._tell(entry, "eased", _renewed(active, found), now, wall)
        entry.calm_since = None
        assert found is not None  # noqa: S101 - an alert has a severity, so nothing found ranks below it
        entry.active = _renewed(active, found)
        if _RANK[severity] > _RANK[active.severity]:
            return self._tell(entry, "escalated", entry.active, now, wall)
        if self._repeat_after is not None and now - entry.told >= self._repeat_after:
            return self._tell(entry, "reminder", entry.active, now, wall)
        return None

    @staticmethod
    def _tell(entry: _Entry, kind: Kind, alert: ActiveAlert, now: float, wall: float) -> Notice:
        entry.active, entry.told, entry.calm_since = alert, now, None
        return Notice(kind, alert, wall, now - entry.raised)


def _renewed(alert: ActiveAlert, found: Finding) -> ActiveAlert:
    return replace(alert, severity=found.severity, title=found.title, detail=found.detail)
