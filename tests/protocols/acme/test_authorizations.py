"""Authorizations (RFC 8555 sections 7.1.4, 7.4.1, 7.5 and 7.5.2)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from certloom.settings.schema import ACME, Settings
from tests.protocols.acme.lab import WEB, Client, Lab, Labs, make_csr

ALL = msgspec.structs.replace(
    WEB,
    challenges=("http-01", "dns-01", "tls-alpn-01", "dns-account-01", "dns-persist-01"),
    caa_identities=("ca.example", "ca2.example"),
)


async def types(client: Client, *names: str) -> list[list[str]]:
    order = await client.order(*names)
    found = []
    for url in order.json["authorizations"]:
        found.append([c["type"] for c in (await client.post(url)).json["challenges"]])
    return found


async def authorize(client: Client, name: str, type: str = "dns") -> Any:
    payload = {"identifier": {"type": type, "value": name}}
    return await client.post(client.url("new-authz"), payload)


def test_an_authorization_shows_identifier_and_challenges(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await client.order("a.example.com")
        (url,) = order.json["authorizations"]
        answer = await client.post(url)
        body = answer.json
        assert body["status"] == "pending"
        assert body["identifier"] == {"type": "dns", "value": "a.example.com"}
        assert body["expires"] == "2027-01-16T08:00:00Z"
        assert "wildcard" not in body
        assert answer.header("retry-after") is None
        tokens = {c["token"] for c in body["challenges"]}
        assert all(len(t) * 6 >= 128 and t.replace("-", "").replace("_", "").isalnum() for t in tokens)
        for challenge in body["challenges"]:
            # Shell clients cut objects out with sed: flat, in this order.
            assert list(challenge) == ["type", "url", "status", "token"]
            assert challenge["status"] == "pending"
            assert challenge["url"].startswith(client.url("chall/"))

    labs.run(scenario)


def test_a_wildcard_authorization_is_for_the_name_below_the_star(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await client.order("*.example.com", "example.com")
        wild, plain = [(await client.post(url)).json for url in order.json["authorizations"]]
        assert (wild["identifier"]["value"], wild["wildcard"]) == ("example.com", True)
        assert (plain["identifier"]["value"], plain.get("wildcard")) == ("example.com", None)

    labs.run(scenario)


def test_every_kind_of_name_is_offered_what_can_prove_it(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        plain, wild, v4, v6 = await types(
            client, "a.example.com", "*.example.com", "192.0.2.1", "2001:db8::1"
        )
        assert plain == ["http-01", "dns-01", "tls-alpn-01", "dns-account-01", "dns-persist-01"]
        assert wild == ["dns-01", "dns-account-01", "dns-persist-01"]
        assert v4 == v6 == ["http-01", "tls-alpn-01"]

    labs.run(scenario, web=ALL)


def test_dns_persist_challenges_name_the_issuers_and_have_no_token(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await client.order("a.example.com")
        challenges = (await client.post(order.json["authorizations"][0])).json["challenges"]
        persist = next(c for c in challenges if c["type"] == "dns-persist-01")
        assert list(persist) == ["type", "url", "status", "issuerDomainNames"]
        assert persist["issuerDomainNames"] == ["ca.example", "ca2.example"]

    labs.run(scenario, web=ALL)


def test_dns_persist_is_not_offered_without_an_issuer_domain(labs: Labs) -> None:
    channel = msgspec.structs.replace(ALL, caa_identities=())

    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        assert "dns-persist-01" not in (await types(client, "a.example.com"))[0]

    labs.run(scenario, web=channel)


def test_a_name_that_no_challenge_of_the_channel_can_prove_is_rejected(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        answer = await client.order("a.example.com", "*.example.com")
        assert (answer.status, answer.type) == (400, "rejectedIdentifier")
        assert answer.json["subproblems"][0]["identifier"]["value"] == "*.example.com"
        await lab.put_channel(msgspec.structs.replace(WEB, challenges=("dns-01",)))
        assert (await client.order("192.0.2.1")).type == "rejectedIdentifier"

    labs.run(scenario, web=msgspec.structs.replace(WEB, challenges=("http-01", "tls-alpn-01")))


def test_a_valid_authorization_serves_further_orders_of_its_account(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        first = await client.order("a.example.com", "*.a.example.com")
        await client.prove(first)
        second = await client.order("*.a.example.com", "a.example.com")
        assert second.json["status"] == "ready"
        assert sorted(second.json["authorizations"]) == sorted(first.json["authorizations"])
        done = await client.finalize(second, make_csr(["a.example.com", "*.a.example.com"]))
        assert done.json["status"] == "valid"
        # Not for another account, nor another name, nor the other of name and wildcard.
        other = await lab.client().registered()
        assert (await other.order("a.example.com")).json["status"] == "pending"
        assert (await client.order("b.a.example.com")).json["status"] == "pending"
        await client.prove(await client.order("w.example.com"))
        assert (await client.order("*.w.example.com")).json["status"] == "pending"
        # Nor beyond its time.
        lab.clock.advance(2_592_000)
        client.nonce = ""
        assert (await client.order("a.example.com")).json["status"] == "pending"

    labs.run(scenario)


def test_without_reuse_each_order_proves_its_own_names(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        done, _ = await client.certificate("a.example.com")
        second = await client.order("a.example.com")
        assert second.json["status"] == "pending"
        assert second.json["authorizations"] != done.json["authorizations"]

    labs.run(scenario, settings=Settings(acme=ACME(authorization_reuse=0)))


def test_a_proof_that_says_how_long_it_holds_is_relied_on_no_longer(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        lab.network.valid_until = lab.clock.now() + 7200
        order = await client.order("a.example.com")
        await client.prove(order)
        authorization = (await client.post(order.json["authorizations"][0])).json
        assert (authorization["status"], authorization["expires"]) == ("valid", "2027-01-15T10:00:00Z")

    labs.run(scenario)


def test_pending_authorizations_are_not_shared_between_orders(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        first, second = await client.order("a.example.com"), await client.order("a.example.com")
        assert first.json["authorizations"] != second.json["authorizations"]

    labs.run(scenario)


def test_deactivating_an_authorization_ends_it_and_its_order(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await client.order("a.example.com")
        (url,) = order.json["authorizations"]
        await client.prove(order)
        gone = await client.post(url, {"status": "deactivated"})
        assert (gone.status, gone.json["status"]) == (200, "deactivated")
        assert (await client.post(url, {"status": "deactivated"})).json["status"] == "deactivated"
        assert (await client.post(order.location)).json["status"] == "invalid"
        answer = await client.finalize(order, make_csr(["a.example.com"]))
        assert (answer.status, answer.type) == (403, "orderNotReady")
        assert (await client.order("a.example.com")).json["status"] == "pending"
        assert (await lab.events()).count("acme-authorization.deactivated") == 1

    labs.run(scenario)


@pytest.mark.parametrize("payload", [{}, {"status": "valid"}, {"status": "x"}, {"status": None}])
def test_nothing_else_can_be_done_to_an_authorization(labs: Labs, payload: dict[str, Any]) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await client.order("a.example.com")
        answer = await client.post(order.json["authorizations"][0], payload)
        assert (answer.status, answer.type) == (400, "malformed")

    labs.run(scenario)


def test_what_is_over_cannot_be_deactivated(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await client.order("a.example.com")
        lab.clock.advance(86_400)
        client.nonce = ""
        answer = await client.post(order.json["authorizations"][0], {"status": "deactivated"})
        assert (answer.status, answer.type) == (400, "malformed")

    labs.run(scenario)


def test_a_name_can_be_authorized_ahead_of_any_order(labs: Labs) -> None:
    # RFC 8555 section 7.4.1
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        made = await authorize(client, "A.example.com")
        assert (made.status, made.json["status"]) == (201, "pending")
        assert (await client.post(made.location)).json == made.json
        again = await authorize(client, "a.example.com")
        assert (again.status, again.location) == (200, made.location)
        assert (await client.order("a.example.com")).json["status"] == "pending"
        await client.post(made.json["challenges"][0]["url"], {})
        await lab.idle()
        valid = await authorize(client, "a.example.com")
        assert (valid.status, valid.json["status"], valid.location) == (200, "valid", made.location)
        order = await client.order("a.example.com")
        assert (order.json["status"], order.json["authorizations"]) == ("ready", [made.location])
        assert (await authorize(client, "192.0.2.1", "ip")).status == 201

    labs.run(scenario)


@pytest.mark.parametrize(
    ("type", "name", "problem"),
    [
        ("dns", "*.example.com", "malformed"),
        ("dns", "bad_name", "malformed"),
        ("email", "a@example.com", "unsupportedIdentifier"),
    ],
)
def test_what_cannot_be_authorized_ahead(labs: Labs, type: str, name: str, problem: str) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        answer = await authorize(client, name, type)
        assert (answer.status, answer.type) == (400, problem)
        payloads: tuple[Any, ...] = ({}, {"identifier": None}, {"identifier": []}, None)
        for payload in payloads:
            assert (await client.post(client.url("new-authz"), payload)).type == "malformed"
        assert await lab.count("acme_authorizations") == 0

    labs.run(scenario)
