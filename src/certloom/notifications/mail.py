"""Email, by SMTP (RFC 5321): composing letters and handing them to the mail server.

A letter's Message-ID comes from the notice's id, so a letter that is sent again after a crash is one that
mail systems can tell for a repeat. ``Auto-Submitted`` keeps machines from answering (RFC 3834 section 5).
"""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.errors import HeaderParseError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from pathlib import Path

import msgspec

from certloom.settings.schema import Mail

_STEP_SECONDS = 20.0
"""The longest that one step of the dialogue with the server may take."""
_SUBJECT_LENGTH = 200
_CONCURRENCY = 2


class Letter(msgspec.Struct, frozen=True):
    """One email as it is kept until it has been sent."""

    to: str
    """The address alone."""
    name: str
    """The recipient's name, for people's eyes."""
    subject: str
    text: str
    html: str


class MailFailed(Exception):
    """The letter was not taken. ``final`` when no repeat will change that."""

    def __init__(self, message: str, status: int | None = None, *, final: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.final = final


class Mailer:
    """Hands letters to one mail server. One per process; ``close`` when done."""

    def __init__(self, settings: Mail) -> None:
        """Reads the password file and the trust anchors. Raises ``ValueError``, fit for an operator."""
        self._settings = settings
        self._password = _password(settings)
        self._tls = _tls(settings)
        try:
            self._sender = Address(addr_spec=settings.sender)
        except (ValueError, HeaderParseError, IndexError) as error:
            raise ValueError(f"mail.sender {settings.sender!r} is no email address: {error}") from None
        self._threads = ThreadPoolExecutor(_CONCURRENCY, thread_name_prefix="mail")

    async def send(self, letter: Letter, id: str, now: int) -> None:
        """Hand a letter over; return when the server has taken it. Raises ``MailFailed``.

        ``id`` becomes its Message-ID, ``now`` (Unix seconds) its date.
        """
        message = compose(letter, self._sender, id, now)
        opened: list[smtplib.SMTP] = []
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._hand_over, message, opened)
        finally:
            # Where this was cancelled the thread is still at it; without a socket it comes to its end.
            for server in opened:
                server.close()

    def _hand_over(self, message: EmailMessage, opened: list[smtplib.SMTP]) -> None:
        try:
            with self._connect(opened) as server:
                if self._settings.security == "starttls":
                    server.starttls(context=self._tls)
                if self._settings.username:
                    server.login(self._settings.username, self._password)
                server.send_message(message)
        except smtplib.SMTPRecipientsRefused as error:
            status, text = next(iter(error.recipients.values()))
            raise _refused("the recipient", status, text, final=status >= 500) from None
        except smtplib.SMTPAuthenticationError as error:
            # Somebody will put the password right; what the server said might repeat the name.
            raise _refused("the login", error.smtp_code, b"") from None
        except smtplib.SMTPSenderRefused as error:
            raise _refused("the sender", error.smtp_code, error.smtp_error) from None
        except smtplib.SMTPResponseException as error:
            final = isinstance(error, smtplib.SMTPDataError) and error.smtp_code >= 500
            raise _refused("the email", error.smtp_code, error.smtp_error, final=final) from None
        except smtplib.SMTPNotSupportedError as error:
            raise MailFailed(f"the mail server cannot do what is needed: {error}") from None
        except (smtplib.SMTPException, OSError, ValueError) as error:
            raise MailFailed(
                f"the mail server cannot be used: {type(error).__name__}: {error}"[:500]
            ) from None

    def _connect(self, opened: list[smtplib.SMTP]) -> smtplib.SMTP:
        settings = self._settings
        server = (
            smtplib.SMTP_SSL(settings.host, settings.port, timeout=_STEP_SECONDS, context=self._tls)
            if settings.security == "tls"
            else smtplib.SMTP(settings.host, settings.port, timeout=_STEP_SECONDS)
        )
        opened.append(server)
        return server

    def close(self) -> None:
        """Begin nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def compose(letter: Letter, sender: Address, id: str, now: int) -> EmailMessage:
    """A letter as RFC 5322 and MIME have it, as text and as HTML. Raises ``MailFailed`` for a bad address."""
    message = EmailMessage(policy=SMTP)
    try:
        message["To"] = Address(display_name=_one_line(letter.name, 100), addr_spec=letter.to)
    except (ValueError, HeaderParseError, IndexError) as error:
        raise MailFailed(f"{letter.to!r} is no email address: {error}", final=True) from None
    message["From"] = Address("Certloom", addr_spec=sender.addr_spec)
    message["Subject"] = _one_line(letter.subject, _SUBJECT_LENGTH)
    message["Date"] = format_datetime(datetime.fromtimestamp(now, UTC))
    message["Message-ID"] = f"<{id}@{sender.domain}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(letter.text)
    message.add_alternative(letter.html, subtype="html")
    return message


def _one_line(text: str, most: int) -> str:
    """Text for a header: what breaks lines, or is invisible, becomes a space."""
    shown = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def _refused(what: str, status: int, text: bytes | str, *, final: bool = False) -> MailFailed:
    said = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    why = f": {_one_line(said, 300)}" if said else ""
    return MailFailed(f"the mail server refused {what} ({status}){why}", status, final=final)


def _password(settings: Mail) -> str:
    if not settings.username:
        return ""
    if settings.security == "none":
        raise ValueError("mail.username: a password is not sent without TLS; set mail.security")
    try:
        return Path(settings.password_file).read_text("utf-8").strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"mail.password_file {settings.password_file!r}: {_why(error)}") from None


def _tls(settings: Mail) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=settings.roots or None)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"mail.roots {settings.roots!r}: {_why(error)}") from None


def _why(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
