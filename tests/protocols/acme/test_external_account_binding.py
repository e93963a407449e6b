"""External account binding (RFC 8555 section 7.3.4) and names that need no challenge because of it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from certloom.audit import SYSTEM
from certloom.store.credentials import set_terms
from tests.protocols.acme import signing
from tests.protocols.acme.lab import WEB, Lab, Labs, make_csr
from tests.protocols.acme.signing import b64, new_key

REQUIRED = msgspec.structs.replace(WEB, eab_required=True)


def test_an_account_is_bound_and_only_the_answer_that_makes_it_says_so(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = lab.client()
        binding = client.binding(await lab.eab())
        made = await client.register({"externalAccountBinding": binding})
        assert made.status == 201
        assert made.json["externalAccountBinding"] == binding
        assert "externalAccountBinding" not in (await client.post(client.account)).json
        assert "externalAccountBinding" not in (await client.register()).json

    labs.run(scenario, web=REQUIRED)


def test_without_a_binding_external_account_required(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        for payload in ({}, {"externalAccountBinding": None}):
            answer = await lab.client().register(payload)
            assert (answer.status, answer.type) == (403, "externalAccountRequired")
        assert await lab.count("acme_accounts") == 0

    labs.run(scenario, web=REQUIRED)


@pytest.mark.parametrize("alg", ["HS256", "HS384", "HS512"])
def test_every_mac_is_taken(labs: Labs, alg: str) -> None:
    async def scenario(lab: Lab) -> None:
        client = lab.client()
        binding = client.binding(await lab.eab(), alg=alg)
        assert (await client.register({"externalAccountBinding": binding})).status == 201

    labs.run(scenario, web=REQUIRED)


@pytest.mark.parametrize(
    ("change", "status", "type"),
    [
        ({"kid": "unknown"}, 403, "unauthorized"),
        ({"mac_key": b"x" * 32}, 403, "unauthorized"),
        ({"nonce": "AAAA"}, 400, "malformed"),
        ({"url": "https://ca.example:8443/acme/other/new-account"}, 400, "malformed"),
        ({"account": new_key()}, 400, "malformed"),
        ({"crit": ["x"]}, 400, "malformed"),
    ],
)
def test_bindings_that_do_not_hold(labs: Labs, change: dict[str, Any], status: int, type: str) -> None:
    async def scenario(lab: Lab) -> None:
        client = lab.client()
        binding = client.binding(await lab.eab(), **change)
        answer = await client.register({"externalAccountBinding": binding})
        assert (answer.status, answer.type) == (status, type)
        assert await lab.count("acme_accounts") == 0

    labs.run(scenario, web=REQUIRED)


def test_a_binding_needs_a_mac_not_a_signature(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = lab.client()
        credential = await lab.eab()
        header = {"kid": credential.id, "url": client.url("new-account")}
        signed = signing.flattened(client.key, header, json.dumps(signing.jwk(client.key)))
        answer = await client.register({"externalAccountBinding": signed})
        assert answer.type == "malformed"
        protected = b64(json.dumps({"alg": "none", **header}).encode())
        answer = await client.register(
            {"externalAccountBinding": {**signed, "protected": protected, "signature": ""}}
        )
        assert answer.type == "malformed"

    labs.run(scenario, web=REQUIRED)


@pytest.mark.parametrize("binding", [{}, [], "x", 5, {"protected": "AA==", "payload": "", "signature": ""}])
def test_what_is_no_jws_is_malformed(labs: Labs, binding: Any) -> None:
    async def scenario(lab: Lab) -> None:
        answer = await lab.client().register({"externalAccountBinding": binding})
        assert (answer.status, answer.type) == (400, "malformed")

    labs.run(scenario, web=REQUIRED)


def test_a_credential_binds_as_often_as_it_may(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        credential = await lab.eab(uses=2)
        for _ in range(2):
            await lab.client().registered_by_eab(credential)
        client = lab.client()
        answer = await client.register({"externalAccountBinding": client.binding(credential)})
        assert (answer.status, answer.type) == (403, "unauthorized")
        assert await lab.count("acme_accounts") == 2

    labs.run(scenario, web=REQUIRED)


def test_a_revoked_or_expired_credential_or_one_of_another_channel_binds_nothing(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        revoked = await lab.eab()
        await lab.store.write(lambda tx: lab.credentials.revoke(tx, revoked.id, SYSTEM))
        expired = await lab.eab(expires=lab.clock.now() + 10)
        lab.clock.advance(11)
        for credential in (revoked, expired, await lab.eab(channel="other")):
            client = lab.client()
            answer = await client.register({"externalAccountBinding": client.binding(credential)})
            assert (answer.status, answer.type) == (403, "unauthorized")

    labs.run(scenario, web=REQUIRED)


def test_a_binding_is_taken_where_none_is_required(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        await lab.client().registered_by_eab(await lab.eab())

    labs.run(scenario)


def test_names_that_the_credential_vouches_for_are_ready_at_once(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        credential = await lab.eab(names=("**.corp.example", "10.0.0.0/8"), preauthorized=True)
        client = await lab.client().registered_by_eab(credential)
        names = ("a.corp.example", "*.corp.example", "10.1.2.3")
        order = await client.order(*names)
        assert (order.status, order.json["status"]) == (201, "ready")
        for url in order.json["authorizations"]:
            authorization = (await client.post(url)).json
            assert authorization["status"] == "valid"
            assert [c["status"] for c in authorization["challenges"]] == ["valid"]
            if authorization.get("wildcard"):
                assert authorization["challenges"][0]["type"] == "dns-01"
        done = await client.finalize(order, make_csr(names))
        assert done.json["status"] == "valid"
        assert lab.network.proofs == []

    labs.run(scenario, web=REQUIRED)


def test_a_credential_with_names_is_for_those_names_only(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        credential = await lab.eab(names=("**.corp.example",))
        client = await lab.client().registered_by_eab(credential)
        answer = await client.order("a.corp.example", "www.example.com")
        assert (answer.status, answer.type) == (400, "rejectedIdentifier")
        assert answer.json["subproblems"][0]["identifier"] == {"type": "dns", "value": "www.example.com"}
        authz = {"identifier": {"type": "dns", "value": "www.example.com"}}
        assert (await client.post(client.url("new-authz"), authz)).type == "rejectedIdentifier"
        assert (await client.order("a.corp.example")).json["status"] == "pending"

    labs.run(scenario, web=REQUIRED)


def test_names_that_a_credential_does_not_vouch_for_are_proved_as_by_anyone(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        credential = await lab.eab(names=("**.corp.example",), preauthorized=True)
        client = await lab.client().registered_by_eab(credential)
        order = await client.order("a.corp.example", "www.example.com")
        assert order.json["status"] == "pending"
        statuses = [(await client.post(url)).json["status"] for url in order.json["authorizations"]]
        assert statuses == ["valid", "pending"]
        await client.prove(order)
        assert [str(proof.identifier) for proof, _ in lab.network.proofs] == ["dns:www.example.com"]
        done = await client.finalize(order, make_csr(["a.corp.example", "www.example.com"]))
        assert done.json["status"] == "valid"

    labs.run(scenario, web=REQUIRED)


def test_a_credential_that_was_revoked_vouches_no_more(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        credential = await lab.eab(names=("a.corp.example",), preauthorized=True)
        client = await lab.client().registered_by_eab(credential)
        await lab.store.write(lambda tx: lab.credentials.revoke(tx, credential.id, SYSTEM))
        assert (await client.order("a.corp.example")).json["status"] == "pending"

    labs.run(scenario, web=REQUIRED)


def test_what_a_credential_vouched_for_ends_with_it(labs: Labs) -> None:
    """Orders that were ready, authorizations to reuse and the right to revoke: none outlives its ground."""

    async def scenario(lab: Lab) -> None:
        other = await lab.client("other").registered()
        _, certificate = await other.certificate("a.corp.example")
        credential = await lab.eab(names=("**.corp.example",), preauthorized=True)
        client = await lab.client().registered_by_eab(credential)
        ready = await client.order("a.corp.example", "*.corp.example")
        authz = {"identifier": {"type": "dns", "value": "b.corp.example"}}
        assert (await client.post(client.url("new-authz"), authz)).json["status"] == "valid"
        await lab.store.write(lambda tx: lab.credentials.revoke(tx, credential.id, SYSTEM))

        refused = await client.finalize(ready, make_csr(["a.corp.example", "*.corp.example"]))
        assert (refused.status, refused.type) == (403, "unauthorized")
        named = [cause["identifier"]["value"] for cause in refused.json["subproblems"]]
        assert sorted(named) == ["*.corp.example", "a.corp.example"]
        payload = {"certificate": b64(certificate.public_bytes(Encoding.DER))}
        assert (await client.post(client.url("revoke-cert"), payload)).type == "unauthorized"
        assert (await client.post(client.url("new-authz"), authz)).json["status"] == "pending"
        order = await client.order("a.corp.example")
        assert order.json["status"] == "pending"
        # What is proved, by contrast, stays.
        await client.prove(order)
        assert (await client.finalize(order, make_csr(["a.corp.example"]))).json["status"] == "valid"
        assert (await client.post(client.url("revoke-cert"), payload)).status == 200

    labs.run(scenario, web=REQUIRED)


def test_names_that_a_credential_is_no_longer_for_cannot_be_finalized(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        credential = await lab.eab(names=("**.corp.example",))
        client = await lab.client().registered_by_eab(credential)
        order = await client.order("a.corp.example")
        await client.prove(order)
        await lab.store.write(lambda tx: set_terms(tx, credential.id, ("b.corp.example",), False, None))
        refused = await client.finalize(order, make_csr(["a.corp.example"]))
        assert (refused.status, refused.type) == (403, "unauthorized")

    labs.run(scenario, web=REQUIRED)


def test_a_wildcard_can_be_vouched_for_where_no_challenge_could_prove_it(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        credential = await lab.eab(names=("*.corp.example",), preauthorized=True)
        client = await lab.client().registered_by_eab(credential)
        order = await client.order("*.corp.example")
        assert order.json["status"] == "ready"
        assert (await client.post(order.json["authorizations"][0])).json["challenges"] == []

    labs.run(scenario, web=msgspec.structs.replace(REQUIRED, challenges=("http-01",)))
