"""Bearer tokens: JWT with `sub` (the user's id, 24 hex digits) and `exp`, nothing else."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import jwt
from cachetools import LRUCache

from smriti_scale.clock import SYSTEM_CLOCK, Clock

_REMEMBERED = 4_096
_OBJECT_ID = re.compile(r"[0-9a-f]{24}")


class Tokens:
    """Issues and reads tokens.

    A token that was verified is remembered until it expires, by its SHA-256: looking it up takes a tenth of the time,
    and how long that takes tells nothing about a token that is not known.

    Args:
        secret: signs and verifies.
        algorithm: an HMAC algorithm; a token that names another is refused.
        lifetime: of a token, minutes.
        clock: the source of time.
    """

    def __init__(
        self, secret: str, *, algorithm: str = "HS256", lifetime: int = 43_200, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._secret = secret
        self._algorithm = algorithm
        self._lifetime = lifetime * 60
        self._clock = clock
        self._verified: LRUCache[bytes, tuple[str, float]] = LRUCache(_REMEMBERED)

    def issue(self, user_id: str) -> str:
        claims = {"sub": user_id, "exp": int(self._clock.time()) + self._lifetime}
        return jwt.encode(claims, self._secret, algorithm=self._algorithm)

    def read(self, token: str) -> str | None:
        """The user's id, or None for a token that is forged, expired, or about no user id."""
        digest = hashlib.sha256(token.encode()).digest()
        verified = self._verified.get(digest)
        if verified is None:
            verified = self._verify(token)
            if verified is None:
                return None
            self._verified[digest] = verified
        user_id, expires = verified
        return user_id if expires > self._clock.time() else None

    def _verify(self, token: str) -> tuple[str, float] | None:
        """Whom a token is about and when it expires, if it was signed here."""
        options: Any = {"require": ["sub", "exp"], "verify_exp": False}  # by our clock, for remembered ones too
        try:
            claims = jwt.decode(token, self._secret, algorithms=[self._algorithm], options=options)
        except jwt.InvalidTokenError:
            return None
        subject, expires = claims["sub"], claims["exp"]
        if not isinstance(subject, str) or not _OBJECT_ID.fullmatch(subject) or not isinstance(expires, int | float):
            return None
        return subject, expires
