"""Revocation (RFC 8555 section 7.6)."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from tests.protocols.acme.lab import Answer, Client, Lab, Labs, make_csr
from tests.protocols.acme.signing import Key, b64


async def issue(client: Client, *names: str, key: Any = None) -> bytes:
    order = await client.order(*names)
    await client.prove(order)
    done = await client.finalize(order, make_csr(names, key=key))
    chain = await client.post(done.json["certificate"])
    return x509.load_pem_x509_certificate(chain.body).public_bytes(Encoding.DER)


async def revoke(client: Client, der: bytes, reason: Any = ..., **how: Any) -> Answer:
    payload = {"certificate": b64(der)} | ({} if reason is ... else {"reason": reason})
    return await client.post(client.url("revoke-cert"), payload, **how)


async def reason_of(lab: Lab) -> int | None:
    row = await lab.store.read(lambda tx: tx.one("SELECT revocation_reason FROM certificates"))
    assert row is not None
    reason: int | None = row[0]
    return reason


@pytest.mark.parametrize(
    ("reason", "recorded"), [(..., 0), (None, 0), (0, 0), (1, 1), (3, 3), (4, 4), (5, 5)]
)
def test_the_account_that_got_it_revokes(labs: Labs, reason: Any, recorded: int) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        der = await issue(client, "a.example.com")
        answer = await revoke(client, der, reason)
        assert (answer.status, answer.body) == (200, b"")
        assert await reason_of(lab) == recorded
        assert "certificate.revoked" in await lab.events()

    labs.run(scenario)


def test_revoking_again_is_already_revoked(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        der = await issue(client, "a.example.com")
        await revoke(client, der, 4)
        answer = await revoke(client, der, 3)
        assert (answer.status, answer.type) == (400, "alreadyRevoked")
        assert await reason_of(lab) == 4

    labs.run(scenario)


def test_that_the_key_was_compromised_may_be_said_of_what_is_revoked_already(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        der = await issue(client, "a.example.com")
        await revoke(client, der, 4)
        assert (await revoke(client, der, 1)).status == 200
        assert await reason_of(lab) == 1
        for reason in (1, 4):
            answer = await revoke(client, der, reason)
            assert (answer.status, answer.type) == (400, "alreadyRevoked")
        assert await reason_of(lab) == 1

    labs.run(scenario)


@pytest.mark.parametrize("reason", [2, 6, 7, 8, 9, 10, 11, -1, 2**70])
def test_reasons_that_a_requester_cannot_give(labs: Labs, reason: int) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        der = await issue(client, "a.example.com")
        answer = await revoke(client, der, reason)
        assert (answer.status, answer.type) == (400, "badRevocationReason")
        assert await reason_of(lab) is None

    labs.run(scenario)


@pytest.mark.parametrize("reason", ["1", True, 1.5, [], {}])
def test_a_reason_that_is_no_integer_is_malformed(labs: Labs, reason: Any) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        der = await issue(client, "a.example.com")
        answer = await revoke(client, der, reason)
        assert (answer.status, answer.type) == (400, "malformed")

    labs.run(scenario)


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["P-256", "rsa", "ed25519"],
)
def test_the_certificates_own_key_revokes_without_an_account(labs: Labs, key: Key) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        der = await issue(client, "a.example.com", key=key)
        stranger = lab.client(key=key)
        answer = await revoke(stranger, der, 1, by_key=True)
        assert (answer.status, answer.body) == (200, b"")
        assert await reason_of(lab) == 1
        again = await revoke(stranger, der, by_key=True)
        assert (again.status, again.type) == (400, "alreadyRevoked")

    labs.run(scenario)


def test_another_key_does_not_revoke(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        der = await issue(client, "a.example.com")
        answer = await revoke(lab.client(), der, by_key=True)
        assert (answer.status, answer.type) == (403, "unauthorized")
        # Nor the account's key, when it comes as a certificate's.
        assert (await revoke(client, der, by_key=True)).type == "unauthorized"
        assert await reason_of(lab) is None

    labs.run(scenario)


def test_another_account_revokes_when_it_holds_every_name(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client, other = await lab.client().registered(), await lab.client().registered()
        der = await issue(client, "a.example.com", "*.example.com", "192.0.2.1")
        for held in ((), ("a.example.com", "example.com", "192.0.2.1"), ("*.example.com",)):
            if held:
                await other.prove(await other.order(*held))
            if "*.example.com" not in held:
                answer = await revoke(other, der)
                assert (answer.status, answer.type) == (403, "unauthorized"), held
        assert (await revoke(other, der)).status == 200

    labs.run(scenario)


def test_authorizations_that_have_expired_revoke_nothing(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client, other = await lab.client().registered(), await lab.client().registered()
        der = await issue(client, "a.example.com")
        await other.prove(await other.order("a.example.com"))
        lab.clock.advance(2_592_000)
        other.nonce = client.nonce = ""
        assert (await revoke(other, der)).type == "unauthorized"
        assert (await revoke(client, der)).status == 200

    labs.run(scenario)


def test_a_certificate_of_another_ca_was_not_issued_here(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        der = await issue(client, "a.example.com")
        for unknown in (lab.root, der[:-1] + bytes([der[-1] ^ 1])):
            answer = await revoke(client, unknown)
            assert (answer.status, answer.type) == (404, "malformed")
        assert await reason_of(lab) is None

    labs.run(scenario)


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"certificate": None},
        {"certificate": ""},
        {"certificate": "AA=="},
        {"certificate": "AAAA"},
        {"certificate": b64(b"\x30\x80" * 4000)},
        {"certificate": 5},
        [],
        None,
        b"\xff",
    ],
)
def test_what_is_no_certificate_is_malformed(labs: Labs, payload: Any) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        for by_key in (False, True):
            answer = await client.post(client.url("revoke-cert"), payload, by_key=by_key)
            assert (answer.status, answer.type) == (400, "malformed")

    labs.run(scenario)


def test_a_revoked_certificate_can_still_be_downloaded(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        done, certificate = await client.certificate("a.example.com")
        await revoke(client, certificate.public_bytes(Encoding.DER))
        assert (await client.post(done.json["certificate"])).status == 200
        assert (await client.post(done.location)).json["status"] == "valid"

    labs.run(scenario)


def test_another_account_cannot_have_a_key_it_never_had_blocked(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        owner, other = await lab.client().registered(), await lab.client().registered()
        der = await issue(owner, "a.example.com")
        await other.prove(await other.order("a.example.com"))
        answer = await revoke(other, der, 1)
        assert (answer.status, answer.type) == (400, "badRevocationReason")
        assert await reason_of(lab) is None
        assert (await revoke(other, der, 5)).status == 200

    labs.run(scenario)
