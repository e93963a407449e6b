"""The console over a real server: real sockets, TLS, cookies; forms, and what must not work."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import oidc_provider_mock
import pytest

from certloom.audit import SYSTEM
from certloom.clock import SystemClock
from certloom.identity.people import People, Terms
from certloom.identity.principals import Grant
from certloom.policy.decisions import Requester
from certloom.policy.profiles import encode_profile
from certloom.server.app import Application, build
from certloom.settings import Settings
from certloom.settings.schema import API, OIDC, Database, Listen, Logging, Outbound
from certloom.store import approvals, configuration
from certloom.store.base import Tx
from tests.enrollment.people import profile
from tests.enrollment.test_pipeline import ask, csr
from tests.identity.making import ROOT
from tests.server.listening import Client, run

PASSWORD = "a long enough password"
STRICT = "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"


class Reply:
    """An answer, with every Set-Cookie."""

    def __init__(self, status: int, headers: list[tuple[str, str]], body: str) -> None:
        self.status = status
        self.headers = dict(headers)
        self.cookies = [value for name, value in headers if name == "set-cookie"]
        self.body = body

    def field(self, name: str) -> str:
        found = re.search(rf'name="{name}" value="([^"]*)"', self.body)
        assert found is not None, self.body
        return unescape(found[1])


class Browser:
    """Keeps cookies, says where its requests come from, and follows nothing by itself."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.cookies: dict[str, str] = {}

    async def get(self, path: str, **headers: str) -> Reply:
        return await self._ask("GET", path, b"", headers)

    async def post(self, path: str, fields: dict[str, str], **headers: str) -> Reply:
        sent = {"origin": self.site.origin, "sec-fetch-site": "same-origin"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        sent = {"content-type": "application/x-www-form-urlencoded"} | {k: v for k, v in sent.items() if v}
        return await self._ask("POST", path, urlencode(fields).encode(), sent)

    async def _ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Reply:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.site.port, ssl=self.site.tls)
        lines = [f"{method} {path} HTTP/1.1", f"Host: localhost:{self.site.port}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if self.cookies:
            lines.append("Cookie: " + "; ".join(f"{k}={v}" for k, v in self.cookies.items()))
        if body:
            lines.append(f"Content-Length: {len(body)}")
        client = Client(reader, writer)
        await client.send("\r\n".join([*lines, "", ""]).encode() + body)
        head, _, rest = (await client.closed()).partition(b"\r\n\r\n")
        status, *fields = head.decode("latin-1").split("\r\n")
        pairs = [(name.lower(), value) for name, _, value in (f.partition(": ") for f in fields)]
        reply = Reply(int(status.split(" ")[1]), pairs, rest.decode())
        for cookie in reply.cookies:
            name, _, value = cookie.partition(";")[0].partition("=")
            if "Max-Age=0" in cookie:
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = value
        return reply

    async def login(self, name: str, password: str = PASSWORD, next: str = "") -> Reply:
        page = await self.get(f"/console/login?next={quote(next, safe='')}")
        fields = {
            "token": page.field("token"),
            "next": page.field("next"),
            "name": name,
            "password": password,
        }
        return await self.post("/console/login", fields)


class Site:
    """A running server with people and something that waits."""

    def __init__(self, application: Application) -> None:
        self.application = application
        self.port: int = application.sockets["https"].getsockname()[1]
        self.origin = application.rooms.origins.https
        self.tls = ssl.create_default_context(cafile=str(application.rooms.data_dir.root_pem))
        self.tls.check_hostname = False

    def browser(self) -> Browser:
        return Browser(self)

    async def person(self, name: str, *roles: str) -> str:
        rooms = self.application.rooms
        hashed = await rooms.logins.hash(PASSWORD, name=name)

        def unit(tx: Tx) -> str:
            people = People(rooms.clock)
            grants = tuple(Grant(role=role) for role in roles)
            made = people.create(tx, ROOT, name, Terms(grants=grants, display=name.title()), SYSTEM)
            people.set_password(tx, ROOT, made, hashed, SYSTEM)
            return made.id

        return await rooms.store.write(unit)

    async def waits(self, owner: str = "somebody", name: str = "www.example.com", **more: Any) -> str:
        wanted = ask(
            csr(name),
            protocol="rest",
            channel="api",
            profile="asked",
            requester=Requester("person", owner, owner, "web"),
            idempotency_key=None,
            **more,
        )
        id = (await self.application.rooms.enrollment.submit(wanted)).approval_id
        assert id is not None
        return id

    async def approval(self, id: str) -> approvals.StoredApproval:
        found = await self.application.rooms.store.read(lambda tx: approvals.get(tx, id))
        assert found is not None
        return found


@contextlib.asynccontextmanager
async def serving(
    folder: Path, url: str = "", oidc: OIDC | None = None, **approval: Any
) -> AsyncIterator[Site]:
    settings = Settings(
        data_dir=str(folder / "data"),
        public_http_url="http://pki.test",
        listen=Listen(https="127.0.0.1:0", http=""),
        logging=Logging(level="error"),
        database=Database(url=url),
        api=API(failures_per_minute=5),
        oidc=oidc or OIDC(),
        outbound=Outbound(allow_addresses=("127.0.0.0/8", "::1/128")),
    )
    application = await build(settings, SystemClock())
    rooms = application.rooms
    issuing = rooms.books.profiles()["tls-server"][0].authority
    asked = profile({"approvers": 1} | approval, "asked", authority=issuing)

    def unit(tx: Tx) -> None:
        configuration.add_profile_version(tx, asked.name, 1, encode_profile(asked), rooms.clock.now())
        configuration.touch(tx)

    try:
        await rooms.store.write(unit)
        await rooms.refresh()
        await application.start()
        yield Site(application)
    finally:
        await application.close()


def test_from_the_link_in_the_email_to_the_decision(database_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, database_url) as site:
            await site.person("bob", "approver")
            id = await site.waits()
            bob = site.browser()
            away = await bob.get(f"/console/approvals/{id}")
            assert (away.status, away.body) == (303, "")
            assert away.headers["location"] == f"/console/login?next=%2Fconsole%2Fapprovals%2F{id}"
            back = await bob.login("bob", next=f"/console/approvals/{id}")
            assert (back.status, back.headers["location"]) == (303, f"/console/approvals/{id}")
            session = next(c for c in back.cookies if c.startswith("__Host-certloom="))
            for attribute in ("; Path=/;", "; Secure", "; HttpOnly", "; SameSite=Lax"):
                assert attribute in session
            assert "Domain" not in session
            listing = await bob.get("/console/approvals")
            assert f"/console/approvals/{id}" in listing.body
            page = await bob.get(f"/console/approvals/{id}")
            assert (await site.approval(id)).state == "waiting", "GET decides nothing"
            for shown in ("www.example.com", "person:somebody", "asked, version 1", "P-256", "approver"):
                assert shown in page.body
            fields = {"token": page.field("token"), "version": page.field("version"), "reason": "as agreed"}
            done = await bob.post(f"/console/approvals/{id}", fields | {"decision": "approve"})
            assert (done.status, done.headers["location"]) == (303, f"/console/approvals/{id}?done=1")
            decided = await site.approval(id)
            assert decided.state == "granted"
            assert [(d.name, d.agreed, d.reason) for d in decided.decisions] == [("Bob", True, "as agreed")]
            shown_now = (await bob.get(f"/console/approvals/{id}?done=1")).body
            assert "as agreed" in shown_now
            assert '<form method="post" action="/console/approvals/' not in shown_now

    run(scenario())


def test_denying_takes_a_reason_and_what_was_typed_is_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path, may_change=["validity", "names"]) as site:
            await site.person("bob", "approver")
            id = await site.waits()
            bob = site.browser()
            await bob.login("bob")
            page = await bob.get(f"/console/approvals/{id}")
            fields = {"token": page.field("token"), "version": page.field("version"), "decision": "deny"}
            again = await bob.post(f"/console/approvals/{id}", fields | {"lifetime": "12h", "names": "a.b"})
            assert again.status == 422
            assert "say why not" in again.body
            assert 'value="12h"' in again.body
            done = await bob.post(f"/console/approvals/{id}", fields | {"reason": "no"})
            assert done.status == 303
            assert (await site.approval(id)).state == "denied"

    run(scenario())


def test_a_change_is_shown_and_who_saw_the_page_before_it_must_look_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        terms: dict[str, Any] = {"approvers": 2, "may_change": ["validity", "names"]}
        async with serving(tmp_path, **terms) as site:
            for name in ("bob", "carol"):
                await site.person(name, "approver")
            id = await site.waits()
            bob, carol = site.browser(), site.browser()
            await bob.login("bob")
            await carol.login("carol")
            path = f"/console/approvals/{id}"
            first, second = await bob.get(path), await carol.get(path)
            fields = {
                "token": second.field("token"),
                "version": second.field("version"),
                "decision": "approve",
            }
            changed = {"lifetime": "2d", "names": "www.example.com\nwww2.example.com\n"}
            assert (await carol.post(path, fields | changed)).status == 303
            stale = {"token": first.field("token"), "version": first.field("version"), "decision": "approve"}
            again = await bob.post(path, stale)
            assert again.status == 422
            assert "changed after you opened" in again.body
            assert "www2.example.com" in again.body
            assert "2d" in again.body
            fresh = stale | {"version": again.field("version")}
            assert (await bob.post(path, fresh)).status == 303
            assert (await site.approval(id)).state == "granted"

    run(scenario())


def test_a_form_from_elsewhere_changes_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as site:
            for name in ("bob", "mallory"):
                await site.person(name, "approver")
            id = await site.waits()
            bob, mallory = site.browser(), site.browser()
            await bob.login("bob")
            await mallory.login("mallory")
            path = f"/console/approvals/{id}"
            page = await bob.get(path)
            good = {"token": page.field("token"), "version": page.field("version"), "decision": "approve"}
            for headers in (
                {"origin": "https://evil.test"},
                {"sec_fetch_site": "cross-site"},
                {"sec_fetch_site": "same-site"},
                {"sec_fetch_site": "none"},
                {"origin": "null"},
                {"origin": "", "sec_fetch_site": ""},
            ):
                assert (await bob.post(path, good, **headers)).status == 403, headers
            foreign = (await mallory.get(path)).field("token")
            for token in ("", "x", foreign):
                assert (await bob.post(path, good | {"token": token})).status == 403, token
            assert (await bob.post("/console/logout", {"token": ""})).status == 403
            stranger = site.browser()
            assert (await stranger.post(path, good)).status == 403
            for headers in ({"content_type": "application/json"}, {"content_type": "text/plain"}):
                assert (await bob.post(path, good, **headers)).status == 400
            assert (await site.approval(id)).state == "waiting"
            assert (await bob.post(path, good, sec_fetch_site="")).status == 303
            assert (await site.approval(id)).state == "granted"

    run(scenario())


def test_logging_in_is_bound_to_the_browser_that_opened_the_page(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as site:
            await site.person("mallory", "approver")
            mallory, victim = site.browser(), site.browser()
            token = (await mallory.get("/console/login")).field("token")
            await victim.get("/console/login")
            fields = {"token": token, "next": "", "name": "mallory", "password": PASSWORD}
            assert (await victim.post("/console/login", fields)).status == 403
            assert "__Host-certloom" not in victim.cookies

    run(scenario())


@pytest.mark.parametrize(
    "next",
    [
        "https://evil.test/",
        "//evil.test/",
        "/\\evil.test",
        "/console/../api/v1/",
        "/console//evil.test",
        "/console/\r\nSet-Cookie: x=y",
        "javascript:alert(1)",
        "/console/logout",
        "/console/login",
        "/api/v1/people",
        "/console/" + "a" * 1000,
    ],
)
def test_next_leads_nowhere_else(tmp_path: Path, next: str) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as site:
            await site.person("bob", "approver")
            bob = site.browser()
            page = await bob.get(f"/console/login?next={quote(next, safe='')}")
            assert page.field("next") == "/console/approvals"
            fields = {"token": page.field("token"), "next": next, "name": "bob", "password": PASSWORD}
            reply = await bob.post("/console/login", fields)
            assert (reply.status, reply.headers["location"]) == (303, "/console/approvals")

    run(scenario())


def test_wrong_passwords_are_answered_alike_and_bounded(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as site:
            await site.person("bob", "approver")
            browser = site.browser()
            replies = [await browser.login(name, "wrong") for name in ("bob", "nobody")]
            assert [reply.status for reply in replies] == [403, 403]
            one, other = (re.sub(r'value="[^"]*"', "", reply.body) for reply in replies)
            assert one == other
            assert "wrong" in one
            statuses = [(await browser.login("bob", "wrong")).status for _ in range(5)]
            assert statuses[-1] == 429
            assert "__Host-certloom" not in browser.cookies

    run(scenario())


def test_strangers_texts_stay_text_on_the_page(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as site:
            await site.person("bob", "approver")
            id = await site.waits(comment="<script>alert(1)</script> \u202eevil \"'>")
            bob = site.browser()
            await bob.login("bob")
            page = await bob.get(f"/console/approvals/{id}")
            assert "<script" not in page.body
            assert "&lt;script&gt;" in page.body
            assert "\u202e" not in page.body
            reason = '"><img src=x onerror=alert(1)></textarea><script>'
            fields = {"token": page.field("token"), "version": "stale", "decision": "deny", "reason": reason}
            again = await bob.post(f"/console/approvals/{id}", fields)
            assert again.status == 422
            assert "<img" not in again.body
            assert "<script" not in again.body
            hostile = await bob.get("/console/login?next=%22%3E%3Cscript%3E")
            assert "<script" not in hostile.body

    run(scenario())


def test_people_see_and_decide_only_what_is_theirs_to(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as site:
            alice_id = await site.person("alice", "approver", "requester")
            await site.person("reader", "auditor")
            await site.person("nobody")
            id = await site.waits(alice_id)
            path = f"/console/approvals/{id}"
            alice, reader, nobody = site.browser(), site.browser(), site.browser()
            for browser, name in ((alice, "alice"), (reader, "reader"), (nobody, "nobody")):
                await browser.login(name)
            own = await alice.get(path)
            assert "somebody else has to decide" in own.body
            assert 'value="approve"' not in own.body
            assert id not in (await alice.get("/console/approvals")).body
            assert 'value="approve"' not in (await reader.get(path)).body
            assert (await nobody.get(path)).status == 404
            for browser in (alice, reader, nobody):
                token = (await browser.get("/console/approvals")).field("token")
                fields = {"token": token, "version": "0.0", "decision": "approve", "reason": "x"}
                assert (await browser.post(path, fields)).status in (404, 422)
            assert (await site.approval(id)).state == "waiting"
            for bad in ("%00", "x" * 200, "..%2f..%2f", "%F0%9F%92%A9", "'or'1"):
                assert (await alice.get(f"/console/approvals/{bad}")).status == 404, bad

    run(scenario())


def test_every_answer_carries_the_strict_headers_and_is_not_stored(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as site:
            await site.person("bob", "approver")
            bob = site.browser()
            await bob.login("bob")
            for path, status in (
                ("/console/login", 303),
                ("/console/", 303),
                ("/console/approvals", 200),
                ("/console/approvals/none", 404),
                ("/console/none", 404),
                ("/console/console.css", 200),
                ("/console/login/oidc", 404),
            ):
                reply = await bob.get(path)
                assert reply.status == status, path
                assert reply.headers["content-security-policy"] == STRICT
                assert reply.headers["x-content-type-options"] == "nosniff"
                assert reply.headers["referrer-policy"] == "same-origin"
                stored = "max-age=3600" if path.endswith(".css") else "no-store"
                assert stored in reply.headers["cache-control"]
            assert (await bob._ask("PUT", "/console/login", b"", {})).status == 405

    run(scenario())


def test_logging_out_ends_the_session_here_and_for_the_api(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving(tmp_path) as site:
            await site.person("bob", "approver")
            bob = site.browser()
            await bob.login("bob")
            kept = dict(bob.cookies)
            token = (await bob.get("/console/approvals")).field("token")
            out = await bob.post("/console/logout", {"token": token})
            assert (out.status, out.headers["clear-site-data"]) == (303, '"cache"')
            assert "__Host-certloom" not in bob.cookies
            bob.cookies = kept
            assert (await bob.get("/console/approvals")).status == 303

    run(scenario())


def test_pages_can_be_read_without_sight_or_pointer(tmp_path: Path) -> None:
    """Every field has its label, every page one heading, its language and a place to skip to."""

    async def scenario() -> None:
        async with serving(tmp_path, may_change=["validity", "names"]) as site:
            await site.person("bob", "approver")
            id = await site.waits()
            bob = site.browser()
            pages = [await bob.get("/console/login")]
            await bob.login("bob")
            pages += [await bob.get(path) for path in ("/console/approvals", f"/console/approvals/{id}")]
            for page in pages:
                assert '<html lang="en">' in page.body
                assert page.body.count("<h1") == 1
                assert 'href="#main"' in page.body
                fields = re.findall(r"<(?:input|textarea)(?![^>]*hidden)[^>]*>", page.body)
                for field in fields:
                    found = re.search(r'id="([^"]+)"', field)
                    assert found is not None, field
                    assert f'<label for="{found[1]}">' in page.body
                assert "style=" not in page.body
                assert "onclick" not in page.body

    run(scenario())


def agree(url: str, subject: str) -> str:
    """What a person does at the identity provider; where it sends the browser."""

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *args: Any) -> None:
            return None

    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.build_opener(Stay).open(url, urlencode({"sub": subject}).encode(), timeout=10)
    assert caught.value.code == 302
    return str(caught.value.headers["Location"])


def test_through_the_identity_provider_to_the_approval(tmp_path: Path) -> None:
    claims = {"preferred_username": "bob", "name": "Bob", "groups": ["pki"]}
    users = [oidc_provider_mock.User(sub="7", claims=claims), oidc_provider_mock.User(sub="8", claims={})]
    secret = tmp_path / "client-secret"
    secret.write_text("s3cret")

    async def scenario(issuer: str) -> None:
        settings = OIDC(
            issuer=issuer,
            client_id="certloom",
            client_secret_file=str(secret),
            roles={"pki": ("approver",)},
            create_people=True,
        )
        async with serving(tmp_path, oidc=settings) as site:
            id = await site.waits()
            path = f"/console/approvals/{id}"
            bob, eve = site.browser(), site.browser()
            page = await bob.get(f"/console/login?next={quote(path, safe='')}")
            button = re.search(r'href="(/console/login/oidc[^"]*)"', page.body)
            assert button is not None
            away = await bob.get(unescape(button[1]))
            assert away.status == 303
            back = await asyncio.to_thread(agree, away.headers["location"], "7")
            assert back.startswith(f"{site.origin}/console/login/oidc/callback?")
            here = back.removeprefix(site.origin)
            # Another browser that is made to follow the answer is not logged in by it.
            foreign = await eve.get(here)
            assert foreign.status == 403
            assert "__Host-certloom" not in eve.cookies
            arrived = await bob.get(here)
            assert (arrived.status, arrived.headers["location"]) == (303, path)
            assert "__Host-certloom-oidc" not in bob.cookies
            seen = await bob.get(path)
            assert "Bob" in seen.body
            fields = {"token": seen.field("token"), "version": seen.field("version"), "decision": "approve"}
            assert (await bob.post(path, fields)).status == 303
            assert (await site.approval(id)).state == "granted"

            away = await eve.get("/console/login/oidc?next=https%3A%2F%2Fevil.test%2F")
            back = await asyncio.to_thread(agree, away.headers["location"], "8")
            refused = await eve.get(back.removeprefix(site.origin))
            assert refused.status == 403
            assert 'role="alert"' in refused.body
            assert "__Host-certloom" not in eve.cookies

    with oidc_provider_mock.run_server_in_thread(user_claims=users) as provider:
        run(scenario(f"http://localhost:{provider.server_port}"))
