"""Where alerts go: a webhook, Sentry, any function. (E-mail is in `email_channel`.)

Nothing is needed besides the standard library and what the base package brings: alerts are rare, so a thread a message
costs nothing that counts.
"""

from __future__ import annotations

import inspect
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from http.client import HTTPException, HTTPMessage
from typing import IO, Any, Literal
from urllib.parse import urlsplit

import orjson
import sentry_sdk
from pydantic import SecretStr

from smriti_scale.errors import AlertNotDelivered, ConfigurationError
from smriti_scale.monitoring.alert_state import Notice
from smriti_scale.monitoring.off_loop import off_loop

_COLORS = {"page": "#c62828", "ticket": "#f9a825", "over": "#2e7d32"}
_WORDS = {"raised": "", "escalated": "worse: ", "eased": "better: ", "reminder": "still: ", "resolved": ""}


def headline(notice: Notice) -> str:
    """One line that says it all: `[page] shop: Redis does not answer`."""
    mark = "resolved" if notice.kind == "resolved" else notice.alert.severity
    service = f"{notice.service}: " if notice.service else ""
    return " ".join(f"[{mark}] {service}{_WORDS[notice.kind]}{notice.alert.title}".split())


def details(notice: Notice) -> str:
    """What is known besides, a line each."""
    lines = [notice.alert.detail] if notice.alert.detail else []
    lines.append(f"since {_moment(notice.alert.since)}")
    if notice.kind != "raised":
        lines.append(f"for {_span(notice.lasted)}")
    if notice.held_back:
        lines.append(f"{notice.held_back} more alerts were held back: too many in an hour")
    return "\n".join(lines)


class Webhook:
    """POSTs JSON to an address.

    `shape="json"` sends `{"kind", "key", "severity", "title", "detail", "service", "since", "at", "lasted",
    "held_back"}` (times in RFC 3339, `lasted` in seconds); `shape="slack"` what Slack's incoming webhooks take, and
    Mattermost, and Discord at `…/slack`. Redirects are not followed. Proxies are taken from the environment.

    Args:
        url: http or https. It often is a secret, so it is never logged; its host is.
        shape: of the body.
        headers: further ones, for instance an `Authorization`.
        timeout: seconds for connecting, and for each wait for the receiver.
        name: for logs and metrics; the host by default.

    Raises:
        ConfigurationError: the URL is none.
    """

    def __init__(
        self,
        url: str | SecretStr,
        *,
        shape: Literal["json", "slack"] = "json",
        headers: Mapping[str, str] | None = None,
        timeout: float = 10.0,
        name: str = "",
    ) -> None:
        self._url = url.get_secret_value() if isinstance(url, SecretStr) else url
        parts = urlsplit(self._url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError("a webhook's URL begins with https:// (or http://) and a host; this one does not")
        self.name = name or f"webhook {parts.hostname}"
        self._shape = shape
        self._headers = {"Content-Type": "application/json", "User-Agent": "smriti_scale", **(headers or {})}
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"<Webhook {self.name!r} {self._shape}>"

    async def send(self, notice: Notice) -> None:
        body = orjson.dumps(as_slack(notice) if self._shape == "slack" else as_json(notice))
        await off_loop(lambda: self._post(body), name=self.name)

    def _post(self, body: bytes) -> None:
        request = urllib.request.Request(self._url, body, self._headers, method="POST")  # noqa: S310 - http(s) alone
        opener = urllib.request.build_opener(_NoRedirect)
        try:
            with opener.open(request, timeout=self._timeout) as answer:
                answer.read(4096)
        except urllib.error.HTTPError as error:
            with error:
                status, wait = error.code, error.headers.get("Retry-After", "")
            raise AlertNotDelivered(
                f"it answered {status}",
                permanent=status < 500 and status not in (408, 425, 429),
                retry_after=float(wait) if wait.isdecimal() else None,
            ) from None
        except (OSError, HTTPException) as error:
            cause = getattr(error, "reason", error)
            raise AlertNotDelivered(type(cause).__name__ if isinstance(cause, Exception) else "no answer") from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect becomes an error: an alert goes where it was told to go, or nowhere."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None


class SentryChannel:
    """Sends messages through the Sentry SDK, once `init_sentry` (or `sentry_sdk.init`) has set it up.

    All notices of one alert are one issue there (its key is the fingerprint). Sentry groups, so its own alert rules
    decide who is told.
    """

    name = "sentry"

    async def send(self, notice: Notice) -> None:
        if not sentry_sdk.get_client().is_active():
            raise AlertNotDelivered("Sentry is not set up", permanent=True)
        with sentry_sdk.new_scope() as scope:
            scope.fingerprint = ["smriti_scale", notice.service, notice.alert.key]
            scope.set_tags(
                {"alert": notice.alert.key, "alert.kind": notice.kind, "alert.severity": notice.alert.severity}
            )
            scope.set_context("alert", as_json(notice))
            level: Literal["info", "error", "warning"] = (
                "info" if notice.kind == "resolved" else "error" if notice.alert.severity == "page" else "warning"
            )
            sentry_sdk.capture_message(headline(notice), level=level, scope=scope)


class CallableChannel:
    """Any function as a channel: an async one is awaited, another is called in a thread.

    Args:
        function: takes a `Notice`.
    """

    def __init__(self, function: Callable[[Notice], Awaitable[None] | None]) -> None:
        self.name = str(getattr(function, "__qualname__", type(function).__name__))
        self._function = function
        called = function if inspect.isroutine(function) else type(function).__call__
        self._is_async = inspect.iscoroutinefunction(called)

    async def send(self, notice: Notice) -> None:
        if not self._is_async:
            outcome = await off_loop(lambda: self._function(notice), name=self.name)
        else:
            outcome = self._function(notice)
        if inspect.isawaitable(outcome):
            await outcome


def as_json(notice: Notice) -> dict[str, Any]:
    """A notice as plain values."""
    return {
        "kind": notice.kind,
        "key": notice.alert.key,
        "severity": notice.alert.severity,
        "title": notice.alert.title,
        "detail": notice.alert.detail,
        "service": notice.service,
        "since": _moment(notice.alert.since),
        "at": _moment(notice.at),
        "lasted": round(notice.lasted, 3),
        "held_back": notice.held_back,
    }


def as_slack(notice: Notice) -> dict[str, Any]:
    """A notice as Slack's incoming webhooks take it."""
    color = _COLORS["over" if notice.kind == "resolved" else notice.alert.severity]
    head, body = (_for_slack(text) for text in (headline(notice), details(notice)))
    return {"text": head, "attachments": [{"color": color, "text": body, "fallback": head, "ts": int(notice.at)}]}


def _for_slack(text: str) -> str:
    """Slack's three control characters, escaped: a title must not mention a channel (`<!here>`)."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _moment(epoch: float) -> str:
    return datetime.fromtimestamp(epoch, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
