"""What must not leave the process: secrets and personal data in texts and in values by key. Pure.

Applied to whatever goes to logs, Sentry and traces. A pattern cannot know every secret: it catches the forms that leak
in practice (URIs with passwords, authorization headers, cookies, tokens, `password=…`, e-mail addresses, query
strings). Every pattern runs in time linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

REDACTED = "[redacted]"

_DEEPEST = 16
_KEYS = re.compile(
    r"passw|passphrase|pwd|secret|token|authori[sz]ation|cookie|session|api_?key|access_?key|private_?key|credential"
    r"|csrf|xsrf|e_?mail|signature|otp\b|dsn\b|\bauth\b|query_string|http_query|remote_addr|ip_address|forwarded_for|real_ip"
)
_PEM = re.compile(r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[^-]*(?:-----END [A-Z ]{0,30}PRIVATE KEY-----)?")
_CREDENTIALS = re.compile(r"(://)[^\s/?#\"'<>]{1,512}@")
_COOKIE = re.compile(r"(?i)(cookie[\"']?\s?[:=])[^\n]+")
_SCHEME = re.compile(r"(?i)\b(bearer|basic)\s+[a-z0-9._~+/=-]{6,}")
_JWT = re.compile(r"eyJ[\w-]{5,}\.[\w-]{5,}(?:\.[\w-]*)?")
_KEY = re.compile(
    r"\b(?:A[KS]IA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{20,}|xox[abprs]-[A-Za-z0-9-]{10,}"
    r"|[sr]k_(?:live|test)_[A-Za-z0-9]{8,})"
)
_QUERY = re.compile(r"\?[\w%.~\[\]+-]{1,64}=[^\s\"'<>]*")
_NAME = re.compile(r"(?<![\w-])([\w-]{1,64})[\"']?\s?[:=]\s?")
_VALUE = re.compile(r"\"[^\"\n]*\"|'[^'\n]*'|(?:bearer |basic )?[^\s,;&\"'{}\[\]()]+", re.IGNORECASE)
_EMAIL = re.compile(r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})+")


def redact(text: str) -> str:
    """The text without the secrets and e-mail addresses that can be recognised."""
    # Most texts hold none of these characters; to look for them costs a tenth of what the patterns do.
    if "eyJ" in text:
        text = _JWT.sub(REDACTED, text)
    if "_" in text or "-" in text or "KIA" in text or "SIA" in text:
        text = _KEY.sub(REDACTED, _PEM.sub(REDACTED, text) if "-----BEGIN" in text else text)
    lowered = text.lower()
    if "bearer" in lowered or "basic" in lowered:
        text = _SCHEME.sub(rf"\1 {REDACTED}", text)
    if "?" in text:
        text = _QUERY.sub(f"?{REDACTED}", text)
    if ":" in text or "=" in text:
        if "cookie" in lowered:
            text = _COOKIE.sub(rf"\1 {REDACTED}", text)
        if "@" in text:
            text = _CREDENTIALS.sub(rf"\1{REDACTED}@", text)
        if _KEYS.search(lowered.replace("-", "_")):
            text = _without_named(text)
    if "@" in text:
        text = _EMAIL.sub(REDACTED, text)
    return text


def _without_named(text: str) -> str:
    """The text without the values that follow a sensitive name: `password=…`, `"token": "…"`."""
    pieces: list[str] = []
    done = 0
    for name in _NAME.finditer(text):
        if name.start() < done or not is_sensitive(name[1]):
            continue  # a harmless name takes no value away: in `Error: token=…` what follows is a name itself
        value = _VALUE.match(text, name.end())
        if value is not None:
            pieces += text[done : name.end()], REDACTED
            done = value.end()
    return "".join((*pieces, text[done:]))


def is_sensitive(key: str) -> bool:
    """Whether what is kept under this name is a secret or personal, whatever it looks like."""
    return _KEYS.search(key.lower().replace("-", "_").replace(".", "_")) is not None


def scrubbed(value: Any, _depth: int = 0) -> Any:
    """A copy of JSON-like data, redacted by key and by text; what is nested deeper than 16 levels is left out."""
    if isinstance(value, str):
        return redact(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if _depth >= _DEEPEST:
        return REDACTED
    if isinstance(value, Mapping):
        return {
            key: REDACTED
            if isinstance(key, str) and value[key] is not None and is_sensitive(key)
            else scrubbed(value[key], _depth + 1)
            for key in value
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [scrubbed(item, _depth + 1) for item in value]
    return value
