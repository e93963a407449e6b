"""The statements of ``store.acme``, by way of what ACME does with them, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from certloom.policy.channels import RateLimit
from certloom.validation import ValidationFailed
from tests.protocols.acme.lab import WEB, Lab, Labs, make_csr
from tests.protocols.acme.signing import b64, new_key
from tests.protocols.acme.test_ari import certificate_id
from tests.protocols.acme.test_key_change import change

pytestmark = pytest.mark.parametrize("dialect", ["sqlite", "postgresql"], indirect=True)

LIMITED = msgspec.structs.replace(
    WEB,
    orders_per_account=RateLimit(count=50, seconds=100),
    accounts_per_address=RateLimit(count=50, seconds=100),
    failed_validations_per_account=RateLimit(count=50, seconds=100),
)


def test_a_whole_life(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        credential = await lab.eab(names=("**.example.com", "192.0.2.0/24"), uses=1)
        client = await lab.client().registered_by_eab(credential)
        assert (await client.post(client.account, {"contact": ["mailto:a@example.com"]})).status == 200
        key = new_key()
        assert (await change(client, key)).status == 200
        client.key = key
        names = ("a.example.com", "*.b.example.com", "192.0.2.1")
        done, certificate = await client.certificate(*names)
        id = certificate_id(certificate)
        assert (await client.request("GET", client.url(f"renewal-info/{id}"))).status == 200
        assert (await client.post(client.url("new-authz"), identifier("c.example.com"))).status == 201
        assert (await client.post(client.url("new-authz"), identifier("c.example.com"))).status == 200
        renewal = await client.order(*names, replaces=id)
        assert renewal.json["status"] == "ready"
        assert (await client.order(*names, replaces=id)).type == "alreadyReplaced"
        assert (await client.finalize(renewal, make_csr(names))).json["status"] == "valid"
        lab.network.always = ValidationFailed("unauthorized", "no")
        failed = await client.order("d.example.com")
        await client.prove(failed)
        assert (await client.post(failed.location)).json["status"] == "invalid"
        listed = (await client.post(client.account.replace("/account/", "/orders/"))).json["orders"]
        assert set(listed) == {renewal.location, done.location}
        payload = {"certificate": b64(certificate.public_bytes(Encoding.DER)), "reason": 4}
        assert (await client.post(client.url("revoke-cert"), payload)).status == 200
        assert (await client.post(client.account, {"status": "deactivated"})).status == 200

    labs.run(scenario, web=LIMITED)


def identifier(name: str) -> dict[str, dict[str, str]]:
    return {"identifier": {"type": "dns", "value": name}}


def test_what_happens_at_once_happens_once(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        key = new_key()
        clients = [lab.client(key=key) for _ in range(5)]
        answers = await asyncio.gather(*[c.register() for c in clients])
        assert len({a.location for a in answers}) == 1
        client = clients[0]
        order = await client.order("a.example.com")
        await client.prove(order)
        csrs = [make_csr(["a.example.com"]) for _ in range(3)]
        bodies = []
        for csr in (*csrs, *csrs):
            client.nonce = ""
            bodies.append(await client.sign(order.json["finalize"], {"csr": b64(csr)}))
        finalized = await asyncio.gather(
            *[client.request("POST", order.json["finalize"], body) for body in bodies]
        )
        assert {a.status for a in finalized} == {200, 403}
        assert await lab.count("certificates") == await lab.count("enrolment_requests") == 1

    labs.run(scenario)


def test_a_certificate_is_replaced_by_one_of_many_orders_at_once(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        _, certificate = await client.certificate("a.example.com")
        payload = {**identifiers("a.example.com"), "replaces": certificate_id(certificate)}
        bodies = []
        for _ in range(6):
            client.nonce = ""
            bodies.append(await client.sign(client.url("new-order"), payload))
        answers = await asyncio.gather(
            *[client.request("POST", client.url("new-order"), body) for body in bodies]
        )
        assert sorted(a.status for a in answers) == [201] + [409] * 5

    labs.run(scenario)


def identifiers(name: str) -> dict[str, list[dict[str, str]]]:
    return {"identifiers": [{"type": "dns", "value": name}]}


def test_a_credential_with_one_use_left_binds_one_of_many_accounts_at_once(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        credential = await lab.eab(uses=1)
        clients = [lab.client() for _ in range(5)]
        answers = await asyncio.gather(
            *[c.register({"externalAccountBinding": c.binding(credential)}) for c in clients]
        )
        assert sorted(a.status for a in answers) == [201] + [403] * 4

    labs.run(scenario)


def test_a_nul_in_a_key_identifier_is_malformed(labs: Labs) -> None:
    """SQLite would look for such a text, PostgreSQL refuses to."""

    async def scenario(lab: Lab) -> None:
        client, credential = await lab.client().registered(), await lab.eab()
        answer = await client.post(client.url("new-order"), {}, kid=client.account + "\0")
        assert (answer.status, answer.type) == (400, "malformed")
        binding = client.binding(credential, kid=credential.id + "\0")
        answer = await lab.client().register({"externalAccountBinding": binding})
        assert (answer.status, answer.type) == (400, "malformed")

    labs.run(scenario)
