"""What Sentry is sent, without what it must not know. Pure functions of an event."""

from __future__ import annotations

from typing import Any

from smriti_scale.monitoring.redaction import redact, scrubbed

_HEADERS_KEPT = frozenset({"accept", "content-length", "content-type", "host", "user-agent", "x-request-id"})
_REQUEST_KEPT = frozenset({"method", "url"})


def scrubbed_event(event: Any) -> Any:
    """An event or transaction, for `before_send` and `before_send_transaction`.

    Of the request only method, URL without query string, and six harmless headers are left; of the user only the id
    that the app has set; no local variables, no command line. Everything else is redacted by key and by text, in
    exceptions, messages, breadcrumbs, spans, tags, contexts and extras alike.
    """
    request = event.pop("request", None)
    user = event.pop("user", None)
    event.get("extra", {}).pop("sys.argv", None)
    for frame in _frames(event):
        frame.pop("vars", None)
    clean: dict[str, Any] = scrubbed(event)
    if isinstance(request, dict):
        clean["request"] = _request(request)
    if isinstance(user, dict) and user.get("id") is not None:
        clean["user"] = {"id": redact(str(user["id"]))}
    return clean


def _request(request: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {name: request[name] for name in _REQUEST_KEPT & request.keys()}
    if "url" in kept:
        kept["url"] = redact(str(kept["url"]).partition("?")[0])
    headers = request.get("headers")
    if isinstance(headers, dict):
        kept["headers"] = {name: redact(str(value)) for name, value in headers.items() if name.lower() in _HEADERS_KEPT}
    return kept


def _frames(event: Any) -> Any:
    for holder in ("exception", "threads"):
        for value in (event.get(holder) or {}).get("values") or ():
            yield from (value.get("stacktrace") or {}).get("frames") or ()
    yield from (event.get("stacktrace") or {}).get("frames") or ()
