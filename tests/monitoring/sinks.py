"""Receivers of alerts on loopback: real sockets, answers on demand, everything remembered."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import logging
import subprocess
import warnings
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from email.policy import default
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext
from typing import Any

import brotli  # type: ignore[import-untyped]
import pytest

from smriti_scale.local.ports import free_ports

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from aiosmtpd.controller import Controller
    from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword, Session


@dataclass
class HTTPSink:
    """Takes POSTs. `answers` are given in turn, then 200; None means never."""

    url: str = ""
    answers: deque[int | tuple[int, str] | None] = field(default_factory=deque)
    received: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def until(self, count: int) -> None:
        """Wait for so many requests in all."""
        async with asyncio.timeout(20), self.arrived:
            await self.arrived.wait_for(lambda: len(self.received) >= count)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, _, body in self.received]

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await self._answer(reader, writer)
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        elif headers.get("content-encoding") == "br":
            body = brotli.decompress(body)
        async with self.arrived:
            self.received.append((head[0].split()[1], headers, body))
            self.arrived.notify_all()
        answer = self.answers.popleft() if self.answers else 200
        if answer is None:
            await reader.read()  # until the sender gives up
            return
        status, extra = answer if isinstance(answer, tuple) else (answer, "")
        writer.write(f"HTTP/1.1 {status} -\r\nContent-Length: 0\r\nConnection: close\r\n{extra}\r\n".encode())
        await writer.drain()


@pytest.fixture
async def http_sink() -> AsyncIterator[HTTPSink]:
    sink = HTTPSink()
    server = await asyncio.start_server(sink.handle, "127.0.0.1", 0)
    sink.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield sink
    server.close()


class Mailbox:
    """Takes messages, or answers `refusals` first."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.recipients: list[list[str]] = []
        self.logins: list[tuple[bytes, bytes]] = []
        self.refusals: deque[str] = deque()
        self.host, self.port = "127.0.0.1", 0

    async def handle_DATA(self, server: Any, session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's
        if self.refusals:
            return self.refusals.popleft()
        assert isinstance(envelope.content, bytes)
        self.messages.append(message_from_bytes(envelope.content, policy=default))
        self.recipients.append(list(envelope.rcpt_tos))
        return "250 taken"

    async def handle_RCPT(  # noqa: N802
        self, server: Any, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("gone"):
            return "550 no such person"
        envelope.rcpt_tos.append(address)
        return "250 fine"

    def authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append((data.login, data.password))
        return AuthResult(success=data.password == b"right", handled=False)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    folder = tmp_path_factory.mktemp("smtp")
    made, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", made],
        check=True, capture_output=True,
    )  # fmt: skip
    return made, key


def _serving(mailbox: Mailbox, **options: Any) -> Iterator[Mailbox]:
    controller = Controller(mailbox, hostname="127.0.0.1", port=free_ports(1)[0], **options)
    logging.getLogger("mail.log").setLevel(logging.WARNING)  # the server's own words are not what is tested
    controller.start()
    mailbox.port = controller.port
    try:
        yield mailbox
    finally:
        controller.stop()


@pytest.fixture
def smtp_sink() -> Iterator[Mailbox]:
    yield from _serving(Mailbox())


@pytest.fixture
def starttls_sink(certificate: tuple[Path, Path]) -> Iterator[Mailbox]:
    context, mailbox = SSLContext(PROTOCOL_TLS_SERVER), Mailbox()
    context.load_cert_chain(*certificate)
    yield from _serving(
        mailbox,
        tls_context=context,
        require_starttls=True,
        authenticator=mailbox.authenticate,
        auth_required=True,
    )


async def until(condition: Callable[[], object]) -> None:
    """Wait for what other threads and sockets bring about."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - nothing to be told by
            await asyncio.sleep(0.005)
