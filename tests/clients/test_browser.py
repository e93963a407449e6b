"""The console as people have it: a real browser, a real server, the link out of a real email."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import oidc_provider_mock
import pytest
from cryptography import x509
from playwright.sync_api import Browser

from tests.clients.browser import CHROMIUM, PHONE, Person, chromium
from tests.clients.lab import ADDRESS, Lab, fresh_name, wait_for
from tests.clients.server import Certloom
from tests.notifications.receivers import Mailbox, smtp

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed")

PASSWORD = "a long enough password"
SCRIPT = "<script>window.ran = 1</script>"
HOSTILE = (
    f'"\'><img src=x onerror="window.ran=1"><svg onload=alert(1)>{SCRIPT}<style>*{{display:none}}</style>'
    "</textarea></q></title><a href='javascript:window.ran=1'>press</a>{{7*7}}"
)
"""Markup that would run or load something, or hide all there is, were it not shown as text."""


@dataclass
class Office:
    """A server, its people, and their mail."""

    server: Certloom
    box: Mailbox
    browser: Browser
    tokens: dict[str, str] = field(default_factory=dict)
    open: list[Person] = field(default_factory=list)

    @property
    def origin(self) -> str:
        return f"https://{ADDRESS}:{self.server.https_port}"

    def hire(self, name: str, *roles: str, display: str = "") -> None:
        """An account with a password; and a token of theirs, to ask with."""
        grants = [{"role": role} for role in roles]
        account = {"name": name, "display": display or name.title(), "email": f"{name}@example.com"}
        id = self.server.local("POST", "/people", {**account, "grants": grants})["id"]
        code = self.server.local("POST", f"/people/{id}/setup")["code"]
        self.server.local("POST", "/setup", {"code": code, "password": PASSWORD})
        token = {"kind": "api-token", "person": id, "grants": grants}
        self.tokens[name] = self.server.local("POST", "/credentials", token)["secret"]

    def ask(self, profile: str, *names: str, by: str = "alice", **more: Any) -> str:
        """Ask for a certificate; the id of the approval that it waits for."""
        wanted = {"profile": profile, "names": names, "key": {"algorithm": "P-256"}, **more}
        status, answer = self.server.ask(self.tokens[by], "POST", "/requests", wanted)
        assert status == 202, answer
        id: str = answer["approval"]
        return id

    def approval(self, id: str) -> Any:
        return self.server.local("GET", f"/approvals/{id}")

    def link(self, id: str, to: str) -> str:
        """The link in the email that asks somebody to decide."""

        def links() -> list[str]:
            return [
                found[0]
                for letter in list(self.box.letters)
                if (text := letter.get_body(("plain",))) is not None
                and letter["to"] is not None
                and f"{to}@example.com" in letter["to"]
                and (found := re.search(rf"https://\S+/{id}", text.get_content()))
            ]

        wait_for(f"the email to {to}", lambda: bool(links()))
        return links()[-1]

    def at_browser(self, **how: Any) -> Person:
        """Somebody sits down."""
        person = Person(self.browser, self.origin, **how)
        self.open.append(person)
        return person

    def leave(self) -> None:
        """Everybody closes their browser; nothing went wrong in any."""
        while self.open:
            self.open.pop().close()


_PROFILE: dict[str, Any] = {
    "keys": [{"type": "ec"}],
    "extended_key_usage": ["clientAuth"],
    "names": {"types": ["dns", "uri"], "wildcards": True},
    "validity": {"default": "30d", "max": "60d", "backdate": "1h"},
    "server_keys": {"algorithms": ["P-256"]},
    "lint": {"mode": "off"},
}


def _profile(name: str, authority: str, **approval: Any) -> dict[str, Any]:
    return {**_PROFILE, "name": name, "authority": authority, "approval": approval}


def lasts(certificate: Any) -> timedelta:
    """How long a certificate is valid, to the hour."""
    start, end = (datetime.fromisoformat(certificate[key]) for key in ("not_before", "not_after"))
    return timedelta(hours=round((end - start) / timedelta(hours=1)))


@pytest.fixture(scope="module")
def whole_office(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    folder = tmp_path_factory.mktemp("browser")
    secret = folder / "client-secret"
    secret.write_text("s3cret")
    olga = oidc_provider_mock.User(
        sub="7", claims={"preferred_username": "olga", "name": "Olga", "groups": ["pki"]}
    )
    with smtp() as box, oidc_provider_mock.run_server_in_thread(user_claims=[olga]) as provider:
        sections: dict[str, Any] = {
            "mail": {"host": "127.0.0.1", "port": box.port, "security": "none", "sender": "pki@example.com"},
            "oidc": {
                "issuer": f"http://localhost:{provider.server_port}",
                "client_id": "certloom",
                "client_secret_file": str(secret),
                "create_people": True,
            },
            "oidc.roles": {"pki": ["approver"]},
            # The lab's names lead to the lab; the provider is elsewhere.
            "validation": {"resolvers": []},
            "outbound": {"allow_addresses": ["127.0.0.0/8", "::1/128"]},
        }
        server = Certloom(folder, lab, **sections)
        with server:
            authority = server.local("GET", "/profiles/tls-server")["profile"]["authority"]
            profiles = [
                _profile("plain", authority, approvers=1),
                _profile(
                    "staged",
                    authority,
                    stages=[{"role": "approver"}, {"role": "security"}],
                    may_change=["validity"],
                ),
                _profile("loose", authority, approvers=1, may_change=["validity", "names"]),
            ]
            server.local("POST", "/declarations", {"document": {"profiles": profiles}})
            warning = {"when": "true", "effect": "warn", "message": "for <b>tests</b> only"}
            server.local("PUT", "/rules/caution", {**warning, "profiles": ["staged", "loose"]})
            decides = {"permissions": ["approval.read", "approval.decide"]}
            server.local("PUT", "/roles/security", decides)
            presented = x509.load_der_x509_certificate(server.https_certificate())
            with chromium(presented) as browser:
                office = Office(server, box, browser)
                office.hire("alice", "requester", "approver")
                office.hire("bob", "approver")
                office.hire("carol", "security")
                yield office


@pytest.fixture
def office(whole_office: Office) -> Iterator[Office]:
    yield whole_office
    whole_office.leave()


@pytest.fixture
def someone(office: Office) -> Callable[..., Person]:
    """Somebody who has logged in to look at something."""

    def someone(name: str, where: str = "/console/approvals", **how: Any) -> Person:
        person = office.at_browser(**how)
        person.open(where)
        assert person.path == "/console/login"
        person.login(name, PASSWORD)
        assert person.path == where.removeprefix(office.origin)
        return person

    return someone


def test_two_people_agree_in_two_stages_from_the_links_in_their_email(
    office: Office, someone: Callable[..., Person]
) -> None:
    name = fresh_name()
    id = office.ask("staged", name, f"also.{name}", comment="for the new shop", lifetime=864_000)
    bob = someone("bob", office.link(id, "bob"))
    shown = bob.text()
    for part in (
        name,
        f"also.{name}",
        "Alice",
        "staged, version 1",
        "10d",
        "for the new shop",
        "Warning: for <b>tests</b> only rule caution@1",
        "1 with the role approver: now",
        "1 with the role security",
        "Nobody has decided yet.",
    ):
        assert part in shown, part
    assert office.approval(id)["state"] == "waiting", "to look at it decides nothing"
    bob.page.get_by_label("Valid for").fill("2d")
    bob.page.get_by_label("Reason").fill("ticket 4711")
    bob.press("Approve")
    assert bob.page.get_by_role("status").inner_text() == "Your decision is recorded."
    assert "Waits for people, stage 2 of 2" in bob.text()
    assert bob.page.get_by_role("button", name="Approve").count() == 0

    carol = someone("carol", office.link(id, "carol"))
    changed = carol.page.get_by_role("region", name="Changed by approvers").inner_text()
    assert "Bob" in changed
    assert [carol.page.locator(tag).inner_text() for tag in ("del", "ins")] == ["10d", "2d"]
    assert "ticket 4711" in carol.page.get_by_role("region", name="Decisions").inner_text()
    carol.press("Approve")
    assert "Approved; the same can be asked for again until" in carol.text()

    bob.page.reload()
    assert "Approved" in bob.text()
    wait_for("the certificate", lambda: office.server.count_certificates(name) == 1)
    (request,) = office.server.local("GET", f"/requests?approval={id}")["items"]
    certificate = office.server.local("GET", f"/certificates/{request['certificate']}")
    assert lasts(certificate) == timedelta(days=2)


def test_who_denies_has_to_say_why(office: Office, someone: Callable[..., Person]) -> None:
    id = office.ask("loose", fresh_name())
    bob = someone("bob", office.link(id, "bob"))
    bob.page.get_by_label("Valid for").fill("12h")
    bob.press("Deny")
    assert "say why not" in bob.problem()
    assert bob.page.get_by_label("Valid for").input_value() == "12h", "what was typed is kept"
    assert office.approval(id)["state"] == "waiting"
    bob.page.get_by_label("Reason").fill("not before\nthe audit")
    bob.press("Deny")
    assert "Denied." in bob.text()
    assert "Bob denied it: not before\nthe audit" in bob.text()
    assert bob.page.get_by_role("button", name="Deny").count() == 0
    assert office.approval(id)["state"] == "denied"


def test_validity_is_changed_within_the_profile_or_not_at_all(
    office: Office, someone: Callable[..., Person]
) -> None:
    id = office.ask("plain", fresh_name())
    bob = someone("bob", f"/console/approvals/{id}")
    assert bob.page.get_by_label("Valid for").count() == 0
    id = office.ask("staged", fresh_name())
    bob.open(f"/console/approvals/{id}")
    assert bob.page.get_by_label("Names, one on each line").count() == 0
    for wanted in ("1000d", "soon", "-1d", HOSTILE[:40]):
        bob.page.get_by_label("Valid for").fill(wanted)
        bob.press("Approve")
        assert bob.page.get_by_role("alert").count() == 1, wanted
        assert bob.page.get_by_label("Valid for").input_value() == wanted
    assert office.approval(id)["decisions"] == []


def test_nobody_approves_what_they_asked_for(office: Office, someone: Callable[..., Person]) -> None:
    id = office.ask("plain", fresh_name())
    alice = someone("alice", f"/console/approvals/{id}")
    assert "somebody else has to decide" in alice.text()
    assert alice.page.get_by_role("button").all_inner_texts() == ["Log out"]
    alice.open("/console/approvals")
    assert id not in alice.page.content()


def test_after_logging_out_there_is_no_way_back(office: Office, someone: Callable[..., Person]) -> None:
    name = fresh_name()
    where = f"/console/approvals/{office.ask('plain', name)}"
    bob = someone("bob")
    bob.open(where)
    assert name in bob.text()
    bob.press("Log out")
    assert bob.path == "/console/login"
    # Back to the approval, to the list, to the login.
    for _ in range(3):
        bob.back()
        assert bob.path == "/console/login"
        assert name not in bob.page.content()
        assert bob.page.get_by_text("Bob", exact=True).count() == 0
    bob.open(where)
    assert bob.path == "/console/login"


def test_what_strangers_write_is_shown_and_does_nothing(
    office: Office, someone: Callable[..., Person]
) -> None:
    if "mallory" not in office.tokens:
        office.hire("mallory", "requester", "approver", display=f"M {HOSTILE}"[:200])
    name = fresh_name()
    uri = "uri:https://example.com/x?a=javascript:alert(1)&b='-alert(1)-'&lt;"
    id = office.ask("loose", name, uri, by="mallory", comment=f"{HOSTILE} \u202egnp.exe\u200b {HOSTILE}")
    denied = office.ask("loose", name, by="mallory")
    body = {"decision": "deny", "reason": HOSTILE}
    assert office.server.ask(office.tokens["bob"], "POST", f"/approvals/{denied}/decisions", body)[0] == 200

    bob = office.at_browser()
    bob.open(f"/console/login?next=/console/approvals/{HOSTILE}")
    bob.login(HOSTILE, "not that either")
    assert bob.page.get_by_role("alert").count() == 1
    assert bob.page.get_by_label("Name").input_value() == HOSTILE
    bob.open(f"/console/login?next=javascript:alert(1)//{HOSTILE}")
    bob.login("bob", PASSWORD)
    assert bob.path == "/console/approvals"
    bob.open(f"/console/approvals/{id}")
    shown = bob.text()
    for part in (uri.removeprefix("dns:"), f"M {HOSTILE}"[:200], "\ufffdgnp.exe\ufffd"):
        assert part in shown, part
    assert shown.count(SCRIPT) >= 2
    past = bob.page.get_by_role("region", name="Decided before for this requester").inner_text()
    assert HOSTILE in past
    bob.page.get_by_label("Reason").fill(HOSTILE)
    bob.page.get_by_label("Names, one on each line").fill(HOSTILE)
    bob.press("Approve")
    assert bob.page.get_by_label("Reason").input_value() == HOSTILE
    assert bob.page.get_by_label("Names, one on each line").input_value() == HOSTILE
    assert SCRIPT in bob.problem()
    for path in (f"/console/approvals/{HOSTILE}", f"/console/{HOSTILE}", f"/console/approvals/{denied}"):
        bob.open(path)
        assert bob.page.locator("img, svg, main script, main style").count() == 0
        assert bob.page.locator("a[href^=javascript]").count() == 0
        assert bob.page.evaluate("window.ran") is None
    assert {url for url in bob.fetched if "/console/" not in url} == set()
    assert bob.wrong == []
    # Were markup let through, it would still not run; and it would not pass unseen here.
    bob.page.evaluate(
        "s => { const e = document.createElement('script'); e.textContent = 'window.ran = 1';"
        " document.body.append(e); }",
        SCRIPT,
    )
    assert bob.page.evaluate("window.ran") is None
    assert any("Content Security Policy" in complaint for complaint in bob.wrong)
    bob.wrong.clear()


def test_it_works_on_a_phone(office: Office, someone: Callable[..., Person]) -> None:
    long = f"{'a' * 63}.{'b' * 63}.{fresh_name()}"
    where = f"/console/approvals/{office.ask('loose', long, f'*.{long}', comment='x' * 1000)}"
    bob = office.at_browser(size=PHONE)
    bob.open(where)
    bob.assert_fit()
    bob.login("bob", "not it")
    bob.assert_fit()
    bob.login("bob", PASSWORD)
    bob.assert_fit()
    bob.open("/console/approvals")
    bob.assert_fit()
    with bob.page.expect_navigation():
        bob.page.get_by_role("link", name=long).first.click()
    bob.press("Deny")
    bob.assert_fit()
    bob.page.get_by_label("Reason").fill("y" * 2000)
    bob.press("Deny")
    bob.assert_fit()
    assert "Denied." in bob.text()
    bob.open("/console/none")
    bob.assert_fit()


def test_it_works_with_a_keyboard_alone(office: Office) -> None:
    id = office.ask("loose", fresh_name())
    bob = office.at_browser()
    bob.open(f"/console/approvals/{id}")
    bob.assert_fit()
    keyboard = bob.page.keyboard

    def reach(*names: str) -> None:
        assert [bob.tab() for _ in names] == list(names)

    reach("Skip to the contents", "Log in with localhost", "Name")
    keyboard.type("bob")
    reach("Password")
    keyboard.type(PASSWORD)
    with bob.page.expect_navigation():
        keyboard.press("Enter")
    assert bob.path == f"/console/approvals/{id}"
    bob.assert_fit()
    reach("Skip to the contents")
    keyboard.press("Enter")
    validity = "Valid for (such as 90d or 12h; empty for what the profile says)"
    reach(validity)
    keyboard.type("3d")
    # Enter in a field must not decide anything: it says neither yes nor no.
    keyboard.press("Enter")
    bob.page.wait_for_timeout(300)
    assert office.approval(id)["state"] == "waiting"
    assert bob.page.get_by_label("Valid for").input_value() == "3d"
    reach("Names, one on each line", "Reason (needed to deny)")
    keyboard.type("seen by keyboard")
    reach("Approve", "Deny")
    keyboard.press("Shift+Tab")
    with bob.page.expect_navigation():
        keyboard.press("Space")
    assert "Approved" in bob.text()
    assert office.approval(id)["state"] == "granted"
    reach("Skip to the contents", "Approvals", "Log out")
    with bob.page.expect_navigation():
        keyboard.press("Enter")
    assert bob.path == "/console/login"


def test_through_the_identity_provider(office: Office) -> None:
    name = fresh_name()
    where = f"/console/approvals/{office.ask('plain', name)}"
    olga = office.at_browser()
    olga.open(where)
    with olga.page.expect_navigation():
        olga.page.get_by_role("link", name=re.compile("^Log in with ")).click()
    assert olga.page.url.startswith("http://localhost:")
    olga.page.locator("input[name=sub]").first.fill("7")
    olga.page.get_by_role("button").first.click()
    olga.page.wait_for_url(f"{office.origin}/**")
    assert olga.path == where
    assert "Olga" in olga.text()
    assert name in olga.text()
    olga.press("Approve")
    assert "Approved" in olga.text()
