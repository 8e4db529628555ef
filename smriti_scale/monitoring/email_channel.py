"""Alerts by e-mail, over SMTP (smtplib, in a thread)."""

from __future__ import annotations

import smtplib
import socket
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid, parseaddr
from typing import Literal

from pydantic import SecretStr

from smriti_scale.errors import AlertNotDelivered, ConfigurationError
from smriti_scale.monitoring.alert_state import Notice
from smriti_scale.monitoring.channels import details, headline
from smriti_scale.monitoring.off_loop import off_loop


class Email:
    """Sends plain text to some addresses. Notices of one alert are one thread in a mail reader.

    Args:
        host: the SMTP server.
        sender: the From address.
        recipients: the To addresses.
        port: 587 for `starttls`, 465 for `tls`, 25 for `none`, unless given.
        security: `starttls` and `tls` verify the server's certificate; `none` is for a relay on this machine.
        username: for the server; None: it asks for none.
        password: for the server. Never sent without encryption.
        tls: a context, for instance to trust a private authority.
        timeout: seconds for each step with the server.

    Raises:
        ConfigurationError: no sender or recipients, or a password without encryption.
    """

    def __init__(
        self,
        host: str,
        *,
        sender: str,
        recipients: Sequence[str],
        port: int | None = None,
        security: Literal["starttls", "tls", "none"] = "starttls",
        username: str | None = None,
        password: str | SecretStr | None = None,
        tls: ssl.SSLContext | None = None,
        timeout: float = 10.0,
    ) -> None:
        user, _, self._domain = parseaddr(sender)[1].rpartition("@")
        if not user or not self._domain or not recipients or isinstance(recipients, str):
            raise ConfigurationError("e-mail needs a sender with an address, and a list of recipients")
        if security == "none" and password is not None:
            raise ConfigurationError("a password is not sent without encryption: security='starttls' or 'tls'")
        self.name = f"email {host}"
        self._host = host
        self._port = port or {"starttls": 587, "tls": 465, "none": 25}[security]
        self._security = security
        self._sender = sender
        self._recipients = tuple(recipients)
        self._username = username
        self._password = password.get_secret_value() if isinstance(password, SecretStr) else password
        self._tls = tls
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"<Email {self._host}:{self._port} {self._security}>"

    async def send(self, notice: Notice) -> None:
        message = self._message(notice)
        await off_loop(lambda: self._deliver(message), name=self.name)

    def _message(self, notice: Notice) -> EmailMessage:
        message = EmailMessage()
        message["Subject"] = headline(notice)
        message["From"] = self._sender
        message["To"] = ", ".join(self._recipients)
        message["Date"] = format_datetime(datetime.fromtimestamp(notice.at, UTC))
        message["Message-ID"] = make_msgid(domain=self._domain)
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers, please
        # One made-up parent for all notices of an alert: mail readers thread by it.
        parent = "".join(letter if letter.isalnum() else "." for letter in notice.alert.key)
        message["References"] = f"<{parent}.{notice.alert.since:.0f}@{self._domain}>"
        message.set_content(details(notice) + "\n")
        return message

    def _deliver(self, message: EmailMessage) -> None:
        try:
            with self._connected() as server:
                refused = server.send_message(message)
        except smtplib.SMTPRecipientsRefused as error:
            codes = sorted({code for code, _ in error.recipients.values()})
            raise AlertNotDelivered(f"all recipients refused: {codes}", permanent=min(codes) >= 500) from None
        except smtplib.SMTPResponseException as error:
            raise AlertNotDelivered(
                f"{type(error).__name__} {error.smtp_code}", permanent=error.smtp_code >= 500
            ) from None
        except smtplib.SMTPNotSupportedError:
            raise AlertNotDelivered("the server offers no STARTTLS, or no login", permanent=True) from None
        except ssl.SSLCertVerificationError:
            raise AlertNotDelivered("the server's certificate is not trusted", permanent=True) from None
        except (smtplib.SMTPException, OSError) as error:
            raise AlertNotDelivered(type(error).__name__) from None
        if refused:  # the others have it: sending again would send it to them twice
            raise AlertNotDelivered(f"{len(refused)} of {len(self._recipients)} recipients refused", permanent=True)

    def _connected(self) -> smtplib.SMTP:
        host_name = socket.gethostname()  # smtplib would ask the DNS for a full one
        if self._security == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                self._host, self._port, host_name, timeout=self._timeout, context=self._context()
            )
        else:
            server = smtplib.SMTP(self._host, self._port, host_name, timeout=self._timeout)
        try:
            if self._security == "starttls":
                server.starttls(context=self._context())
            if self._username is not None:
                server.login(self._username, self._password or "")
        except BaseException:
            server.close()
            raise
        return server

    def _context(self) -> ssl.SSLContext:
        return self._tls or ssl.create_default_context()
