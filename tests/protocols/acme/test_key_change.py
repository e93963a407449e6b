"""Account key rollover (RFC 8555 section 7.3.5)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.protocols.acme import signing
from tests.protocols.acme.lab import Answer, Client, Lab, Labs, make_csr
from tests.protocols.acme.signing import Key, jwk, new_key


async def change(client: Client, new: Key, payload: dict[str, Any] | None = None, **header: Any) -> Answer:
    url = client.url("key-change")
    full = {"account": client.account, "oldKey": jwk(client.key), **(payload or {})}
    inner_header = {"url": url, "jwk": jwk(new), **header}
    signer = inner_header.pop("signer", new)
    kept = {k: v for k, v in inner_header.items() if v is not ...}
    import json

    inner = signing.flattened(signer, kept, json.dumps({k: v for k, v in full.items() if v is not ...}))
    return await client.post(url, inner)


def test_the_key_is_changed_and_everything_else_stays(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await client.order("a.example.com")
        old, new = client.key, new_key("rsa")
        changed = await change(client, new)
        assert (changed.status, changed.json["status"]) == (200, "valid")
        assert changed.location == client.account
        answer = await client.post(order.location)
        assert (answer.status, answer.type) == (400, "badSignatureAlgorithm")
        client.key = new
        await client.prove(order)
        done = await client.finalize(order, make_csr(["a.example.com"]))
        assert done.json["status"] == "valid"
        assert (await client.register({"onlyReturnExisting": True})).location == client.account
        # The challenge was checked with the key of its time.
        assert lab.network.proofs[0][0].key_authorization.endswith("." + signing.thumbprint(new))
        assert lab.network.proofs[0][0].key_thumbprints == (signing.thumbprint(new), signing.thumbprint(old))
        # The old key is free for another account.
        assert (await lab.client(key=old).register()).status == 201
        assert "acme-account.rekeyed" in await lab.events()

    labs.run(scenario)


def test_a_key_that_has_an_account_is_a_conflict_that_names_it(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client, other = await lab.client().registered(), await lab.client().registered()
        answer = await change(client, other.key)
        assert (answer.status, answer.location) == (409, other.account)
        assert (await client.post(client.account)).status == 200
        same = await change(client, client.key)
        assert (same.status, same.location) == (409, client.account)
        await other.post(other.account, {"status": "deactivated"})
        assert (await change(client, other.key)).status == 409

    labs.run(scenario)


@pytest.mark.parametrize(
    ("payload", "header"),
    [
        ({"account": "https://ca.example:8443/acme/web/account/x"}, {}),
        ({"account": ...}, {}),
        ({"account": 5}, {}),
        ({"oldKey": jwk(new_key())}, {}),
        ({"oldKey": ...}, {}),
        ({"oldKey": None}, {}),
        ({"oldKey": "x"}, {}),
        ({}, {"nonce": "AAAA"}),
        ({}, {"url": "https://ca.example:8443/acme/web/new-order"}),
        ({}, {"jwk": ..., "kid": "x"}),
        ({}, {"jwk": ...}),
        ({}, {"crit": ["x"]}),
        ({}, {"signer": new_key()}),
    ],
)
def test_an_inner_jws_that_does_not_hold_is_malformed(
    labs: Labs, payload: dict[str, Any], header: dict[str, Any]
) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        answer = await change(client, new_key(), payload, **header)
        assert (answer.status, answer.type) == (400, "malformed")
        assert (await client.post(client.account)).status == 200

    labs.run(scenario)


def test_account_must_be_the_location_letter_by_letter(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        for account in (client.account + "/", client.account.upper(), client.account.replace(":8443", "")):
            assert (await change(client, new_key(), {"account": account})).type == "malformed"

    labs.run(scenario)


def test_a_weak_new_key_is_a_bad_public_key(labs: Labs) -> None:
    from cryptography.hazmat.primitives.asymmetric import rsa

    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        answer = await change(client, rsa.generate_private_key(65537, 1024))
        assert (answer.status, answer.type) == (400, "badPublicKey")

    labs.run(scenario)


def test_what_is_no_inner_jws_is_malformed(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        payloads: tuple[Any, ...] = ({}, [], "x", None, {"protected": "", "payload": "", "signature": ""})
        for payload in payloads:
            answer = await client.post(client.url("key-change"), payload)
            assert (answer.status, answer.type) == (400, "malformed")

    labs.run(scenario)


def test_an_old_key_that_is_not_utf8_is_malformed(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client, new = await lab.client().registered(), new_key()
        payload = b'{"account":"%s","oldKey":{"kty":"\xff"}}' % client.account.encode()
        header = {"url": client.url("key-change"), "jwk": jwk(new)}
        answer = await client.post(client.url("key-change"), signing.flattened(new, header, payload))
        assert (answer.status, answer.type) == (400, "malformed")

    labs.run(scenario)
