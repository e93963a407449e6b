"""Challenges: responding, the server's own retries, and what comes of it (RFC 8555 sections 7.5.1 and 8)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest

from certloom.jobs import Runner
from certloom.protocols.acme.challenges import register
from certloom.validation import ValidationFailed
from tests.protocols.acme import signing
from tests.protocols.acme.lab import WEB, Answer, Client, Lab, Labs, make_csr


async def first_challenge(client: Client, order: Answer, type: str = "http-01") -> str:
    challenges = (await client.post(order.json["authorizations"][0])).json["challenges"]
    url: str = next(c["url"] for c in challenges if c["type"] == type)
    return url


def test_a_response_is_answered_at_once_and_checked_by_a_job(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await client.order("a.example.com")
        url = await first_challenge(client, order)
        lab.network.hold = asyncio.Event()
        answer = await client.post(url, {})
        assert (answer.status, answer.json["status"]) == (200, "processing")
        assert answer.link("up") == order.json["authorizations"][0]
        assert answer.header("retry-after") == "1"
        pending = await client.post(order.json["authorizations"][0])
        assert (pending.json["status"], pending.header("retry-after")) == ("pending", "1")
        # Asking again changes nothing and starts nothing.
        assert (await client.post(url, {})).json == answer.json
        assert (await client.post(url)).json == answer.json
        lab.network.hold.set()
        await lab.idle()
        assert len(lab.network.proofs) == 1
        valid = (await client.post(order.json["authorizations"][0])).json
        assert valid["status"] == "valid"
        (challenge,) = valid["challenges"]
        assert (challenge["status"], challenge["validated"]) == ("valid", "2027-01-15T08:00:00Z")
        assert challenge["validationRecord"] == [{"hostname": "a.example.com", "port": 80}]
        assert list(challenge)[-1] == "validationRecord"
        assert (await client.post(order.location)).json["status"] == "ready"

    labs.run(scenario)


def test_the_validator_is_told_what_it_needs(labs: Labs) -> None:
    channel = msgspec.structs.replace(WEB, challenges=("dns-01",), caa_identities=("ca.example",))

    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await client.order("*.example.com")
        await client.prove(order)
        proof, attempt = lab.network.proofs[0]
        token = (await client.post(order.json["authorizations"][0])).json["challenges"][0]["token"]
        thumbprint = signing.thumbprint(client.key)
        assert (proof.type, str(proof.identifier), proof.wildcard, attempt) == (
            "dns-01",
            "dns:example.com",
            True,
            0,
        )
        assert (proof.token, proof.key_authorization) == (token, f"{token}.{thumbprint}")
        assert proof.account_url == client.account
        assert proof.issuer_domains == ("ca.example",)
        assert proof.account_hash_prefix == client.url("account-hash/")
        assert proof.key_thumbprints == (thumbprint,)

    labs.run(scenario, web=channel)


def test_a_check_that_takes_long_is_answered_processing_and_handed_to_a_job(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        lab.network.hold = asyncio.Event()
        url = await first_challenge(client, await client.order("a.example.com"))
        answer = await client.post(url, {})
        assert answer.json["status"] == "processing"
        assert answer.header("retry-after") == "1"
        lab.network.hold.set()
        await lab.idle()
        assert (await client.post(url)).json["status"] == "valid"
        assert len(lab.network.proofs) == 1, "the job takes over the check that was begun"

    labs.run(scenario)


def test_the_response_is_an_object_whose_members_are_ignored(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        for n, payload in enumerate(
            ({}, {"keyAuthorization": "old clients send it"}, {"type": None, "status": "valid", "a": [{}]})
        ):
            url = await first_challenge(client, await client.order(f"a{n}.example.com"))
            assert (await client.post(url, payload)).json["status"] == "valid"
        url = await first_challenge(client, await client.order("b.example.com"))
        bads: tuple[Any, ...] = ([], "x", 5, b"{", b"\xff")
        for bad in bads:
            answer = await client.post(url, bad)
            assert (answer.status, answer.type) == (400, "malformed")
        assert (await client.post(url)).json["status"] == "pending"

    labs.run(scenario)


@pytest.mark.parametrize("code", ["connection", "dns", "tls", "unauthorized", "incorrectResponse", "caa"])
def test_a_failure_for_good_ends_challenge_authorization_and_order(labs: Labs, code: str) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        lab.network.always = ValidationFailed(code, "what was found instead")
        order = await client.order("a.example.com", "*.b.example.com")
        await client.prove(order)
        authorization = (await client.post(order.json["authorizations"][0])).json
        assert authorization["status"] == "invalid"
        (challenge,) = authorization["challenges"]
        assert challenge["status"] == "invalid"
        assert challenge["error"]["type"] == f"urn:ietf:params:acme:error:{code}"
        assert challenge["error"]["detail"] == "what was found instead"
        assert list(challenge)[-1] == "error"
        failed = (await client.post(order.location)).json
        assert failed["status"] == "invalid"
        assert failed["error"]["type"] == f"urn:ietf:params:acme:error:{code}"
        assert failed["error"]["subproblems"][0]["identifier"] == {"type": "dns", "value": "a.example.com"}
        answer = await client.finalize(order, make_csr(["a.example.com", "*.b.example.com"]))
        assert answer.type == "orderNotReady"
        # It is over: responding again changes nothing, and a new order starts afresh.
        assert (await client.post(challenge["url"], {})).json["status"] == "invalid"
        assert (await client.order("a.example.com")).json["status"] == "pending"
        assert "acme-authorization.invalid" in await lab.events()

    labs.run(scenario)


def test_a_passing_failure_is_tried_again_by_the_server(labs: Labs) -> None:
    # RFC 8555 section 8.2
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        lab.network.failures = [ValidationFailed("connection", f"try {n}", True) for n in range(3)]
        order = await client.order("a.example.com")
        url = await first_challenge(client, order)
        await client.post(url, {})
        await lab.idle()
        for n, wait in enumerate((2, 5, 15)):
            challenge = (await client.post(url)).json
            assert (challenge["status"], challenge["error"]["detail"]) == ("processing", f"try {n}")
            assert (await client.post(order.location)).json["status"] == "pending"
            await lab.advance(wait - 0.5)
            assert len(lab.network.proofs) == n + 1
            await lab.advance(0.5)
        assert [attempt for _, attempt in lab.network.proofs] == [0, 1, 2, 3]
        challenge = (await client.post(url)).json
        assert challenge["status"] == "valid"
        assert "error" not in challenge
        assert (await client.post(order.location)).json["status"] == "ready"

    labs.run(scenario)


def test_retries_end(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        lab.network.always = ValidationFailed("dns", "no answer", True)
        order = await client.order("a.example.com")
        url = await first_challenge(client, order)
        await client.post(url, {})
        await lab.idle()
        for wait in (2, 5, 15):
            await lab.advance(wait)
        assert len(lab.network.proofs) == 4
        assert (await client.post(url)).json["status"] == "invalid"
        assert (await client.post(order.location)).json["status"] == "invalid"
        assert await lab.count("jobs") == 0

    labs.run(scenario)


def test_a_check_that_breaks_off_is_tried_again_and_then_gives_up(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        lab.network.always = RuntimeError("a fault of ours")
        order = await client.order("a.example.com")
        url = await first_challenge(client, order)
        await client.post(url, {})
        await lab.idle()
        assert (await client.post(url)).json["status"] == "processing"
        for _ in range(3):
            await lab.advance(200)
        challenge = (await client.post(url)).json
        assert challenge["status"] == "invalid"
        assert challenge["error"]["type"] == "urn:ietf:params:acme:error:serverInternal"
        assert "fault of ours" not in json.dumps(challenge)

    labs.run(scenario)


def test_a_check_survives_the_end_of_its_process(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await client.order("a.example.com")
        url = await first_challenge(client, order)
        lab.network.hold = asyncio.Event()
        await client.post(url, {})
        await asyncio.sleep(0.01)
        assert await lab.count("jobs") == 1
        # What kill -9 leaves: a leased job and nobody who works on it.
        for entry in lab.runner._running.values():
            entry.task.cancel()
        await lab.runner.stop(0)
        lab.network.hold = None
        lab.runner = lab.service.runner = Runner(lab.store, lab.clock, "another")
        register(lab.service)
        await lab.runner.start()
        for _ in range(200):
            if (await client.post(order.location)).json["status"] == "ready":
                break
            await asyncio.sleep(0.01)
        assert (await client.post(order.location)).json["status"] == "ready"

    labs.run(scenario)


def test_what_was_deactivated_while_it_was_checked_stays_deactivated(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await client.order("a.example.com")
        (authorization,) = order.json["authorizations"]
        lab.network.hold = asyncio.Event()
        await client.post(await first_challenge(client, order), {})
        await client.post(authorization, {"status": "deactivated"})
        lab.network.hold.set()
        await lab.idle()
        assert (await client.post(authorization)).json["status"] == "deactivated"

    labs.run(scenario)


def test_a_deactivated_account_has_nothing_checked(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await client.order("a.example.com")
        lab.network.failures = [ValidationFailed("dns", "later", True)]
        await client.post(await first_challenge(client, order), {})
        await lab.idle()
        await client.post(client.account, {"status": "deactivated"})
        await lab.advance(2)
        assert len(lab.network.proofs) == 1
        assert await lab.count("jobs") == 0

    labs.run(scenario)


def test_responses_at_once_make_one_check_of_each_challenge(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await client.order("a.example.com")
        http, dns = [await first_challenge(client, order, t) for t in ("http-01", "dns-01")]
        bodies = []
        for url in (http, http, http, dns):
            client.nonce = ""
            bodies.append((url, await client.sign(url, {})))
        answers = await asyncio.gather(*[client.request("POST", url, body) for url, body in bodies])
        assert {a.status for a in answers} == {200}
        await lab.idle()
        kinds = [proof.type for proof, _ in lab.network.proofs]
        assert kinds.count("http-01") <= 1
        assert kinds.count("dns-01") <= 1
        assert kinds

    labs.run(scenario)


def test_another_challenge_of_a_decided_authorization_stays_as_it_is(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await client.order("a.example.com")
        other = await first_challenge(client, order, "dns-01")
        await client.prove(order, "http-01")
        assert (await client.post(other, {})).json["status"] == "pending"
        await lab.idle()
        assert len(lab.network.proofs) == 1

    labs.run(scenario)


def test_an_expired_authorization_is_not_checked(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        url = await first_challenge(client, await client.order("a.example.com"))
        lab.clock.advance(86_400)
        client.nonce = ""
        answer = await client.post(url, {})
        assert (answer.status, answer.type) == (404, "malformed")
        assert lab.network.proofs == []

    labs.run(scenario)


def test_a_challenge_type_that_the_channel_dropped_is_not_checked(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await client.order("a.example.com")
        url = await first_challenge(client, order, "tls-alpn-01")
        await lab.put_channel(msgspec.structs.replace(WEB, challenges=("dns-01",)))
        await client.post(url, {})
        await lab.idle()
        assert lab.network.proofs == []
        assert (await client.post(url)).json["error"]["type"].endswith(":unauthorized")

    labs.run(scenario)


CAA = msgspec.structs.replace(WEB, caa=True, caa_identities=("ca.example",))


def test_caa_is_asked_where_the_channel_says_so(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        await client.certificate("a.example.com", "*.example.com")
        asked = [(str(q["identifier"]), q["wildcard"], q["method"]) for q in lab.network.caa_asked]
        assert asked == [("dns:a.example.com", False, "http-01"), ("dns:example.com", True, "dns-01")]
        assert {q["account_url"] for q in lab.network.caa_asked} == {client.account}
        assert {q["issuer_domains"] for q in lab.network.caa_asked} == {("ca.example",)}

    labs.run(scenario, web=CAA)


def test_caa_that_forbids_fails_the_challenge(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        lab.network.caa_failure = ValidationFailed("caa", "issue ;")
        order = await client.order("a.example.com")
        await client.prove(order)
        assert (await client.post(order.location)).json["error"]["type"].endswith(":caa")

    labs.run(scenario, web=CAA)


def test_caa_is_asked_again_for_an_authorization_of_long_ago(labs: Labs) -> None:
    # CA/B Forum BR section 4.2.2.1: relied on for eight hours at most.
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        await client.certificate("a.example.com")
        lab.clock.advance(8 * 3600 - 10)
        client.nonce = ""
        await client.certificate("a.example.com")
        assert len(lab.network.caa_asked) == 1
        lab.clock.advance(10)
        client.nonce = ""
        await client.certificate("a.example.com")
        assert len(lab.network.caa_asked) == 2
        assert lab.network.caa_asked[1]["method"] == "http-01"
        lab.network.caa_failure = ValidationFailed("caa", "no more")
        order = await client.order("a.example.com")
        answer = await client.finalize(order, make_csr(["a.example.com"]))
        assert (answer.status, answer.type) == (403, "caa")
        assert answer.json["subproblems"][0]["identifier"]["value"] == "a.example.com"
        assert (await client.post(order.location)).json["status"] == "ready"

    labs.run(scenario, web=CAA)


def test_caa_is_asked_for_names_that_were_vouched_for(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        credential = await lab.eab(names=("a.corp.example",), preauthorized=True)
        client = await lab.client().registered_by_eab(credential)
        await client.certificate("a.corp.example")
        (asked,) = lab.network.caa_asked
        assert (str(asked["identifier"]), asked["method"]) == ("dns:a.corp.example", "")

    labs.run(scenario, web=CAA)


def test_caa_is_not_asked_elsewhere(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        await client.certificate("a.example.com")
        assert lab.network.caa_asked == []

    labs.run(scenario)


def test_nothing_secret_is_in_events(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered_by_eab(credential := await lab.eab())
        order = await client.order("a.example.com")
        await client.prove(order)
        token = (await client.post(order.json["authorizations"][0])).json["challenges"][0]["token"]
        rows: list[Any] = await lab.store.read(lambda tx: tx.all("SELECT data FROM events"))
        text = " ".join(row[0] for row in rows)
        assert token not in text
        assert signing.b64(credential.mac_key) not in text

    labs.run(scenario)
