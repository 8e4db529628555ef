"""Bearer tokens: JWT with `sub` (the user's id, 24 hex digits) and `exp`, nothing else."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import jwt

_OBJECT_ID = re.compile(r"[0-9a-f]{24}")


class Tokens:
    """Issues and reads tokens.

    Args:
        secret: signs and verifies.
        algorithm: an HMAC algorithm; a token that names another is refused.
        lifetime: of a token, minutes.
    """

    def __init__(self, secret: str, *, algorithm: str = "HS256", lifetime: int = 43_200) -> None:
        self._secret = secret
        self._algorithm = algorithm
        self._lifetime = timedelta(minutes=lifetime)

    def issue(self, user_id: str) -> str:
        claims = {"sub": user_id, "exp": datetime.now(UTC) + self._lifetime}
        return jwt.encode(claims, self._secret, algorithm=self._algorithm)

    def read(self, token: str) -> str | None:
        """The user's id, or None for a token that is forged, expired, or about no user id."""
        try:
            claims = jwt.decode(token, self._secret, algorithms=[self._algorithm], options={"require": ["sub", "exp"]})
        except jwt.InvalidTokenError:
            return None
        subject = claims["sub"]
        return subject if isinstance(subject, str) and _OBJECT_ID.fullmatch(subject) else None
