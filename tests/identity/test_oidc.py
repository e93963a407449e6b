"""Login through an OpenID Connect provider: a real one on loopback, and what a hostile one could send."""

from __future__ import annotations

import base64
import hmac
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey
from oidc_provider_mock import User, run_server_in_thread

from certloom.audit import Origin
from certloom.clock import Clock, ManualClock, SystemClock
from certloom.identity.authentication import Authentication
from certloom.identity.login import LoggedIn, Logins
from certloom.identity.oidc import Identity, OIDCError, Provider, check_claims, local_path
from certloom.identity.oidc_login import OIDCLogins
from certloom.identity.passwords import Passwords
from certloom.identity.people import People
from certloom.identity.people import Terms as PersonTerms
from certloom.identity.principals import Thing
from certloom.outbound.guard import AddressGuard
from certloom.outbound.http import HTTPClient
from certloom.outbound.resolver import Resolver
from certloom.settings.schema import API, OIDC
from certloom.store import Store
from certloom.store import people as statements
from certloom.store.base import Tx
from certloom.store.people import StoredPerson
from tests.conftest import run
from tests.core import DATA_KEY
from tests.identity.making import ROOT, grant, person

BACK = "https://certloom.test/login/oidc"
ORIGIN = Origin("nobody", "192.0.2.1", "trace")
ALICE = {"preferred_username": "Alice", "name": "Alice A.", "email": "a@example.com", "groups": ["pki", "x"]}


@pytest.fixture(scope="module")
def provider_url() -> Iterator[str]:
    """The address of PyPI's mock provider."""
    with run_server_in_thread(user_claims=[User(sub="s-alice", claims=ALICE)]) as server:
        yield f"http://127.0.0.1:{server.server_port}"


@asynccontextmanager
async def relying(settings: OIDC, clock: Clock, *allow: str) -> AsyncIterator[Provider]:
    client = HTTPClient(Resolver(), AddressGuard(allow=allow or ("127.0.0.0/8",)))
    try:
        yield Provider(settings, client, clock, DATA_KEY)
    finally:
        await client.close()


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any) -> None:
        return None


def consent(url: str, **form: str) -> dict[str, str]:
    """What the provider sends a browser back with, whose user clicked."""
    request = urllib.request.Request(url, urllib.parse.urlencode(form).encode())
    try:
        urllib.request.build_opener(_Stay).open(request)
    except urllib.error.HTTPError as answer:
        target = answer.headers["Location"]
        assert target.startswith(BACK)
        return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(target).query))
    raise AssertionError("the provider did not send the browser back")


def settings(issuer: str, **values: Any) -> OIDC:
    return OIDC(issuer=issuer, client_id="certloom", **values)


def test_a_person_goes_to_the_provider_and_comes_back(provider_url: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        secret = tmp_path / "secret"
        secret.write_text("s3cr:et %\n")
        mine = settings(provider_url, client_secret_file=str(secret))
        async with relying(mine, SystemClock()) as provider:
            departure = await provider.depart(BACK, "/approvals/17")
            asked = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(departure.url).query))
            assert asked["code_challenge_method"] == "S256"
            assert {"state", "nonce", "code_challenge"} <= asked.keys()
            query = consent(departure.url, sub="s-alice")
            identity = await provider.arrive(departure.cookie, query)
            assert identity == Identity(
                provider_url, "s-alice", "alice", "Alice A.", "a@example.com", ("pki", "x"), "/approvals/17"
            )
            with pytest.raises(OIDCError, match="refused the code"):
                await provider.arrive(departure.cookie, query)

    run(scenario())


def test_an_answer_belongs_to_the_browser_that_asked(provider_url: str) -> None:
    async def scenario() -> None:
        async with relying(settings(provider_url), SystemClock()) as provider:
            mine, theirs = await provider.depart(BACK), await provider.depart(BACK)
            query = consent(theirs.url, sub="s-alice")
            for cookie in (mine.cookie, "", "AAAA", theirs.cookie[:-4], "\u00e9"):
                with pytest.raises(OIDCError):
                    await provider.arrive(cookie, query)
            for changed in (
                {**query, "state": "x"},
                {"code": query["code"]},
                {**query, "iss": "https://evil"},
            ):
                with pytest.raises(OIDCError):
                    await provider.arrive(theirs.cookie, changed)

    run(scenario())


def test_what_the_provider_refuses_is_said_plainly(provider_url: str) -> None:
    async def scenario() -> None:
        async with relying(settings(provider_url), SystemClock()) as provider:
            departure = await provider.depart(BACK)
            state = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(departure.url).query))["state"]
            denied = consent(departure.url, action="deny")
            assert denied["error"] == "access_denied"
            told = {"state": state, "error": "access_denied", "error_description": "not\ntoday"}
            with pytest.raises(OIDCError, match="refused: access_denied: not today"):
                await provider.arrive(departure.cookie, told)

    run(scenario())


def test_a_login_that_took_too_long_is_begun_again(provider_url: str) -> None:
    async def scenario() -> None:
        clock = ManualClock()
        async with relying(settings(provider_url), clock) as provider:
            departure = await provider.depart(BACK)
            clock.advance(601)
            with pytest.raises(OIDCError, match="too long"):
                await provider.arrive(departure.cookie, {"code": "x"})

    run(scenario())


def test_a_provider_that_may_not_be_contacted_or_is_another_is_refused(provider_url: str) -> None:
    async def scenario() -> None:
        for issuer, allow, why in (
            (provider_url, "192.0.2.0/24", "loopback"),
            (provider_url.replace("127.0.0.1", "127.0.0.2"), "127.0.0.0/8", "not to be reached"),
            (provider_url + "/", "127.0.0.0/8", "calls itself"),
            ("http://idp.example.com", "127.0.0.0/8", "https"),
            ("ftp://127.0.0.1", "127.0.0.0/8", "https"),
        ):
            async with relying(settings(issuer), SystemClock(), allow) as provider:
                with pytest.raises(OIDCError, match=why):
                    await provider.depart(BACK)

    run(scenario())


@pytest.mark.parametrize("next", ["//evil", "/\\evil", "https://evil", "evil", "/a\nb", ""])
def test_nobody_is_sent_elsewhere_after_a_login(next: str) -> None:
    assert local_path(next) == "/"


GOOD = {"iss": "https://idp", "aud": "me", "exp": 2_000, "iat": 1_000, "nonce": "n", "sub": "s"}


@pytest.mark.parametrize(
    "changed",
    [
        {"iss": "https://other"},
        {"aud": "other"},
        {"aud": ["other"]},
        {"aud": ["me", "other"]},
        {"aud": ["me", "other"], "azp": "other"},
        {"aud": None},
        {"azp": "other"},
        {"exp": 900},
        {"exp": "2000"},
        {"exp": None},
        {"iat": 5_000},
        {"iat": None},
        {"nbf": 5_000},
        {"nonce": "other"},
        {"nonce": None},
        {"sub": None},
        {"sub": 7},
    ],
)
def test_claims_that_are_not_about_this_login_are_refused(changed: dict[str, Any]) -> None:
    check_claims(GOOD, "https://idp", "me", "n", 1_500)
    claims = {k: v for k, v in {**GOOD, **changed}.items() if v is not None}
    with pytest.raises(OIDCError):
        check_claims(claims, "https://idp", "me", "n", 1_500)


class Hostile:
    """A provider whose token endpoint answers what the test wants."""

    def __init__(self) -> None:
        self.key = RSAKey.generate_key(2048, parameters={"kid": "one"})
        self.published: list[Any] = [self.key]
        self.token: Callable[[str], str] = lambda nonce: self.signed(nonce, self.key)
        self.fetched = 0
        self.url = ""

    def signed(self, nonce: str, key: Any, alg: str = "RS256", **header: Any) -> str:
        now = SystemClock().now()
        claims = {"iss": self.url, "aud": "certloom", "exp": now + 60, "iat": now, "nonce": nonce, "sub": "s"}
        return jwt.encode({"alg": alg, "kid": key.kid, **header}, claims, key, algorithms=[alg])

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_get("/.well-known/openid-configuration", self._configuration)
        app.router.add_get("/keys", self._keys)
        app.router.add_post("/token", self._token)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield
        finally:
            await runner.cleanup()

    async def _configuration(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "issuer": self.url,
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                "jwks_uri": f"{self.url}/keys",
                "id_token_signing_alg_values_supported": ["RS256", "ES256", "HS256", "none"],
            }
        )

    async def _keys(self, request: web.Request) -> web.Response:
        self.fetched += 1
        return web.json_response({"keys": [key.as_dict(private=False) for key in self.published]})

    async def _token(self, request: web.Request) -> web.Response:
        form = await request.post()
        return web.json_response({"id_token": self.token(str(form["code"])), "token_type": "Bearer"})

    async def login(self, provider: Provider) -> Identity:
        """Go there and back; the code is the nonce, so that the token can hold it."""
        departure = await provider.depart(BACK)
        asked = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(departure.url).query))
        return await provider.arrive(departure.cookie, {"state": asked["state"], "code": asked["nonce"]})


def _unsigned(token: str) -> str:
    header = base64.urlsafe_b64encode(json.dumps({"alg": "none"}).encode()).rstrip(b"=").decode()
    return f"{header}.{token.split('.')[1]}."


def _with_mac(token: str, key: RSAKey) -> str:
    """Signed with the public key as a MAC key: good for who lets the token choose the algorithm."""
    header = base64.urlsafe_b64encode(json.dumps({"alg": "HS256", "kid": "one"}).encode())
    text = f"{header.rstrip(b'=').decode()}.{token.split('.')[1]}"
    mac = hmac.digest(key.as_pem(private=False), text.encode(), "sha256")
    return f"{text}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def test_only_tokens_that_the_provider_signed_are_believed() -> None:
    async def scenario() -> None:
        hostile = Hostile()
        async with hostile.serving(), relying(settings(hostile.url), SystemClock()) as provider:
            assert (await hostile.login(provider)).subject == "s"
            stranger = RSAKey.generate_key(2048, parameters={"kid": "one"})
            good = hostile.signed("n", hostile.key)
            for forged in (
                lambda nonce: hostile.signed(nonce, stranger),
                lambda nonce: _with_mac(hostile.signed(nonce, hostile.key), hostile.key),
                lambda nonce: _unsigned(hostile.signed(nonce, hostile.key)),
                lambda nonce: hostile.signed(nonce, hostile.key) + "x",
                lambda nonce: hostile.signed("another", hostile.key),
                lambda nonce: hostile.signed(nonce, hostile.key, kid="unknown"),
                lambda nonce: good,
                lambda nonce: "",
                lambda nonce: "a.b.c",
                lambda nonce: "x" * 100_000,
            ):
                hostile.token = forged
                with pytest.raises(OIDCError):
                    await hostile.login(provider)

    run(scenario())


def test_a_rotated_key_is_fetched_and_unknown_ones_not_for_ever() -> None:
    async def scenario() -> None:
        hostile, clock = Hostile(), ManualClock(SystemClock().now())
        async with hostile.serving(), relying(settings(hostile.url), clock) as provider:
            await hostile.login(provider)
            new = ECKey.generate_key("P-256", parameters={"kid": "two"})
            hostile.published.append(new)
            hostile.token = lambda nonce: hostile.signed(nonce, new, "ES256")
            for _ in range(3):
                with pytest.raises(OIDCError):
                    await hostile.login(provider)
            assert hostile.fetched == 1
            clock.advance(60)
            assert (await hostile.login(provider)).subject == "s"
            assert hostile.fetched == 2

    run(scenario())


def identity(subject: str = "s-alice", name: str = "alice", groups: tuple[str, ...] = ()) -> Identity:
    return Identity("https://idp", subject, name, "Alice", "a@example.com", groups, "/")


async def entry(store: Store, clock: ManualClock, **values: Any) -> Callable[..., Any]:
    """A login at a server with these settings."""
    book = Logins(store, clock, People(clock), Passwords(), API())
    oidc = OIDC(issuer="https://idp", client_id="c", **values)
    client = HTTPClient(Resolver(), AddressGuard())
    provider = Provider(oidc, client, clock, DATA_KEY)
    await client.close()
    door = OIDCLogins(store, clock, book, oidc, provider)

    async def login(who: Identity) -> LoggedIn:
        return await door.login(who, ORIGIN)

    return login


def test_a_first_login_makes_an_account_only_where_settings_say_so(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        closed = await entry(store, clock)
        with pytest.raises(OIDCError, match="no account"):
            await closed(identity())
        opened = await entry(store, clock, create_people=True)
        first = await opened(identity())
        assert first.name == "alice"
        # Known from now on, by the subject, whatever name the provider gives.
        again = await closed(identity(name="renamed"))
        assert again.person_id == first.person_id
        with pytest.raises(OIDCError, match="not linked"):
            await opened(identity(subject="somebody else"))
        with pytest.raises(OIDCError, match="no name"):
            await opened(identity(subject="x", name="no good name"))

    run(scenario())


def test_an_account_is_linked_by_name_only_if_nobody_else_can_have_it(
    store: Store, clock: ManualClock
) -> None:
    async def scenario() -> None:
        made = await person(store, clock, "alice", grant("admin"))
        strict = await entry(store, clock, create_people=True)
        with pytest.raises(OIDCError, match="not linked"):
            await strict(identity())
        lenient = await entry(store, clock, link_by_name=True)
        assert (await lenient(identity())).person_id == made.id
        with pytest.raises(OIDCError, match="not linked"):
            await lenient(identity(subject="a second one"))

        def with_password(tx: Tx) -> None:
            bob = People(clock).create(tx, ROOT, "bob", PersonTerms(), ORIGIN)
            People(clock).set_password(tx, ROOT, bob, "hash", ORIGIN)

        await store.write(with_password)
        with pytest.raises(OIDCError, match="not linked"):
            await lenient(identity(subject="s-bob", name="bob"))

    run(scenario())


def test_groups_give_roles_and_teams_anew_at_each_login(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        await person(store, clock, "somebody", teams=("web",))
        login = await entry(
            store,
            clock,
            create_people=True,
            roles={"pki": ("operator",), "boss": ("approver", "auditor")},
            teams={"pki": ("web", "not there")},
        )
        door = Authentication(store, clock, API())
        opened = await login(identity(groups=("pki", "unknown")))
        found = await door.session(opened.secret)
        assert found is not None
        assert found.teams == ("web",)
        assert found.may("profile.write")

        def also_here(tx: Tx) -> StoredPerson:
            was = statements.get(tx, opened.person_id)
            assert was is not None
            terms = PersonTerms(grants=(grant("requester"),))
            return People(clock).change(tx, ROOT, was, terms, ORIGIN)

        await store.write(also_here)
        await login(identity(groups=("boss",)))
        found = await door.session(opened.secret)
        assert found is not None
        assert found.teams == ()
        assert not found.may("profile.write")
        assert found.may("approval.decide")
        assert found.may("request.create", Thing(owner=found.owner))
        await login(identity())
        found = await door.session(opened.secret)
        assert found is not None
        assert not found.may("approval.decide")

    run(scenario())


def test_a_disabled_account_stays_out(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        login = await entry(store, clock, create_people=True)
        opened = await login(identity())

        def disable(tx: Tx) -> None:
            was = statements.get(tx, opened.person_id)
            assert was is not None
            People(clock).set_state(tx, ROOT, was, False, ORIGIN)

        await store.write(disable)
        with pytest.raises(OIDCError, match="disabled"):
            await login(identity())

    run(scenario())
