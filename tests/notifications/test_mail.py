"""Email, handed to a real SMTP server."""

from __future__ import annotations

import socket
from email.headerregistry import Address
from pathlib import Path

import pytest

from certloom.notifications.mail import Letter, Mailer, MailFailed, compose
from certloom.settings.schema import Mail
from tests.conftest import run
from tests.notifications.receivers import PASSWORD, USER, certificate, smtp

LETTER = Letter("bob@example.com", "Bob", "Please decide", "line one\nline two\n", "<p>line</p>\n")
SENDER = Address(addr_spec="pki@example.com")


def settings(port: int, **more: object) -> Mail:
    values: dict[str, object] = {
        "host": "127.0.0.1",
        "port": port,
        "security": "none",
        "sender": "pki@example.com",
    }
    return Mail(**(values | more))  # type: ignore[arg-type]


def send(mail: Mail, letter: Letter = LETTER, id: str = "msg_1") -> None:
    mailer = Mailer(mail)
    try:
        run(mailer.send(letter, id, 1_800_000_000))
    finally:
        mailer.close()


def test_a_letter_arrives_as_text_and_html_and_says_that_a_machine_wrote_it() -> None:
    with smtp() as box:
        send(settings(box.port))
    (letter,) = box.letters
    assert box.recipients == ["bob@example.com"]
    assert letter["To"] == "Bob <bob@example.com>"
    assert letter["From"] == "Certloom <pki@example.com>"
    assert letter["Message-ID"] == "<msg_1@example.com>"
    assert letter["Auto-Submitted"] == "auto-generated"
    assert letter["Date"] == "Fri, 15 Jan 2027 08:00:00 +0000"
    text, html = letter.get_body(("plain",)), letter.get_body(("html",))
    assert text is not None
    assert html is not None
    assert text.get_content().replace("\r\n", "\n") == LETTER.text
    assert "<p>line</p>" in html.get_content()


def test_a_repeat_has_the_same_message_id() -> None:
    with smtp() as box:
        send(settings(box.port))
        send(settings(box.port))
    assert len({letter["Message-ID"] for letter in box.letters}) == 1


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_tls_and_a_password(tmp_path: Path, security: str) -> None:
    chain, key = certificate(tmp_path, "mail.test")
    secret = tmp_path / "password"
    secret.write_text(PASSWORD + "\n")
    with smtp((chain, key), tls=security, auth=True) as box:
        send(
            settings(box.port, security=security, roots=str(chain), username=USER, password_file=str(secret))
        )
    assert box.encrypted == [True]
    assert box.users == [USER]


def test_a_wrong_password_can_be_put_right_and_is_not_repeated_in_the_error(tmp_path: Path) -> None:
    chain, key = certificate(tmp_path, "mail.test")
    secret = tmp_path / "password"
    secret.write_text("wrong-secret")
    with smtp((chain, key), auth=True) as box:
        mail = settings(
            box.port, security="starttls", roots=str(chain), username=USER, password_file=str(secret)
        )
        with pytest.raises(MailFailed, match="refused the login") as caught:
            send(mail)
    assert not caught.value.final
    assert "wrong-secret" not in str(caught.value)
    assert box.letters == []


def test_a_server_of_another_name_or_of_unknown_make_gets_nothing(tmp_path: Path) -> None:
    right = certificate(tmp_path / "right", "mail.test")
    other = certificate(tmp_path / "other")
    for offered, trusted in ((right, ""), (other, str(other[0])), (right, str(other[0]))):
        with smtp(offered) as box:
            with pytest.raises(MailFailed, match="certificate"):
                send(settings(box.port, security="starttls", roots=trusted))
            assert box.letters == []


def test_a_server_without_starttls_is_not_spoken_to_in_the_clear() -> None:
    with smtp() as box:
        with pytest.raises(MailFailed, match="STARTTLS"):
            send(settings(box.port, security="starttls"))
        assert box.letters == []


def test_what_may_pass_is_told_from_what_will_not() -> None:
    with smtp() as box:
        box.answers = ["451 try later", "554 never"]
        box.refused_recipients = {"gone@example.com": "550 no such user", "full@example.com": "452 full"}
        for letter, final, status in (
            (LETTER, False, 451),
            (LETTER, True, 554),
            (Letter("gone@example.com", "", "s", "t", "h"), True, 550),
            (Letter("full@example.com", "", "s", "t", "h"), False, 452),
        ):
            with pytest.raises(MailFailed) as caught:
                send(settings(box.port), letter)
            assert (caught.value.final, caught.value.status) == (final, status)


def test_nobody_listening_may_pass() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(MailFailed) as caught:
            send(settings(unused.getsockname()[1]))
    assert not caught.value.final


@pytest.mark.parametrize(
    "subject",
    [
        "x\r\nBcc: eve@example.com",
        "x\nBcc: eve@example.com",
        "x\rBcc: e",
        "x\u2028Bcc: e",
        "x\0y",
        "\x0b\x0cBcc: e",
    ],
)
def test_a_subject_or_a_name_cannot_become_another_header(subject: str) -> None:
    with smtp() as box:
        send(settings(box.port), Letter("bob@example.com", subject, subject, "t", "h"))
    (letter,) = box.letters
    assert "Bcc" not in letter
    assert box.recipients == ["bob@example.com"]


@pytest.mark.parametrize(
    "address", ["", "bob", "bob@example.com\r\nBcc: eve@example.com", "a@b, c@d", "<script>@", "bob@exa mple"]
)
def test_a_bad_address_is_final_and_reaches_no_server(address: str) -> None:
    with pytest.raises(MailFailed) as caught:
        compose(Letter(address, "Bob", "s", "t", "h"), SENDER, "msg_1", 0)
    assert caught.value.final


def test_a_mailer_that_cannot_work_is_refused_at_the_start(tmp_path: Path) -> None:
    for bad, why in (
        (settings(25, sender="not an address"), "sender"),
        (settings(25, roots=str(tmp_path / "none")), "roots"),
        (settings(25, security="tls", username="u", password_file=str(tmp_path / "none")), "password_file"),
        (settings(25, username="u", password_file=str(tmp_path / "none")), "without TLS"),
    ):
        with pytest.raises(ValueError, match=why):
            Mailer(bad)
