"""Pushing to devices: the seam, and Firebase Cloud Messaging behind it (HTTP v1)."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import jwt
from httpx import AsyncClient, HTTPError

_log = logging.getLogger("smriti.push")

_SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_SEND = "https://fcm.googleapis.com/v1/projects/{project}/messages:send"
_AT_ONCE = 20


@dataclass(frozen=True, slots=True)
class Message:
    """What a device shows, and what the app gets with it.

    Args:
        title: the first line.
        body: the text.
        data: text by name, for the app.
    """

    title: str
    body: str
    data: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a push went.

    Args:
        sent: devices that the service took it for.
        failed: devices that it did not.
        dead: tokens that no device has any more.
    """

    sent: int = 0
    failed: int = 0
    dead: tuple[str, ...] = ()


class Pusher(Protocol):
    """Sends one message to many devices; never raises for a device's or the service's fault."""

    async def send(self, tokens: Sequence[str], message: Message) -> Outcome: ...

    async def aclose(self) -> None: ...


class SilentPusher:
    """Where no push service is configured: every device counts as failed, and it is said once at start."""

    def __init__(self) -> None:
        _log.warning("no Firebase credentials: pushes reach nobody")

    async def send(self, tokens: Sequence[str], message: Message) -> Outcome:
        return Outcome(failed=len(tokens))

    async def aclose(self) -> None:
        return None


class FirebasePusher:
    """Firebase Cloud Messaging over HTTP v1, with a service account.

    Args:
        credentials: the service account's JSON, as Google hands it out.
        send_url: where messages go, with `{project}`; another in tests.
        client: an HTTP client; by default one of our own.

    Raises:
        ValueError: the credentials lack what is needed.
    """

    def __init__(
        self, credentials: dict[str, Any], *, send_url: str = _SEND, client: AsyncClient | None = None
    ) -> None:
        missing = {"project_id", "client_email", "private_key", "token_uri"} - set(credentials)
        if missing:
            raise ValueError(f"the Firebase credentials lack {', '.join(sorted(missing))}")
        self._credentials = credentials
        self._url = send_url.format(project=credentials["project_id"])
        self._client = client or AsyncClient(timeout=10)
        self._access_token = ""
        self._expires = 0.0
        self._renewing = asyncio.Lock()

    async def send(self, tokens: Sequence[str], message: Message) -> Outcome:
        try:
            access = await self._access()
        except (HTTPError, ValueError, KeyError) as error:
            _log.error("no access token for pushes: %s", error)
            return Outcome(failed=len(tokens))
        gate = asyncio.Semaphore(_AT_ONCE)

        async def to(token: str) -> tuple[str, int]:
            async with gate:
                return token, await self._send_one(token, message, access)

        answers = await asyncio.gather(*(to(token) for token in tokens))
        return Outcome(
            sent=sum(status == 200 for _, status in answers),
            failed=sum(status != 200 for _, status in answers),
            dead=tuple(token for token, status in answers if status == 404),
        )

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _send_one(self, token: str, message: Message, access: str) -> int:
        body = {
            "message": {
                "token": token,
                "notification": {"title": message.title, "body": message.body},
                "data": message.data,
            }
        }
        try:
            answer = await self._client.post(self._url, json=body, headers={"Authorization": f"Bearer {access}"})
        except HTTPError as error:
            _log.warning("a push failed: %s", type(error).__name__)
            return 0
        return answer.status_code

    async def _access(self) -> str:
        async with self._renewing:
            moment = time.time()
            if moment < self._expires - 60:
                return self._access_token
            claims = {
                "iss": self._credentials["client_email"],
                "scope": _SCOPE,
                "aud": self._credentials["token_uri"],
                "iat": int(moment),
                "exp": int(moment) + 3600,
            }
            assertion = jwt.encode(claims, self._credentials["private_key"], algorithm="RS256")
            answer = await self._client.post(
                self._credentials["token_uri"], data={"grant_type": _GRANT, "assertion": assertion}
            )
            answer.raise_for_status()
            granted = answer.json()
            self._access_token = str(granted["access_token"])
            self._expires = moment + float(granted.get("expires_in", 3600))
            return self._access_token


def pusher_from(*, path: str | None, text: str | None) -> Pusher:
    """The pusher that the settings ask for: credentials as text, else in a file, else none.

    Raises:
        ValueError: the credentials are no JSON, or lack what is needed.
        OSError: the file cannot be read.
    """
    if not text and path:
        text = Path(path).read_text()
    return FirebasePusher(json.loads(text)) if text else SilentPusher()
