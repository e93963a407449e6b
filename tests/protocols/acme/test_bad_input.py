"""Bad input: each gets the right problem, none a 500, and nothing is stored."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.protocols.acme import signing
from tests.protocols.acme.lab import BASE, Client, Lab, Labs
from tests.protocols.acme.signing import b64, new_key

TABLES = (
    "acme_accounts",
    "acme_orders",
    "acme_authorizations",
    "enrolment_requests",
    "certificates",
    "events",
    "jobs",
)
ORDER = {"identifiers": [{"type": "dns", "value": "a.example.com"}]}


async def contents(lab: Lab) -> list[int]:
    return [await lab.count(table) for table in TABLES]


async def signed(client: Client, **header: Any) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(await client.sign(client.url("new-order"), ORDER, **header))
    return message


async def send(client: Client, message: Any) -> Any:
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    return await client.request("POST", client.url("new-order"), body)


def test_a_wrong_signature_is_malformed(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        before = await contents(lab)
        for change in (
            {"signature": b64(b"\1" * 64)},
            {"signature": ""},
            {"signature": b64(b"\0" * 64)},
            {"signature": b64(b"\xff" * 64)},
            {"signature": b64(b"\1" * 100_000)[:90_000]},
            {"payload": b64(json.dumps({**ORDER, "x": 1}).encode())},
        ):
            answer = await send(client, {**await signed(client), **change})
            assert (answer.status, answer.type) == (400, "malformed")
        assert await contents(lab) == before

    labs.run(scenario)


def test_the_signature_of_another_account_does_not_verify(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client, other = await lab.client().registered(), await lab.client().registered()
        answer = await client.post(client.url("new-order"), ORDER, kid=other.account)
        assert (answer.status, answer.type) == (400, "malformed")

    labs.run(scenario)


@pytest.mark.parametrize(
    "url",
    [
        f"{BASE}/acme/web/new-account",
        f"{BASE}/acme/other/new-order",
        f"{BASE}/acme/web/new-order/",
        f"{BASE}/acme/web/new-order?",
        f"{BASE}/acme/web/new-order?a=b",
        f"{BASE}/acme/web/%6eew-order",
        f"{BASE}//acme/web/new-order",
        "https://CA.example:8443/acme/web/new-order",
        "https://ca.example/acme/web/new-order",
        "http://ca.example:8443/acme/web/new-order",
        "/acme/web/new-order",
        "",
    ],
)
def test_a_jws_for_another_url_is_unauthorized(labs: Labs, url: str) -> None:
    # RFC 8555 section 6.4: compared character by character.
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        before = await contents(lab)
        answer = await send(client, await signed(client, url=url))
        assert (answer.status, answer.type) == (403, "unauthorized")
        assert await contents(lab) == before

    labs.run(scenario)


def test_the_query_is_part_of_the_url(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        url = client.url("new-order") + "?a=b"
        body = await client.sign(url, ORDER)
        assert (await client.request("POST", url, body)).status == 201
        body = await client.sign(client.url("new-order"), ORDER)
        assert (await client.request("POST", url, body)).type == "unauthorized"

    labs.run(scenario)


def test_a_replayed_nonce_is_bad_and_the_fresh_one_that_comes_with_it_is_good(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        body = await client.sign(client.url("new-order"), ORDER)
        first = await client.request("POST", client.url("new-order"), body)
        assert first.status == 201
        before = await contents(lab)
        answer = await client.request("POST", client.url("new-order"), body)
        assert (answer.status, answer.type) == (400, "badNonce")
        assert answer.json["detail"] == "JWS has an invalid anti-replay nonce"
        assert await contents(lab) == before
        # client.nonce now is the one from the error.
        assert (await client.post(client.url("new-order"), ORDER)).status == 201

    labs.run(scenario)


def test_one_nonce_used_twice_at_once_is_good_once(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        body = await client.sign(client.url("new-order"), ORDER)
        answers = await asyncio.gather(
            *[client.request("POST", client.url("new-order"), body) for _ in range(10)]
        )
        assert sorted(a.status for a in answers) == [201] + [400] * 9

    labs.run(scenario)


@pytest.mark.parametrize(
    ("nonce", "type"),
    [
        (..., "badNonce"),
        (None, "badNonce"),
        ("", "badNonce"),
        ("A" * 32, "badNonce"),
        ("%", "malformed"),
        (5, "malformed"),
    ],
)
def test_other_nonces(labs: Labs, nonce: Any, type: str) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        answer = await send(client, await signed(client, nonce=nonce))
        assert (answer.status, answer.type) == (400, type)

    labs.run(scenario)


def test_a_nonce_from_before_a_restart_is_bad(labs: Labs) -> None:
    from certloom.protocols.acme.nonces import Nonces

    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        lab.service.nonces = Nonces(lab.clock, 3600)
        assert (await client.post(client.url("new-order"), ORDER)).type == "badNonce"
        assert (await client.post(client.url("new-order"), ORDER)).status == 201

    labs.run(scenario)


@pytest.mark.parametrize(
    ("header", "type"),
    [
        ({"jwk": signing.jwk(new_key())}, "malformed"),
        ({"kid": ...}, "malformed"),
        ({"kid": None}, "malformed"),
        ({"alg": "none"}, "badSignatureAlgorithm"),
        ({"alg": "HS256"}, "badSignatureAlgorithm"),
        ({"alg": "ES384"}, "badSignatureAlgorithm"),
        ({"alg": ...}, "malformed"),
        ({"crit": ["exp"], "exp": 1}, "malformed"),
        ({"crit": []}, "malformed"),
        ({"b64": False, "crit": ["b64"]}, "malformed"),
        ({"url": ...}, "malformed"),
    ],
)
def test_protected_headers_that_are_refused(labs: Labs, header: dict[str, Any], type: str) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        before = await contents(lab)
        message = await signed(client, **{k: v for k, v in header.items() if k != "alg" or v is not ...})
        if header.get("alg", 0) is ...:
            protected = {"kid": client.account, "url": client.url("new-order"), "nonce": client.nonce}
            message["protected"] = b64(json.dumps(protected).encode())
        answer = await send(client, message)
        assert (answer.status, answer.type) == (400, type)
        assert await contents(lab) == before
        if type == "badSignatureAlgorithm":
            assert "ES256" in answer.json["algorithms"]

    labs.run(scenario)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'"x"',
        b"{" * 60_000,
        b"[" * 60_000,
        b'{"protected":"e30","payload":"","signature":""}',
        b'{"protected":"","payload":"","signature":""}',
        b'{"protected":"AA==","payload":"","signature":""}',
        b'{"payload":"","signature":""}',
        b'{"protected":"e30","payload":"","signature":"","header":{"alg":"ES256"}}',
        b'{"payload":"","signatures":[{"protected":"e30","signature":""}]}',
        b"eyJhbGciOiJFUzI1NiJ9..AAAA",
    ],
)
def test_bodies_that_are_no_jws_are_malformed(labs: Labs, body: bytes) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        for url in (
            client.url("new-order"),
            client.url("new-account"),
            client.url("revoke-cert"),
            client.account,
        ):
            answer = await client.request("POST", url, body)
            assert (answer.status, answer.type) == (400, "malformed")

    labs.run(scenario)


def test_weak_and_foreign_account_keys_are_bad_public_keys(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        weak = lab.client(key=rsa.generate_private_key(65537, 1024))
        answer = await weak.register()
        assert (answer.status, answer.type) == (400, "badPublicKey")
        client = lab.client()
        for jwk in (
            {"kty": "oct", "k": "AAAA"},
            {**signing.jwk(client.key), "x": "AAAA"},
            {**signing.jwk(client.key), "d": "AAAA"},
        ):
            answer = await client.post(client.url("new-account"), {}, by_key=True, jwk=jwk)
            assert (answer.status, answer.type) == (400, "badPublicKey")
        assert await contents(lab) == [0] * len(TABLES)

    labs.run(scenario)


MEMBERS = (
    *("identifiers", "identifier", "type", "value", "csr", "status", "certificate", "reason", "contact"),
    *("profile", "notBefore", "notAfter", "replaces", "account", "oldKey", "onlyReturnExisting"),
    *("protected", "payload", "signature", "externalAccountBinding"),
)
PAYLOADS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=20)
    | st.sampled_from(["dns", "deactivated", "AAAA", "a.example.com"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(MEMBERS), inner, max_size=4),
    max_leaves=12,
)


@hypothesis_settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(PAYLOADS | st.binary(max_size=40), min_size=30, max_size=30))
def test_no_payload_is_ever_answered_with_500(labs_once: Labs, payloads: list[Any]) -> None:
    async def scenario(lab: Lab) -> None:
        client = lab.client()
        assert (await client.register()).status in (200, 201)
        order = await client.order("a.example.com")
        authorization = (await client.post(order.json["authorizations"][0])).json
        urls = [
            client.url("new-order"),
            client.url("new-authz"),
            client.url("revoke-cert"),
            client.url("key-change"),
            order.location,
            order.json["finalize"],
            order.json["authorizations"][0],
            authorization["challenges"][0]["url"],
            client.url("renewal-info/x.y"),
        ]
        for n, payload in enumerate(payloads):
            answer = await client.post(urls[n % len(urls)], payload)
            assert answer.status < 500, (urls[n % len(urls)], payload)
            other = await lab.client().post(client.url("new-account"), payload, by_key=True)
            assert other.status < 500, payload

    labs_once.run(scenario)


@pytest.fixture
def labs_once(labs: Labs) -> Labs:
    """One laboratory for every example of one property."""
    labs.keep = True
    return labs
